"""A strict Google Cloud Storage on loopback, for tests."""

from ckptsync.testing.gcs.server import GcsServer

__all__ = ["GcsServer"]
