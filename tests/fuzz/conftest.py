"""How Hypothesis runs here: no deadline on a shared machine, nothing kept on the disk."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ckptsync", deadline=None, max_examples=60, database=None)
settings.load_profile("ckptsync")
