"""What changed between two snapshots."""

from __future__ import annotations

from ckptsync.snapshot.diff import diff
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest, Writer


def file(path: str, *parts: bytes, part_bytes: int = 4, mode: int = 0o644) -> FileEntry:
    size = sum(map(len, parts))
    digests = tuple(part_digest(part) for part in parts)
    return FileEntry(path=path, size=size, mode=mode, key=path, part_bytes=part_bytes, parts=digests)


def manifest(*entries: Entry, meta: dict[str, str] | None = None, **metrics: float | None) -> Manifest:
    return Manifest(
        snapshot="00000001-000000000001-abcdefgh",
        commit_id="",
        created="",
        entries=entries,
        metrics=metrics,
        meta=meta or {},
        writer=Writer(host="", pid=0),
    )


def test_each_path_is_sorted_under_what_became_of_it() -> None:
    before = manifest(
        file("same", b"aaaa"), file("gone", b"x"), file("edited", b"aaaa", b"bbbb"), DirectoryEntry(path="d")
    )
    after = manifest(
        file("same", b"aaaa"), file("new", b"yy"), file("edited", b"aaaa", b"cc"), DirectoryEntry(path="d", mode=0o700)
    )
    found = diff(before, after)
    assert (found.added, found.removed, found.changed) == (("new",), ("gone",), ("edited",))
    assert found.unchanged == ("d", "same")
    assert found.bytes_changed == 4


def test_modes_do_not_count_and_kinds_do() -> None:
    before = manifest(file("a", b"x", mode=0o600), LinkEntry(path="b", target="a"), LinkEntry(path="c", target="a"))
    after = manifest(file("a", b"x"), file("b", b"x"), LinkEntry(path="c", target="b"))
    assert diff(before, after).changed == ("b", "c")
    assert diff(before, after).unchanged == ("a",)


def test_another_part_size_counts_every_byte() -> None:
    before, after = manifest(file("a", b"aaaa")), manifest(file("a", b"aaaa", part_bytes=5))
    assert diff(before, after).bytes_changed == 4


def test_a_file_that_grew_counts_only_the_parts_behind() -> None:
    before, after = manifest(file("a", b"aaaa")), manifest(file("a", b"aaaa", b"b"))
    assert diff(before, after).bytes_changed == 1


def test_metrics_that_differ_or_are_new_are_shown() -> None:
    found = diff(manifest(loss=1.0, acc=0.5, old=None), manifest(loss=0.5, acc=0.5, fresh=2.0))
    assert found.metrics == {"loss": (1.0, 0.5), "fresh": (None, 2.0)}


def test_free_text_that_differs_is_shown() -> None:
    before, after = manifest(meta={"lr": "0.1", "seed": "1"}), manifest(meta={"lr": "0.2", "seed": "1", "note": ""})
    assert diff(before, after).meta == {"lr": ("0.1", "0.2"), "note": (None, "")}
