"""Keys: the ones the specification shows, and every stranger that must not be taken for ours."""

from __future__ import annotations

import pytest

from ckptsync.errors import ConfigError, ManifestError
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import MAX_EPOCH, MAX_STEP, SnapshotId, new_snapshot_id, parse_snapshot_id

FIRST = SnapshotId(1, 100, "bfn2kz7q")
SECOND = SnapshotId(2, 200, "w0x9ddma")


def test_keys_are_those_of_the_specification() -> None:
    """The listing in docs/design/format.md, key by key."""
    assert layout.alias_key("best", 1) == "aliases/best/99999998.json"
    assert layout.data_key(FIRST, "optimizer/state.pt") == "data/00000001-000000000100-bfn2kz7q/optimizer/state.pt"
    assert layout.journal_key(SECOND) == "journals/99999997-999999999799-w0x9ddma/journal.json"
    assert layout.manifest_key(FIRST) == "manifests/99999998-999999999899-bfn2kz7q.json"
    assert layout.pin_key(FIRST) == "pins/00000001-000000000100-bfn2kz7q"
    assert layout.writer_key(2) == "writers/99999997.json"
    assert layout.adoption_key(FIRST, SECOND) == (
        "journals/99999998-999999999899-bfn2kz7q/adopted-by/00000002-000000000200-w0x9ddma"
    )
    assert layout.condemned_key(FIRST) == "journals/99999998-999999999899-bfn2kz7q/condemned"


def test_a_new_id_is_in_range_and_random() -> None:
    ids = {new_snapshot_id(MAX_EPOCH, MAX_STEP) for _ in range(20)}
    assert len(ids) == 20
    assert all(parse_snapshot_id(str(one)) == one for one in ids)


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (-1, 0), (MAX_EPOCH + 1, 0), (1, -1), (1, MAX_STEP + 1)])
def test_an_id_out_of_range_is_refused(epoch: int, step: int) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        new_snapshot_id(epoch, step)


def test_later_epochs_come_after_earlier_ones_whatever_their_steps() -> None:
    assert SnapshotId(4, 300, "aaaaaaaa") > SnapshotId(3, 900, "zzzzzzzz")
    assert layout.manifest_key(SnapshotId(4, 300, "zzzzzzzz")) < layout.manifest_key(SnapshotId(3, 900, "aaaaaaaa"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "7",
        "00000001-000000000100-bfn2kz7",
        "00000001-000000000100-BFN2KZ7Q",
        "00000000-000000000100-bfn2kz7q",
        "00000001-000000000100-bfn2kz7q\n",
        " 00000001-000000000100-bfn2kz7q",
        "1-100-bfn2kz7q",
        "٣٣٣٣٣٣٣٣-000000000100-bfn2kz7q",
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_snapshot_id(text) is None


@pytest.mark.parametrize(
    "key",
    [
        "manifests/README.md",
        "manifests/99999998-999999999899-bfn2kz7q",
        "manifests/99999998-999999999899-bfn2kz7q.json.bak",
        "manifests/99999999-999999999899-bfn2kz7q.json",
        "manifests/old/99999998-999999999899-bfn2kz7q.json",
        "manifests/٩9999998-999999999899-bfn2kz7q.json",
        "99999998-999999999899-bfn2kz7q.json",
        "data/99999998-999999999899-bfn2kz7q.json",
    ],
)
def test_foreign_manifest_keys_are_none(key: str) -> None:
    assert layout.snapshot_of_manifest_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "writers/99999999.json",
        "writers/9999998.json",
        "writers/99999998.txt",
        "writers/99999998",
        "99999998.json",
        "writers/x/99999998.json",
        "writers/٩9999998.json",
    ],
)
def test_foreign_writer_keys_are_none(key: str) -> None:
    assert layout.epoch_of_writer_key(key) is None


@pytest.mark.parametrize("key", ["aliases/best/99999999.json", "aliases/best/x.json", "aliases/best/99999998"])
def test_foreign_alias_keys_are_none(key: str) -> None:
    assert layout.version_of_alias_key(key) is None


def test_numbers_come_back_out_of_keys() -> None:
    assert layout.epoch_of_writer_key(layout.writer_key(7)) == 7
    assert layout.version_of_alias_key(layout.alias_key("best", 3)) == 3
    assert layout.journal_of_key(layout.journal_key(FIRST)) == (FIRST, None)
    assert layout.journal_of_key(layout.adoption_key(FIRST, SECOND)) == (FIRST, SECOND)


@pytest.mark.parametrize(
    "key",
    [
        layout.condemned_key(FIRST),
        "journals/notes.txt",
        "journals/99999998-999999999899-bfn2kz7q",
        "journals/99999998-999999999899-bfn2kz7q/adopted-by/somebody",
        "journals/99999998-999999999899-bfn2kz7q/00000002-000000000200-w0x9ddma",
        "99999998-999999999899-bfn2kz7q/journal.json",
    ],
)
def test_foreign_journal_keys_are_none(key: str) -> None:
    assert layout.journal_of_key(key) is None


@pytest.mark.parametrize("name", ["best", "v1.0", "a" * 100, "0day", "best-val_loss"])
def test_an_alias_may_be_any_plain_word(name: str) -> None:
    assert layout.alias_prefix(name) == f"aliases/{name}/"


@pytest.mark.parametrize(
    "name",
    ["", "latest", "12", "a/b", "..", ".hidden", "a b", "a" * 101, "best:loss:min", "a\n", "ä", str(FIRST)],
)
def test_an_alias_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an alias"):
        layout.alias_prefix(name)


def test_a_path_too_long_for_the_clouds_is_refused_in_bytes_not_letters() -> None:
    room = layout.MAX_KEY_BYTES - len(layout.data_prefix(FIRST))
    assert layout.data_key(FIRST, "a" * room).endswith("aaa")
    with pytest.raises(ConfigError, match="too long"):
        layout.data_key(FIRST, "a" * (room + 1))
    with pytest.raises(ConfigError, match="too long"):
        layout.data_key(FIRST, "ä" * (room // 2 + 1))


@pytest.mark.parametrize("path", ["a", "a/b", "...", "a..b", "-", " ", "a\nb", "ä/漢", "a\\..\\b", "C:"])
def test_plain_relative_paths_pass(path: str) -> None:
    assert layout.check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../x", "a/..", "a/../b", ".", "./a", "a/.", "a//b", "a/", "a\0b", "a/\0", "\udc80"],
)
def test_paths_that_could_leave_the_target_are_refused(path: str) -> None:
    with pytest.raises(ManifestError, match=r"unsafe path|not valid Unicode"):
        layout.check_path(path)


def test_an_alias_that_is_too_long_is_told_the_limit() -> None:
    assert layout.alias_prefix("a" * layout.MAX_ALIAS_LETTERS)
    with pytest.raises(ConfigError, match="use 1 to 100 letters"):
        layout.alias_prefix("a" * (layout.MAX_ALIAS_LETTERS + 1))
