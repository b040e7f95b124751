"""Amazon S3 and services that speak its protocol."""

from ckptsync.store.s3.store import S3Store

__all__ = ["S3Store"]
