"""Asserts of the shipped suite show their values."""

import pytest

pytest.register_assert_rewrite(
    "ckptsync.testing.conformance.suite", "ckptsync.testing.conformance.copies", "ckptsync.testing.conformance.uploads"
)
