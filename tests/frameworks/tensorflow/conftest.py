"""The servers of the integration tests. Without the framework there is nothing to collect here."""

from __future__ import annotations

from importlib.util import find_spec

from integration.conftest import gcs_environ, s3_environ, url

__all__ = ["gcs_environ", "s3_environ", "url"]

collect_ignore_glob = [] if find_spec("tensorflow") else ["test_*.py"]
