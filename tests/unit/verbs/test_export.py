"""A snapshot as one archive."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError, StoreError
from ckptsync.events import Event
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Store, StoreWrapper, Tag
from ckptsync.verbs.export import export_archive
from ckptsync.verbs.save import Saved, save

Damage = Callable[[str], None]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to; nothing else is in its folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "it.tar"


def file_of(run: Run, path: str) -> FileEntry:
    manifest = run.catalog.latest()
    assert manifest is not None
    return next(entry for entry in manifest.files if entry.path == path)


def replace(run: Run, path: str, change: Callable[[bytearray], None]) -> None:
    """Change the object of a file behind our back."""
    key = file_of(run, path).key
    content = bytearray(run.store.read(key))
    change(content)
    run.store.put(key, bytes(content))


def flip_last(content: bytearray) -> None:
    content[-1] ^= 1


@pytest.mark.parametrize("packed", [False, True])
def test_it_unpacks_to_what_was_saved(
    run_with: Callable[..., Run],
    source: Path,
    out: Path,
    tmp_path: Path,
    content: Callable[[Path], dict[str, object]],
    packed: bool,  # noqa: FBT001
) -> None:
    run = run_with(compress="zstd" if packed else "none")
    (source / "zeros").write_bytes(bytes(3 * MIB))
    (source / ("long" * 60)).write_text("a name that needs a pax header")
    for path in (source / "sub", source / "model.bin"):
        os.utime(path, ns=(10**18, 10**18))
    save(run, source, step=7)
    assert (file_of(run, "zeros").packing is not None) == packed
    done = export_archive(run, out)
    assert (done.step, done.files, done.bytes, done.out) == (7, 6, out.stat().st_size, str(out))
    with tarfile.open(out) as tar:
        assert [one.name for one in tar if one.isfile()] == sorted(one.name for one in tar if one.isfile())
        assert all((one.uid, one.gid, one.uname, one.gname) == (0, 0, "", "") for one in tar)
        tar.extraction_filter = lambda member, _: member  # the argument is not there in Python 3.11.2
        tar.extractall(tmp_path / "there")  # noqa: S202  we have made it
    theirs, ours = content(tmp_path / "there"), content(source)
    assert theirs.keys() == ours.keys()
    for name, told in ours.items():
        if isinstance(told, tuple) and isinstance(told[0], bytes):
            assert theirs[name][:2] == told[:2], name  # type: ignore[index]
        elif told != ("folder", 0o700):  # the filter of Python's tarfile has its own mind about folders
            assert theirs[name] == told
    assert (tmp_path / "there/model.bin").stat().st_mtime == 10**9
    assert list(out.parent.iterdir()) == [out]


def test_packed_it_is_the_same_archive(run: Run, saved: Saved, out: Path) -> None:
    assert saved.files == 4
    export_archive(run, out)
    packed = out.with_name("it.tar.zst")
    export_archive(run, packed)
    with packed.open("rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file).read() == out.read_bytes()
    assert len(out.read_bytes()) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("name", ["it.tar", "it.tar.zst"])
def test_the_same_snapshot_gives_the_same_bytes_and_replaces_what_stands_there(
    run: Run, saved: Saved, out: Path, name: str
) -> None:
    first, second = out.with_name(name), out.with_name(f"other-{name}")
    second.write_text("in the way")
    export_archive(run, first, snapshot=saved.snapshot)
    export_archive(run, second, snapshot="7")
    assert first.read_bytes() == second.read_bytes()


def test_a_single_file_is_alone_in_it(run: Run, tmp_path: Path, out: Path) -> None:
    (tmp_path / "one").write_text("1")
    save(run, tmp_path / "one", step=1)
    export_archive(run, out)
    with tarfile.open(out) as tar:
        assert tar.getnames() == ["one"]


@pytest.mark.parametrize("name", ["it.tar", "it.tar.zst"])
def test_damage_leaves_nothing_and_what_stood_there_stays(run: Run, saved: Saved, out: Path, name: str) -> None:
    out = out.with_name(name)
    out.write_text("old")
    replace(run, "sub/optim.bin", flip_last)
    with pytest.raises(IntegrityError, match=r"sub/optim\.bin"):
        export_archive(run, out, snapshot=saved.snapshot)
    assert {path.name: path.read_text() for path in out.parent.iterdir()} == {name: "old"}


def test_the_next_older_snapshot_is_taken_when_the_newest_is_damaged(
    run: Run, saved: Saved, source: Path, out: Path, events: list[Event]
) -> None:
    (source / "config.json").write_text('{"new": 1}')
    save(run, source, step=8)
    replace(run, "config.json", flip_last)
    done = export_archive(run, out)
    assert (done.snapshot, done.steps_lost, len(done.skipped)) == (saved.snapshot, 1, 1)
    with tarfile.open(out) as tar:
        found = tar.extractfile("config.json")
        assert found is not None
        assert found.read() == b"{}"
    assert any(event.kind == "fell_back" for event in events)
    with pytest.raises(IntegrityError):
        export_archive(run, out, fallback=False)


def test_a_missing_object_is_damage_and_a_bucket_that_fails_is_not(
    run: Run, saved: Saved, out: Path, store: Any
) -> None:
    run.store.delete([file_of(run, "sub/optim.bin").key])
    with pytest.raises(IntegrityError, match=r"sub/optim\.bin is missing"):
        export_archive(run, out, snapshot=saved.snapshot)
    store.fail("get", StoreError("out of order"), after=3)
    with pytest.raises(StoreError, match="out of order"):
        export_archive(run, out, snapshot=saved.snapshot)
    assert not list(out.parent.iterdir())


def test_many_parts_and_files_stay_in_order(run_with: Callable[..., Run], tmp_path: Path, out: Path) -> None:
    run, folder = run_with(workers=3), tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}").write_bytes(os.urandom(number * 100))
    (folder / "large").write_bytes(os.urandom(9 * MIB + 5))
    save(run, folder, step=1)
    export_archive(run, out)
    with tarfile.open(out) as tar:
        for member in tar:
            found = tar.extractfile(member)
            assert found is not None
            assert found.read() == (folder / member.name).read_bytes(), member.name


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_parts_larger_than_a_buffer_go_through_in_pieces(
    run_with: Callable[..., Run], tmp_path: Path, out: Path, compress: str
) -> None:
    (tmp_path / "one").write_bytes(os.urandom(5 * MIB) + bytes(4 * MIB))
    larger, run = run_with(part_bytes=8 * MIB, compress=compress), run_with(part_bytes=MIB)
    save(larger, tmp_path / "one", step=1)
    for reading in (larger, run):
        export_archive(reading, out)
        with tarfile.open(out) as tar:
            found = tar.extractfile("one")
            assert found is not None
            assert found.read() == (tmp_path / "one").read_bytes()
        out.unlink()
    replace(run, "one", lambda content: content.__setitem__(7 * MIB if compress == "none" else -1, 1))
    with pytest.raises(IntegrityError):
        export_archive(run, out)
    assert not list(out.parent.iterdir())


class FlipsOnce(StoreWrapper):
    """Gives one answer wrong: that of a `get` of data from byte `at` on."""

    def __init__(self, inner: Store, at: int) -> None:
        super().__init__(inner)
        self.at: int | None = at

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        count = super().get(key, into, offset=offset, tag=tag)
        if key.startswith("data/") and offset == self.at:
            into[0] ^= 1
            self.at = None
        return count


def test_a_part_that_is_bad_once_is_fetched_again_unless_some_of_it_is_written(
    run_with: Callable[..., Run], store: Any, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "one").write_bytes(os.urandom(9 * MIB))
    save(run_with(part_bytes=8 * MIB), tmp_path / "one", step=1)
    good = out.with_name("good.tar")
    export_archive(run_with(part_bytes=8 * MIB), good)
    export_archive(run_with(part_bytes=8 * MIB, on=FlipsOnce(store, 0)), out)
    assert out.read_bytes() == good.read_bytes()
    out.unlink()
    with pytest.raises(IntegrityError, match="part 1 of one was bad when it was half written; try again"):
        export_archive(run_with(part_bytes=MIB, on=FlipsOnce(store, MIB)), out)
    assert list(out.parent.iterdir()) == [good]


def failing_at(number: int) -> Callable[[str, str], None]:
    """A hook that fails the request of this number, from 0."""
    numbers = count()

    def before(verb: str, key: str) -> None:
        if next(numbers) == number:
            raise StoreError("out of order", op=verb, key=key)

    return before


def test_whichever_request_fails_it_is_whole_or_not_there(run: Run, saved: Saved, out: Path, store: Any) -> None:
    assert saved
    export_archive(run, out)
    good, requests = out.read_bytes(), len(store.calls)
    assert requests > 10
    failed = 0
    for number in range(requests):
        store.heal()
        out.unlink(missing_ok=True)
        store.before = failing_at(number)
        try:
            export_archive(run, out)
            assert out.read_bytes() == good
        except StoreError:
            failed += 1
            assert not list(out.parent.iterdir())
    assert failed > requests / 2


def test_what_cannot_be_written_is_refused_before_anything_is_fetched(
    run: Run, saved: Saved, out: Path, store: Any
) -> None:
    assert saved
    for bad, reason in (
        (out.with_name("it.zip"), "names no archive"),
        (out.parent / "none" / "it.tar", "is no directory"),
        (out.parent / ".tar", ""),
    ):
        if reason:
            with pytest.raises(ConfigError, match=reason):
                export_archive(run, bad)
    out.mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        export_archive(run, out)
    gets = [key for verb, key in store.calls if verb == "get"]
    assert not [key for key in gets if key.startswith("data/")]


def test_where_there_is_nothing_it_says_so(run: Run, out: Path) -> None:
    with pytest.raises(NoSnapshotError):
        export_archive(run, out)
    assert layout.parse_snapshot_id("x") is None
    assert not list(out.parent.iterdir())


def test_entries_end_where_tar_wants_them(run: Run, tmp_path: Path, out: Path) -> None:
    """Read by hand: a header at each multiple of 512, and zeros behind the last."""
    (tmp_path / "one").write_bytes(b"x" * 513)
    save(run, tmp_path / "one", step=1)
    export_archive(run, out)
    archive = io.BytesIO(out.read_bytes())
    header = archive.read(512)
    assert header[:4] == b"one\0"
    assert header[257:263] == b"ustar\0"
    assert archive.read(1024) == b"x" * 513 + bytes(511)
    assert not any(archive.read())
