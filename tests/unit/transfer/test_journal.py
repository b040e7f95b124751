"""What this machine remembers of an upload."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ckptsync.events import Event, Kind
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import PartTag, Tag, Upload
from ckptsync.transfer.journal import Journal, Progress, journal_path, open_journal

ATTEMPT = SnapshotId(1, 7, "abcdefgh")
UPLOAD = Upload(key="data/x/a", id="u-1")
ENTRY = FileEntry(path="b", size=1, key="data/x/b", part_bytes=1, parts=(part_digest(b"x"),))


def tag(number: int, **hashes: str) -> PartTag:
    return PartTag(number=number, size=10, tag=Tag(f"t-{number}"), hashes=hashes)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "state" / "uploads" / "x.jsonl"


def write(location: Path, told: list[Event]) -> None:
    """A save that was killed: an upload of two parts, and a file that was finished."""
    with open_journal(location, observer=told.append) as journal:
        journal.attempt(ATTEMPT)
        journal.begun("a", UPLOAD, 10)
        journal.part("a", UPLOAD, "digest-1", tag(1, md5="m"))
        journal.part("a", UPLOAD, "digest-2", tag(2))
        journal.finished(ENTRY)


def test_the_next_save_knows_what_was_noted(location: Path, events: list[Event]) -> None:
    write(location, events)
    with open_journal(location, observer=events.append) as journal:
        assert journal.attempts == [ATTEMPT]
        assert journal.files["a"] == Progress(
            UPLOAD, 10, {1: ("digest-1", tag(1, md5="m")), 2: ("digest-2", tag(2))}, None
        )
        assert journal.files["b"] == Progress(entry=ENTRY)
    assert not events
    assert location.stat().st_mode & 0o777 == 0o600


def test_a_part_sent_again_counts_as_it_was_last(location: Path, events: list[Event]) -> None:
    write(location, events)
    with open_journal(location, observer=events.append) as journal:
        journal.part("a", UPLOAD, "other", tag(2, md5="new"))
    with open_journal(location, observer=events.append) as journal:
        assert journal.files["a"].parts[2] == ("other", tag(2, md5="new"))


def test_parts_of_another_upload_or_of_none_are_left_out(location: Path, events: list[Event]) -> None:
    write(location, events)
    with open_journal(location, observer=events.append) as journal:
        journal.part("a", Upload(key="data/x/a", id="u-0"), "late", tag(3))
        journal.part("unknown", UPLOAD, "late", tag(3))
        journal.part("b", UPLOAD, "late", tag(3))
    with open_journal(location, observer=events.append) as journal:
        assert sorted(journal.files["a"].parts) == [1, 2]
        assert "unknown" not in journal.files
        assert journal.files["b"] == Progress(entry=ENTRY)


def test_an_upload_begun_anew_forgets_the_parts_of_the_old_one(location: Path, events: list[Event]) -> None:
    write(location, events)
    with open_journal(location, observer=events.append) as journal:
        journal.begun("a", Upload(key="data/x/a", id="u-2"), 20)
    with open_journal(location, observer=events.append) as journal:
        assert journal.files["a"] == Progress(Upload(key="data/x/a", id="u-2"), 20)


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_dropped_and_written_over(location: Path, events: list[Event], cut: int) -> None:
    write(location, events)
    os.truncate(location, location.stat().st_size - cut)
    with open_journal(location, observer=events.append) as journal:
        assert sorted(journal.files) == ["a"]
        journal.finished(ENTRY)
    with open_journal(location, observer=events.append) as journal:
        assert sorted(journal.files) == ["a", "b"]


@pytest.mark.parametrize(
    "line", [b"\xff\n", b"{}\n", b'{"type":"of-the-future"}\n', b"\0" * 40, b"[" * 100_000 + b"\n"]
)
def test_from_a_strange_line_on_nothing_is_believed(location: Path, events: list[Event], line: bytes) -> None:
    write(location, events)
    lines = location.read_bytes().splitlines(keepends=True)
    location.write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    with open_journal(location, observer=events.append) as journal:
        assert sorted(journal.files["a"].parts) == [1]
    assert location.read_bytes() == b"".join(lines[:3])


def test_what_belongs_to_another_step_can_be_forgotten(location: Path, events: list[Event]) -> None:
    write(location, events)
    with open_journal(location, observer=events.append) as journal:
        journal.forget()
        assert (journal.attempts, journal.files) == ([], {})
        journal.attempt(SnapshotId(2, 8, "abcdefgh"))
    with open_journal(location, observer=events.append) as journal:
        assert journal.attempts == [SnapshotId(2, 8, "abcdefgh")]
        assert not journal.files


def test_once_everything_is_committed_the_file_is_gone(location: Path, events: list[Event]) -> None:
    with open_journal(location, observer=events.append) as journal:
        journal.attempt(ATTEMPT)
        journal.remove()
    assert not location.exists()


_HOLD = """
import sys
from pathlib import Path
from ckptsync.transfer.journal import open_journal
with open_journal(Path(sys.argv[1]), observer=print) as journal:
    print(len(journal.files), flush=True)
    sys.stdin.read()
"""


def test_a_journal_another_process_holds_is_left_to_it(location: Path, events: list[Event]) -> None:
    write(location, events)
    content = location.read_bytes()
    command = [sys.executable, "-c", _HOLD, str(location)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "2\n"
        with open_journal(location, observer=events.append) as journal:
            assert not journal.files
            journal.attempt(ATTEMPT)
            journal.forget()
            journal.remove()
        other.communicate("", timeout=30)
    assert [event.kind for event in events] == [Kind.NOTICE]
    assert "another save of it is under way" in events[0].message
    assert location.read_bytes() == content


def test_a_journal_removed_while_it_was_waited_for_is_not_used(
    location: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: location.unlink())
    with open_journal(location, observer=events.append) as journal:
        journal.attempt(ATTEMPT)
    assert "saving without a journal" in events[0].message
    assert not location.exists()


def test_a_state_directory_that_cannot_be_made_costs_only_the_journal(tmp_path: Path, events: list[Event]) -> None:
    (tmp_path / "file").touch()
    with open_journal(tmp_path / "file" / "uploads" / "x.jsonl", observer=events.append) as journal:
        journal.attempt(ATTEMPT)
        journal.finished(ENTRY)
        journal.forget()
        journal.remove()
    assert [event.kind for event in events] == [Kind.NOTICE]
    assert "Not a directory" in events[0].message


def test_a_journal_that_cannot_be_read_is_not_used(
    location: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(location, events)

    def failing(_: Path, __: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", failing)
    with open_journal(location, observer=events.append) as journal:
        assert not journal.files
    assert "Input/output error" in events[0].message


def test_a_full_disk_does_not_stop_an_upload(
    location: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with open_journal(location, observer=events.append) as journal:
        journal.attempt(ATTEMPT)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            journal.finished(ENTRY)
        journal.finished(ENTRY)
        journal.remove()
    assert not location.exists()


def test_a_half_written_line_is_the_last_one(
    location: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up takes half a line: what would follow it on the same line must not be lost with it."""
    write_all = os.write
    with open_journal(location, observer=events.append) as journal:
        journal.attempt(ATTEMPT)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, line: write_all(descriptor, line[:5]))
            journal.begun("a", UPLOAD, 10)
        journal.finished(ENTRY)
    lines = location.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    assert len(lines[1]) == 5


def test_late_threads_write_into_nobodys_file(location: Path, events: list[Event], tmp_path: Path) -> None:
    """After Ctrl-C threads may still be at work, when the number of the descriptor means another file already."""
    with open_journal(location, observer=events.append) as journal:
        pass
    with (tmp_path / "precious").open("wb") as precious:
        numbers = [os.dup(precious.fileno()) for _ in range(8)]
        try:
            journal.finished(ENTRY)
        finally:
            for number in numbers:
                os.close(number)
    assert (tmp_path / "precious").read_bytes() == b""


def test_many_threads_write_whole_lines(location: Path, events: list[Event]) -> None:
    with open_journal(location, observer=events.append) as journal:
        journal.begun("a", UPLOAD, 10)

        def work(first: int, journal: Journal = journal) -> None:
            for number in range(first, first + 50):
                journal.part("a", UPLOAD, "d" * number, tag(number))

        threads = [threading.Thread(target=work, args=(1 + 50 * index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with open_journal(location, observer=events.append) as journal:
        assert len(journal.files["a"].parts) == 200


def test_each_source_and_run_has_its_own() -> None:
    state = Path("/state")
    paths = {journal_path(state, run, Path(source)) for run in ("s3://b/1", "s3://b/2") for source in ("/a", "/b")}
    assert len(paths) == 4
    assert journal_path(state, "s3://b/1", Path("/a")).parent == state / "uploads"
    assert journal_path(state, "r", Path("x")) == journal_path(state, "r", Path("x").absolute())
    assert journal_path(state, "r", Path(os.fsdecode(b"\xff"))).suffix == ".jsonl"
