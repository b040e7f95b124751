from __future__ import annotations

import random

import msgspec
import pytest

from ckptsync.errors import IncompleteError, ManifestError
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import DirectoryEntry, FileEntry, LinkEntry, Writer
from ckptsync.snapshot.report import Report, commit_id_of, decode_report, encode_report, merged, same_work

SNAPSHOT = SnapshotId(3, 7, "abcdefgh")


def entry(path: str, digest: str = "0", *, key: str | None = None, mtime_ns: int = 0) -> FileEntry:
    return FileEntry(
        path=path,
        size=5,
        key=key or f"data/{SNAPSHOT}/{path}",
        part_bytes=8,
        parts=(digest * 64,),
        mtime_ns=mtime_ns,
    )


def report(rank: int, *entries: FileEntry | LinkEntry | DirectoryEntry, world: int = 2) -> Report:
    return Report(
        snapshot=str(SNAPSHOT),
        rank=rank,
        world=world,
        writer=Writer(host=f"h{rank}", pid=rank),
        created="2026-11-24T00:00:00Z",
        entries=entries,
    )


def test_a_report_comes_back_as_it_was() -> None:
    one = report(1, entry("a"), LinkEntry(path="l", target="a"), DirectoryEntry(path="d"))
    assert decode_report(encode_report(one), SNAPSHOT, 1, 2) == one


@pytest.mark.parametrize("wrong", [(SnapshotId(3, 8, "abcdefgh"), 1, 2), (SNAPSHOT, 0, 2), (SNAPSHOT, 1, 3)])
def test_a_report_under_another_key_is_refused(wrong: tuple[SnapshotId, int, int]) -> None:
    with pytest.raises(ManifestError, match="another report stands under the key"):
        decode_report(encode_report(report(1, entry("a"))), *wrong)


@pytest.mark.parametrize(
    "bad",
    [
        entry("a", key="data/00000009-000000000007-abcdefgh/a"),
        entry("a", key="elsewhere/a"),
        entry("../a", key=f"data/{SNAPSHOT}/a"),
        entry("/a", key=f"data/{SNAPSHOT}/a"),
    ],
)
def test_a_report_that_names_what_is_not_its_own_is_refused(bad: FileEntry) -> None:
    with pytest.raises(ManifestError):
        decode_report(encode_report(report(1, bad)), SNAPSHOT, 1, 2)


def test_every_damaged_byte_is_noticed() -> None:
    good = encode_report(report(1, entry("a")))
    dice = random.Random(3)
    for _ in range(200):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        with pytest.raises(ManifestError):
            decode_report(bytes(bad), SNAPSHOT, 1, 2)


def test_reports_merge_into_one_sorted_tree_in_which_replicas_stand_once() -> None:
    first = report(0, entry("shared", mtime_ns=1), entry("z"), DirectoryEntry(path="d"))
    second = report(1, entry("shared", mtime_ns=2), entry("b"), DirectoryEntry(path="d", mode=0o700))
    tree = merged([second, first])
    assert [one.path for one in tree] == ["b", "d", "shared", "z"]
    assert next(one for one in tree if one.path == "shared") == entry("shared", mtime_ns=1)


@pytest.mark.parametrize(
    "other",
    [
        entry("x", "1"),
        LinkEntry(path="x", target="y"),
        DirectoryEntry(path="x"),
        FileEntry(path="x", size=5, key=f"data/{SNAPSHOT}/x", part_bytes=4, parts=("0" * 64, "0" * 64)),
    ],
)
def test_two_things_under_one_name_are_refused(other: FileEntry | LinkEntry | DirectoryEntry) -> None:
    with pytest.raises(IncompleteError, match="x differs between rank 0 and rank 1"):
        merged([report(0, entry("x")), report(1, other)])


def test_whoever_commits_makes_the_same_commit_id() -> None:
    reports = [report(0, entry("a")), report(1, entry("b"))]
    assert commit_id_of(reports) == commit_id_of(reports[::-1])
    assert commit_id_of(reports) != commit_id_of([reports[0], report(1, entry("c"))])
    assert len(commit_id_of(reports)) == 32


def test_the_same_work_at_another_time_is_the_same() -> None:
    one = report(0, entry("a", mtime_ns=1))
    assert same_work(one, msgspec.structs.replace(one, created="later", entries=(entry("a", mtime_ns=2),)))
    assert not same_work(one, report(0, entry("a", "1")))


def test_all_ranks_of_a_launch_find_the_same_id_and_others_another() -> None:
    shared = layout.shared_snapshot_id
    assert shared(3, 7, "job") == shared(3, 7, "job")
    assert len({shared(3, 7, "job"), shared(3, 8, "job"), shared(3, 7, "job2"), shared(4, 7, "job")}) == 4
    assert layout.parse_snapshot_id(str(shared(3, 7, "job"))) == shared(3, 7, "job")
    assert str(shared(1, 100, "job-4711-start-1")) == "00000001-000000000100-8whm60n6"  # the format's own example


def test_keys_of_reports_are_read_back() -> None:
    assert layout.report_of_key(layout.report_key(SNAPSHOT, 3, 8)) == (SNAPSHOT, 3, 8)
    assert layout.attempt_of_report_folder(layout.report_key(SNAPSHOT, 3, 8)) == SNAPSHOT
    assert layout.attempt_of_report_folder(layout.committer_key(SNAPSHOT)) == SNAPSHOT
    for foreign in (
        "ranks/x",
        "ranks/99999996-999999999992-abcdefgh/x",
        "ranks/99999996-999999999992-abcdefgh/00001.json",
    ):
        assert layout.report_of_key(foreign) is None
        assert layout.attempt_of_report_folder(foreign) is None
