"""The runs of the integration tests, on each kind of store."""

from __future__ import annotations

from integration.conftest import gcs_environ, s3_environ, url

__all__ = ["gcs_environ", "s3_environ", "url"]
