from __future__ import annotations

import datetime as dt
import errno
import uuid
from typing import Any

import pytest

from ckptsync.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store.fsspec import FsspecStore
from ckptsync.store.fsspec.facts import describe, translate


@pytest.fixture
def store() -> FsspecStore:
    return FsspecStore(f"memory://{uuid.uuid4().hex}")


class SdkError(Exception):
    """What a package of somebody else's raises."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), NotFoundError),
        (NotADirectoryError("x"), NotFoundError),
        (FileExistsError("x"), ConflictError),
        (PermissionError("x"), DeniedError),
        (NotImplementedError("x"), UnsupportedError),
        (TimeoutError("x"), TransientError),
        (ConnectionResetError("x"), TransientError),
        (EOFError(), TransientError),
        (OSError(errno.EIO, "x"), TransientError),
        (OSError("without a number"), TransientError),
        (SdkError("x"), TransientError),
        (OSError(errno.ENOSPC, "x"), StoreError),
        (IsADirectoryError("x"), StoreError),
        (ValueError("x"), StoreError),
        (KeyError("x"), StoreError),
    ],
)
def test_errors_become_ours(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[StoreError]
) -> None:
    assert type(translate(error, op="get", key="a", url="x://y")) is kind

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(store._fs, "info", fail)
    with pytest.raises(kind) as caught:
        store.stat("a")
    assert caught.value.__cause__ is error
    assert (caught.value.op, caught.value.key) == ("stat", "a")


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "time_fields",
    [
        {"mtime": NOON.timestamp()},
        {"created": NOON},
        {"LastModified": NOON.replace(tzinfo=None)},
        {"updated": "2026-01-02T12:00:00.000Z"},
        {"mtime": None, "modified": "no time", "last_modified": NOON},
    ],
)
def test_times_of_any_kind_are_understood(time_fields: dict[str, Any]) -> None:
    found = describe("a", {"size": 3, **time_fields})
    assert found.modified_s == NOON.timestamp()
    assert found.tag


@pytest.mark.parametrize("field", ["ETag", "etag", "generation"])
def test_versions_of_the_service_come_first(field: str) -> None:
    assert describe("a", {"size": 3, "mtime": 5.0, field: '"v1"'}).tag == "v1"


def test_without_a_time_there_is_no_tag() -> None:
    found = describe("a", {"size": None})
    assert (found.size, found.tag, found.modified_s) == (0, "", 0.0)
