"""Many small files, moved by several processes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tree import fingerprint

from ckptsync.config import resolve
from ckptsync.errors import SourceChangedError
from ckptsync.events import Event, Kind
from ckptsync.options import Config, Gcs
from ckptsync.run import Run, open_run
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer import helpers
from ckptsync.transfer.pipe import Done, Failed, Fetch, Job, Setup, write
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

FILES = 240
BYTES = 3000


@pytest.fixture(params=["s3", "gs"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run in a bucket; only buckets have helpers."""
    environ = request.getfixturevalue(f"{'s3' if request.param == 's3' else 'gcs'}_environ")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    return f"{request.param}://checkpoints/{tmp_path.name}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(FILES):
        file = folder / f"folder-{number % 3}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(BYTES + number))
    (folder / "empty").touch()
    (folder / "large").write_bytes(os.urandom(3 << 20))
    return folder


class Ear:
    """What helpers report. This process begins only when one has, or when all have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reports: list[Any] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.begun = threading.Event()
        kind, own = helpers.Helpers, helpers.Helpers.own
        drive, started, heard = kind._drive, kind._started, kind._heard

        def later(one: helpers.Helpers) -> Iterator[Job]:
            assert self.begun.wait(60)
            return own(one)

        def driven(one: helpers.Helpers) -> None:
            drive(one)
            self.begun.set()

        def noted(one: helpers.Helpers) -> subprocess.Popen[bytes]:
            self.processes.append(started(one))
            return self.processes[-1]

        def listened(one: helpers.Helpers, report: Any, waiting: dict[str, Job]) -> None:
            heard(one, report, waiting)
            self.reports.append(report)
            self.begun.set()

        monkeypatch.setattr(helpers, "_FILES_EACH", 60)
        for name, method in {"own": later, "_drive": driven, "_started": noted, "_heard": listened}.items():
            monkeypatch.setattr(kind, name, method)

    def of(self, kind: type) -> list[Any]:
        """Reports of a kind."""
        return [report for report in self.reports if isinstance(report, kind)]


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    return Ear(monkeypatch)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def run(url: str, events: list[Event]) -> Iterator[Run]:
    with open_run(url, resolve({"transfer": {"processes": 3}}), observer=events.append) as opened:
        yield opened


def count(events: list[Event], kind: Kind) -> int:
    return sum(event.kind == kind for event in events)


def test_they_do_a_share_and_it_shows_nowhere(
    run: Run, source: Path, tmp_path: Path, ear: Ear, events: list[Event]
) -> None:
    total = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    saved = save(run, source, step=1)
    assert len(ear.processes) == 2
    assert ear.of(Done)
    assert not ear.of(Failed)
    assert (saved.files, saved.bytes_sent, saved.parts_sent) == (FILES + 2, total, FILES + 1)
    assert count(events, Kind.FILE_DONE) == FILES + 2
    assert sum(event.bytes for event in events if event.kind == Kind.SENT) == total
    before = len(ear.of(Done))
    restored = restore(run, tmp_path / "back")
    assert len(ear.of(Done)) > before
    assert restored.bytes_sent == total
    assert fingerprint(tmp_path / "back") == fingerprint(source)
    assert all(process.returncode == 0 for process in ear.processes)


def test_what_did_not_change_is_copied_by_them_too(run: Run, source: Path, ear: Ear) -> None:
    save(run, source, step=1)
    (source / "folder-0" / "0.bin").write_bytes(b"new")
    before = len(ear.of(Done))
    assert save(run, source, step=2).bytes_sent == 3
    assert len(ear.of(Done)) > before


def test_when_one_is_killed_its_files_are_moved_all_the_same(
    run: Run, source: Path, tmp_path: Path, ear: Ear, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = helpers.Helpers._heard

    def deadly(one: helpers.Helpers, report: Any, waiting: dict[str, Job]) -> None:
        for process in ear.processes:
            process.kill()
        heard(one, report, waiting)

    monkeypatch.setattr(helpers.Helpers, "_heard", deadly)
    save(run, source, step=1)
    assert any("helper process ended early" in event.message for event in events)
    restore(run, tmp_path / "back")
    assert fingerprint(tmp_path / "back") == fingerprint(source)


def test_where_none_can_be_started_this_process_does_it(
    run: Run, source: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert save(run, source, step=1).files == FILES + 2
    assert not ear.processes


def test_what_they_cannot_do_fails_here_and_names_the_file(
    run: Run, source: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = helpers.Helpers._started
    last = source / "large.bin"

    def meddle(one: helpers.Helpers) -> subprocess.Popen[bytes]:
        last.write_bytes(b"other")
        return started(one)

    last.write_bytes(b"as scanned")
    monkeypatch.setattr(helpers.Helpers, "_started", meddle)
    with pytest.raises(SourceChangedError, match=r"large\.bin"):
        save(run, source, step=1)
    assert run.catalog.latest() is None
    assert ear.of(Failed)
    for process in ear.processes:
        assert process.wait(30) is not None


def test_a_cap_on_the_rate_or_a_number_of_workers_leaves_it_to_one(url: str) -> None:
    for transfer in ({"processes": 3, "max_bytes_per_s": 1 << 30}, {"workers": 8}, {"processes": 1}):
        with open_run(url, resolve({"transfer": transfer})) as opened:
            assert opened.processes == 1


def test_they_end_when_their_parent_does(url: str, source: Path) -> None:
    script = (
        "import sys, pathlib; from ckptsync.config import resolve; from ckptsync.run import open_run;"
        "from ckptsync.transfer import helpers; from ckptsync.verbs.save import save; helpers._FILES_EACH = 60\n"
        "def heard(*_):\n print(*(p.pid for p in made), flush=True); input()\n"
        "made = []; started = helpers.Helpers._started\n"
        "def noted(one):\n made.append(started(one)); return made[-1]\n"
        "helpers.Helpers._heard = heard; helpers.Helpers._started = noted\n"
        "with open_run(sys.argv[1], resolve({'transfer': {'processes': 2}})) as run: save(run, pathlib.Path(sys.argv[2]), step=1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, url, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    parent.kill()
    parent.communicate()
    for pid in pids:
        _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is nobody's child here."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 30)[0], f"process {pid} outlives its parent"
    finally:
        os.close(descriptor)


def test_one_whose_parent_dies_does_not_finish_its_last_files(tmp_path: Path) -> None:
    """The list is at its end, but the service takes its time."""
    entry = FileEntry(path="a", size=1, key="data/a", part_bytes=1, parts=("0" * 64,))
    command = [sys.executable, "-P", "-m", "ckptsync.transfer.helper"]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        gcs = Gcs(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}", anonymous=True)
        setup = Setup(url="gs://bucket/run", config=Config(gcs=gcs), folder=os.fsencode(tmp_path))
        try:
            for batch in (setup, [Fetch(entry)], []):
                write(process.stdin, batch)
            with silent.accept()[0]:
                process.stdin.close()
                process.wait(20)
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SourceChangedError])
def test_behind_a_failure_none_is_left_and_nothing_more_is_told(
    run: Run,
    source: Path,
    ear: Ear,
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
) -> None:
    own = helpers.Helpers.own

    def interrupted(one: helpers.Helpers) -> Iterator[Job]:
        yield next(own(one))
        raise kind

    monkeypatch.setattr(helpers.Helpers, "own", interrupted)
    with pytest.raises(kind):
        save(run, source, step=1)
    assert ear.processes
    assert all(process.returncode is not None for process in ear.processes)
    assert not any("helper" in thread.name for thread in threading.enumerate())
    assert not any("helper" in event.message for event in events)


def test_what_an_observer_raises_at_their_reports_is_not_taken_for_their_end(
    url: str, source: Path, ear: Ear, events: list[Event]
) -> None:
    held: list[int] = []

    def observe(event: Event) -> None:
        events.append(event)
        if "helper" in threading.current_thread().name:
            assert ear.processes[0].stdin is not None
            held.append(os.dup(ear.processes[0].stdin.fileno()))  # as a process does that was forked meanwhile
            raise BrokenPipeError("nobody reads what is told")

    with (
        open_run(url, resolve({"transfer": {"processes": 2}}), observer=observe) as run,
        pytest.raises(BrokenPipeError, match="nobody reads"),
    ):
        save(run, source, step=1)
    assert held
    assert not any("ended early" in event.message for event in events)
    for descriptor in held:
        os.close(descriptor)
