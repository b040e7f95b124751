"""Runs on loopback servers, as the integration tests have them."""

from __future__ import annotations

from importlib.util import find_spec

from integration.conftest import gcs_environ, s3_environ, url

__all__ = ["gcs_environ", "s3_environ", "url"]

collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]  # `make test-framework-transformers` has it
