"""A plain directory."""

from ckptsync.store.local.store import LocalStore

__all__ = ["LocalStore"]
