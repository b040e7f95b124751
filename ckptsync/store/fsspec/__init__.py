"""Whatever fsspec reaches."""

from ckptsync.store.fsspec.store import FsspecStore

__all__ = ["FsspecStore"]
