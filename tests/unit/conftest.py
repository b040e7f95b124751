"""A bucket one can listen to and break, and a run on it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.rights import without_override

from ckptsync import saver
from ckptsync.events import Event, Kind
from ckptsync.manager import CheckpointManager
from ckptsync.options import MIB, Config, Transfer
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import Manifest, Provenance
from ckptsync.store.base import Store, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Killed
from ckptsync.verbs.save import Saved, save

T = TypeVar("T")
Hook = Callable[[str, str], None]


def _nothing(verb: str, key: str) -> None:
    del verb, key


class Watched(StoreWrapper):
    """Notes every call; `before` and `after` are told verb and key, and may raise.

    What `after` raises is a lost answer: the call took effect.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.calls: list[tuple[str, str]] = []
        self.before: Hook = _nothing
        self.after: Hook = _nothing

    def count(self) -> Counter[str]:
        """Calls by verb."""
        return Counter(verb for verb, _ in self.calls)

    def heal(self) -> None:
        """Forget calls and hooks."""
        self.calls, self.before, self.after = [], _nothing, _nothing

    def fail(self, verb: str, error: BaseException | type[BaseException] = Killed, *, after: int = 0) -> None:
        """Let `verb` raise once it was called `after` times; the calls that raise have no effect."""
        left = [after]

        def before(called: str, key: str) -> None:
            del key
            if called == verb:
                left[0] -= 1
                if left[0] < 0:
                    raise error

        self.before = before

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        self.calls.append((verb, key))
        self.before(verb, key)
        result = request()
        self.after(verb, key)
        return result


@pytest.fixture
def plain_rights() -> Iterator[None]:
    """Let permission bits count, also for root."""
    with without_override():
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Watched:
    """An empty bucket in memory, watched."""
    return Watched(MemoryStore(clock=clock))


@pytest.fixture
def events() -> list[Event]:
    """What the run's observer was told."""
    return []


@pytest.fixture
def run_with(
    store: Watched, events: list[Event], clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Open a run on the bucket, with parts of 1 MiB; other options and another store by keyword."""
    monkeypatch.setattr("ckptsync.verbs.sending.provenance", lambda *_: Provenance())  # asking git takes long
    monkeypatch.setattr(os, "fsync", lambda _: None)  # so does the disk; its own tests are in transfer/

    def make(*, on: Store | None = None, single_writer: bool = False, **transfer: Any) -> Run:
        options = Transfer(**({"part_bytes": MIB, "workers": 4} | transfer))
        config = Config(transfer=options, state_dir=str(tmp_path / "state"), single_writer=single_writer)
        return run_on(on or store, config, observer=events.append, clock=clock)

    return make


@pytest.fixture
def run(run_with: Callable[..., Run]) -> Run:
    """A run on the bucket."""
    return run_with()


@pytest.fixture
def limited(store: Watched) -> Callable[..., StoreWrapper]:
    """Make the bucket seem to have other traits."""

    def make(**traits: Any) -> StoreWrapper:
        wrapper = StoreWrapper(store)
        wrapper.traits = replace(store.traits, **traits)
        return wrapper

    return make


@pytest.fixture
def killed() -> type[Killed]:
    """What a hook raises to end a call as SIGKILL would."""
    return Killed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint: a large file of 6 parts, two small ones, an empty one, links and an empty folder."""
    source = tmp_path / "checkpoint"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "model.bin").write_bytes(os.urandom(5 * MIB + 7))
    (source / "sub" / "optim.bin").write_bytes(os.urandom(1000))
    (source / "config.json").write_bytes(b"{}")
    (source / "sub" / "nothing").touch()
    (source / "latest").symlink_to("model.bin")
    (source / "sub" / "up").symlink_to("..")
    (source / "sub" / "empty").chmod(0o700)
    (source / "config.json").chmod(0o600)
    return source


@pytest.fixture
def saved(run: Run, source: Path, store: Watched, events: list[Event]) -> Saved:
    """The checkpoint, committed at step 7."""
    result = save(run, source, step=7)
    store.heal()
    events.clear()
    return result


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to restore; nothing is there."""
    return tmp_path / "parent" / "ckpt"


@pytest.fixture
def change_part(source: Path) -> Callable[[int], None]:
    """Write into one part of the large file."""

    def change(number: int) -> None:
        with (source / "model.bin").open("r+b") as file:
            file.seek((number - 1) * MIB)
            file.write(os.urandom(64))

    return change


@pytest.fixture
def check(source: Path) -> Callable[[Run, Saved], Manifest]:
    """Make sure that the newest snapshot is this one and holds what is on the disk."""

    def compare(run: Run, saved: Saved) -> Manifest:
        snapshot = layout.parse_snapshot_id(saved.snapshot)
        assert snapshot is not None
        manifest = run.catalog.get(snapshot)
        assert manifest == run.catalog.latest()
        for entry in manifest.files:
            assert run.store.read(entry.key) == (source / entry.path).read_bytes(), entry.path
        return manifest

    return compare


@pytest.fixture
def content() -> Callable[[Path], dict[str, object]]:
    """Tell everything below a folder that a snapshot keeps."""

    def tell(folder: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                found[name] = ("link", str(path.readlink()))
            elif path.is_dir():
                found[name] = ("folder", path.stat().st_mode & 0o777)
            else:
                found[name] = (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_mtime_ns)
        return found

    return tell


@pytest.fixture
def told() -> list[Event]:
    """What a manager's observer was told that a person should read."""
    return []


@pytest.fixture
def make(tmp_path: Path, told: list[Event]) -> Iterator[Callable[..., CheckpointManager]]:
    """Managers of one run in a directory."""
    made: list[CheckpointManager] = []

    def observer(event: Event) -> None:
        if event.kind in {Kind.NOTICE, Kind.FELL_BACK}:
            told.append(event)

    def call(**options: Any) -> CheckpointManager:
        config = Config(state_dir=str(tmp_path / "state"))
        made.append(CheckpointManager(tmp_path / "run", config=config, observer=observer, **options))
        return made[-1]

    yield call
    for one in made:
        one._saver.join(30)
        one._saver.take_failure()
        one.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Saves straight to the bucket wait for this."""
    go_on, plain = threading.Event(), saver.save

    def waiting(*args: Any, **options: Any) -> Any:
        go_on.wait(30)
        return plain(*args, **options)

    monkeypatch.setattr(saver, "save", waiting)
    return go_on
