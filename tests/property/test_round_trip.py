"""Whatever the tree, and whenever it was killed: what comes back is what went in, and nothing is sent twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from ckptsync.errors import ConfigError
from ckptsync.events import Event
from ckptsync.options import MIB, Config, Transfer
from ckptsync.run import Run, run_on
from ckptsync.snapshot.manifest import Provenance
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.transfer.journal import journal_path, open_journal
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

_PART = MIB
_PARTS = 5
_NAMES = st.sampled_from(["a", "b.bin", "ä", " ", "-x", "c d", ".hidden", "*", "[a]", "latest", "a\nb"])
_LEAVES = st.one_of(
    st.binary(max_size=40).map(lambda data: ("file", data)),
    st.sampled_from([".", "a", "b.bin/..", "../a", "../../etc", "/etc"]).map(lambda target: ("link", target)),
)
_TREES = st.recursive(_LEAVES, lambda inner: st.dictionaries(_NAMES, inner, max_size=4), max_leaves=8).filter(
    lambda tree: isinstance(tree, dict)
)


class KilledError(BaseException):
    """As SIGKILL."""


class Killing(StoreWrapper):
    """Lets so many requests with payload through, then ends everything."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.left = -1
        self.sent: list[int] = []

    def _count(self) -> None:
        if self.left == 0:
            raise KilledError
        self.left -= 1

    def put_part(self, upload: Upload, number: int, data: Any) -> PartTag:
        self._count()
        self.sent.append(number)
        return super().put_part(upload, number, data)

    def get(self, key: str, into: memoryview, **options: Any) -> int:
        if key.startswith("data/"):
            self._count()
        return super().get(key, into, **options)


def _ignore(event: Event) -> None:
    del event


@contextmanager
def _opened(workers: int = 3) -> Iterator[tuple[Run, Killing, Path]]:
    """A run on an empty bucket, and a folder to work in."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("ckptsync.verbs.sending.provenance", return_value=Provenance()),
        mock.patch("os.fsync"),
    ):
        store = Killing(MemoryStore())
        config = Config(transfer=Transfer(part_bytes=_PART, workers=workers), state_dir=f"{folder}/state")
        yield run_on(store, config, observer=_ignore, clock=FakeClock()), store, Path(folder).resolve()


def _build(folder: Path, tree: dict[str, Any]) -> None:
    folder.mkdir()
    for name, what in tree.items():
        if isinstance(what, dict):
            _build(folder / name, what)
        elif what[0] == "file":
            (folder / name).write_bytes(what[1])
        else:
            (folder / name).symlink_to(what[1])


def _content(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.is_dir() or path.read_bytes()
    return found


@settings(max_examples=20)
@given(_TREES, _TREES)
def test_any_tree_comes_back_or_is_refused_untouched(one: dict[str, Any], other: dict[str, Any]) -> None:
    with _opened() as (run, store, folder):
        for step, tree in enumerate((one, other)):
            source = folder / str(step)
            _build(source, tree)
            before = [found.key for found in store.list("")]
            try:
                save(run, source, step=step)
            except ConfigError:  # a link that leaves the tree
                assert [found.key for found in store.list("")] == before
                continue
            restore(run, folder / "target")
            assert _content(folder / "target") == _content(source)
            assert not [path for path in folder.iterdir() if "before-restore" in path.name]


@settings(max_examples=15)
@given(
    kills=st.lists(st.integers(0, _PARTS), max_size=3),
    losses=st.lists(st.booleans(), min_size=3, max_size=3),
    changes=st.lists(st.sets(st.integers(1, _PARTS), max_size=2), min_size=3, max_size=3),
)
def test_killed_again_and_again_no_unchanged_part_is_sent_twice(
    kills: list[int], losses: list[bool], changes: list[set[int]]
) -> None:
    with _opened(workers=1) as (run, store, folder):
        source = folder / "model.bin"
        content = bytearray(b"".join(bytes([number]) * _PART for number in range(_PARTS)))
        source.write_bytes(content)
        held: set[int] = set()  # parts the bucket has as they are on the disk
        for after, lost, changed in zip(kills, losses, changes, strict=False):
            store.left, store.sent = after, []
            try:
                save(run, source, step=7)
            except KilledError:
                pass
            else:
                break
            held |= set(store.sent)
            assert len(store.sent) == after
            for number in changed:
                content[(number - 1) * _PART] ^= 255
            source.write_bytes(content)
            held -= changed
            if lost:
                journal_path(run.config.state_path(), run.url, source).unlink(missing_ok=True)
        store.left, store.sent = -1, []
        save(run, source, step=7)
        assert set(store.sent) <= set(range(1, _PARTS + 1)) - held
        restore(run, folder / "target")
        assert (folder / "target").read_bytes() == bytes(content)


@settings(max_examples=12)
@given(st.lists(st.integers(0, _PARTS), max_size=3))
def test_a_restore_killed_again_and_again_fetches_each_part_once(kills: list[int]) -> None:
    with _opened(workers=1) as (run, store, folder):
        source = folder / "model.bin"
        source.write_bytes(b"".join(bytes([number]) * _PART for number in range(_PARTS)))
        save(run, source, step=7)
        fetched = 0
        for after in kills:
            store.left = after
            try:
                fetched += restore(run, folder / "target").parts_sent
                break
            except KilledError:
                fetched += after
        store.left = -1
        fetched += restore(run, folder / "target").parts_sent
        assert fetched == _PARTS
        assert (folder / "target").read_bytes() == source.read_bytes()


@given(st.lists(st.binary(max_size=20) | st.just(b'{"type":"attempt","snapshot":"x"}\n'), max_size=5))
def test_no_journal_on_the_disk_makes_a_save_fail(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = Path(folder) / "x.jsonl"
        location.write_bytes(b"".join(lines))
        with open_journal(location, observer=_ignore) as journal:
            assert journal.attempts == []
            assert journal.files == {}
