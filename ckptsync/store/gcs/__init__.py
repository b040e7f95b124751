"""Google Cloud Storage."""

from ckptsync.store.gcs.store import GcsStore

__all__ = ["GcsStore"]
