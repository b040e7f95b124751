"""Asserts of the shipped suite show their values."""

import pytest

pytest.register_assert_rewrite(
    "ckptsync.testing.conformance", "ckptsync.testing.conformance_copies", "ckptsync.testing.conformance_uploads"
)
