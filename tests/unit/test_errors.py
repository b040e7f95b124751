"""The error tree: what it says, and the exit codes scripts branch on."""

from __future__ import annotations

import pickle

import pytest

from ckptsync import errors
from ckptsync.errors import CkptsyncError, NotFoundError, StoreError, TransientError, naming


@pytest.mark.req(3)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("CkptsyncError", 1),
        ("ConfigError", 2),
        ("StoreError", 3),
        ("TransientError", 3),
        ("NotFoundError", 3),
        ("ConflictError", 3),
        ("DeniedError", 3),
        ("CredentialsError", 3),
        ("UnsupportedError", 3),
        ("IntegrityError", 4),
        ("ManifestError", 4),
        ("VersionError", 4),
        ("FencedError", 5),
        ("NoSnapshotError", 6),
        ("IncompleteError", 7),
        ("SourceChangedError", 7),
        ("DiskError", 8),
        ("NotDurableError", 75),
    ],
)
def test_exit_codes_are_an_interface(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, CkptsyncError)
    assert kind.exit_code == code


def test_every_error_is_in_the_table_above() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CkptsyncError)}
    assert len(kinds) == 18
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.NotFoundError, FileNotFoundError),
        (errors.DeniedError, PermissionError),
        (errors.DiskError, OSError),
    ],
)
def test_they_can_be_caught_as_python_knows_them(ours: type[CkptsyncError], builtin: type[Exception]) -> None:
    assert issubclass(ours, builtin)


@pytest.mark.req(3)
def test_a_store_error_says_what_a_support_desk_asks_for() -> None:
    error = StoreError("it failed", op="put_part", key="data/a", attempts=3, request_id="r-1")
    assert str(error) == "it failed (during put_part, key 'data/a', 3 attempts, request r-1)"
    assert str(StoreError("it failed")) == "it failed"
    assert str(NotFoundError("no such object", op="get", key="a")) == "no such object (during get, key 'a')"


@pytest.mark.req(10)
def test_a_store_error_names_rank_file_and_part_of_the_innermost_block() -> None:
    error = StoreError("it failed", op="put_part", key="data/a", attempts=10, request_id="ABC")
    outer, inner = naming("a", part=12, parts=12), naming("model.bin", part=3, parts=12)
    with pytest.raises(StoreError), naming(rank=4), outer, inner:
        raise error
    assert str(error) == (
        "it failed (during put_part, rank 4, file model.bin, part 3 of 12, key 'data/a', 10 attempts, request ABC)"
    )
    assert (error.path, error.part, error.parts, error.rank) == ("model.bin", 3, 12, 4)
    whole = StoreError("it failed", op="finish")
    with pytest.raises(StoreError), naming("other", part=1, parts=2), naming("model.bin"):
        raise whole
    assert str(whole) == "it failed (during finish, file model.bin)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  our own bytes


def test_facts_survive_another_process() -> None:
    """Data loaders and launchers hand errors on by pickle."""
    sent = TransientError("slow down", op="get", key="a", throttled=True, retry_after_s=2.0, received=7)
    got = pickle.loads(pickle.dumps(sent))  # noqa: S301  our own bytes
    assert (str(got), got.throttled, got.retry_after_s, got.received) == (str(sent), True, 2.0, 7)
    lost = pickle.loads(pickle.dumps(NotFoundError("gone", op="get", key="a")))  # noqa: S301  our own bytes
    assert (str(lost), lost.key) == ("gone (during get, key 'a')", "a")
