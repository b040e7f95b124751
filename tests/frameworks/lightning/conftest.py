"""The runs of the integration tests, on each kind of store; without Lightning there is nothing to test."""

from __future__ import annotations

from importlib.util import find_spec

from integration.conftest import gcs_environ, s3_environ, url

__all__ = ["gcs_environ", "s3_environ", "url"]

collect_ignore_glob = [] if find_spec("lightning") else ["test_*.py"]
