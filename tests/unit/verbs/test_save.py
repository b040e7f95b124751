"""Save: committed or nothing, and never two things mixed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync.catalog import Catalog
from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DiskError,
    FencedError,
    NotFoundError,
    SourceChangedError,
    TransientError,
    UnsupportedError,
)
from ckptsync.events import Event, Kind
from ckptsync.names import find
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import decode_attempt
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import DirectoryEntry, FileEntry, LinkEntry, Manifest
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.testing.clock import FakeClock
from ckptsync.transfer.source import Identity
from ckptsync.verbs import sending as save_module
from ckptsync.verbs.save import Saved, save

Check = Callable[[Run, Saved], Manifest]

SIZE = 5 * MIB + 7  # of the large file, as the fixture makes it
PARTS = 6


def test_what_is_saved_is_committed_with_its_facts(run: Run, source: Path, store: Any, check: Check) -> None:
    (source / "config.json").chmod(0o600)
    saved = save(run, source, step=7, metrics={"loss": 0.5, "bad": math.nan}, meta={"note": "x"}, fingerprint="f")
    manifest = check(run, saved)
    assert (saved.step, saved.epoch, saved.files, saved.committed) == (7, 1, 4, True)
    assert (saved.bytes, saved.bytes_sent, saved.bytes_reused) == (SIZE + 1002, SIZE + 1002, 0)
    assert saved.parts_sent == PARTS + 2
    assert [(type(entry), entry.path) for entry in manifest.entries] == [
        (FileEntry, "config.json"),
        (LinkEntry, "latest"),
        (FileEntry, "model.bin"),
        (DirectoryEntry, "sub"),
        (DirectoryEntry, "sub/empty"),
        (FileEntry, "sub/nothing"),
        (FileEntry, "sub/optim.bin"),
        (LinkEntry, "sub/up"),
    ]
    assert manifest.files[0].mode == 0o600
    assert (manifest.metrics, manifest.meta, manifest.parent) == ({"loss": 0.5, "bad": None}, {"note": "x"}, "")
    assert manifest.cost.bytes_sent == saved.bytes_sent
    assert not any((run.config.state_path() / "uploads").iterdir())
    attempt = decode_attempt(store.read(layout.journal_key(manifest.id)), manifest.id)
    assert attempt.keys == {entry.key for entry in manifest.files}


def test_a_single_file_and_an_empty_folder(run: Run, source: Path, tmp_path: Path) -> None:
    manifest = run.catalog.get(SnapshotId(*_parts(save(run, source / "config.json", step=1).snapshot)))
    assert (manifest.kind, [entry.path for entry in manifest.entries]) == ("file", ["config.json"])
    (tmp_path / "void").mkdir()
    manifest = run.catalog.get(SnapshotId(*_parts(save(run, tmp_path / "void", step=2).snapshot)))
    assert (manifest.kind, manifest.entries) == ("directory", ())


def _parts(snapshot: str) -> tuple[int, int, str]:
    epoch, step, nonce = snapshot.split("-")
    return int(epoch), int(step), nonce


def test_each_save_takes_the_next_epoch_and_names_its_parent(run: Run, source: Path, check: Check) -> None:
    first = save(run, source, step=7)
    second = save(run, source, step=3)
    manifest = check(run, second)
    assert (manifest.id.epoch, manifest.parent) == (2, first.snapshot)


def test_an_unchanged_checkpoint_is_copied(run: Run, source: Path, check: Check) -> None:
    save(run, source, step=7)
    saved = save(run, source, step=8)
    check(run, saved)
    assert (saved.bytes_sent, saved.parts_sent, saved.bytes_reused) == (0, 0, SIZE + 1002)


def test_only_changed_parts_are_sent(run: Run, source: Path, check: Check, change_part: Callable[[int], None]) -> None:
    save(run, source, step=7)
    change_part(3)
    saved = save(run, source, step=8)
    manifest = check(run, saved)
    assert (saved.bytes_sent, saved.parts_sent) == (MIB, 1)
    assert (manifest.cost.bytes_sent, manifest.cost.bytes_reused) == (MIB, saved.bytes - MIB)


def test_every_step_of_a_save_is_told(run: Run, source: Path, events: list[Event]) -> None:
    saved = save(run, source, step=7)
    kinds = [event.kind for event in events]
    assert kinds[0] == Kind.PLANNED
    assert kinds[-1] == Kind.COMMITTED
    assert (events[0].bytes, events[0].count) == (saved.bytes, 4)
    assert sum(event.bytes for event in events if event.kind == Kind.SENT) == saved.bytes_sent
    assert sorted(event.path for event in events if event.kind == Kind.FILE_DONE) == [
        "config.json",
        "model.bin",
        "sub/nothing",
        "sub/optim.bin",
    ]


# -- what must not be committed -------------------------------------------------------------------------------------------


@pytest.mark.req(11)
@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_change_during_the_upload_is_not_committed(
    run: Run, store: Any, source: Path, clock: FakeClock, seconds: float
) -> None:
    """Same size, and the modification time put back: the change time tells."""
    clock.advance(seconds)

    def change(verb: str, _: str) -> None:
        if verb == "finish":
            found = (source / "model.bin").stat()
            (source / "model.bin").write_bytes(b"y" * SIZE)
            os.utime(source / "model.bin", ns=(found.st_atime_ns, found.st_mtime_ns))

    store.after = change
    with pytest.raises(SourceChangedError):
        save(run, source, step=7)
    assert run.catalog.latest() is None


@pytest.mark.req(11)
def test_a_change_too_quick_for_the_kernels_clock_is_not_committed(
    run: Run, store: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, within one tick: no time tells, so what was young at the first look is read once more."""
    monkeypatch.setattr(
        Identity,
        "of",
        classmethod(lambda cls, found: cls(found.st_dev, found.st_ino, found.st_size, 2**62, 2**62)),
    )

    def change(verb: str, _: str) -> None:
        if verb == "finish":
            (source / "model.bin").write_bytes(b"y" * SIZE)

    store.after = change
    with pytest.raises(SourceChangedError, match=r"model\.bin changed"):
        save(run, source, step=7)
    assert run.catalog.latest() is None


@pytest.mark.req(11)
@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "new").touch(),
        lambda source: (source / "config.json").unlink(),
        lambda source: os.truncate(source / "config.json", 1),
    ],
)
def test_files_added_removed_or_cut_during_the_upload_are_noticed(
    run: Run, store: Any, source: Path, change: Callable[[Path], None]
) -> None:
    store.after = lambda verb, _: change(source) if verb == "finish" else None
    with pytest.raises(SourceChangedError):
        save(run, source, step=7)
    assert run.catalog.latest() is None


@pytest.mark.parametrize(
    ("error", "raised"),
    [(FileNotFoundError(2, "No such file"), SourceChangedError), (OSError(5, "Input/output error"), DiskError)],
)
def test_a_file_that_cannot_be_read_once_more_is_not_committed(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, raised: type[Exception]
) -> None:
    def failing(*_: object) -> bool:
        raise error

    monkeypatch.setattr(save_module, "same_content", failing)
    with pytest.raises(raised):
        save(run, source, step=7)
    assert run.catalog.latest() is None


@pytest.mark.req(26)
def test_after_a_newer_claim_nothing_is_committed(run: Run, store: Any, source: Path) -> None:
    def claim(verb: str, _: str) -> None:
        if verb == "finish":
            Catalog(store.inner).claims.claim()

    store.after = claim
    with pytest.raises(FencedError):
        save(run, source, step=7)
    assert run.catalog.latest() is None


@pytest.mark.req(20)
def test_a_manifest_put_whose_answer_was_lost_is_settled(run: Run, store: Any, source: Path, check: Check) -> None:
    """Without retries the error is shown, and saving again is safe."""

    def lose(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("manifests/"):
            store.after = lambda *_: None
            raise TransientError("connection reset")

    store.after = lose
    with pytest.raises(TransientError):
        save(run, source, step=7)
    saved = save(run, source, step=7)
    check(run, saved)
    assert saved.bytes_sent == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"step": -1}, "step -1 is out of range"),
        ({"step": 10**12}, "out of range"),
        ({"metrics": {"a:b": 1.0}}, "metric name"),
        ({"metrics": {"a": "low"}}, "metric 'a' is 'low'"),
        ({"meta": {"lr": 0.1}}, "must be text"),
        ({"meta": {"a": "\udc80"}}, "must be text"),
        ({"fingerprint": "\udc80"}, "fingerprint"),
        ({"alias": "a/b"}, "cannot be an alias"),
        ({"alias": "latest"}, "cannot be an alias"),
    ],
)
def test_bad_arguments_are_refused_before_the_bucket_is_touched(
    run: Run, store: Any, source: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        save(run, source, **({"step": 7} | options))
    assert not store.calls


def test_bad_sources_are_refused_before_the_bucket_is_touched(run: Run, store: Any, source: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        save(run, source / "absent", step=7)
    deep = source
    for _ in range(4):
        deep /= "d" * 250
        deep.mkdir()
    (deep / "x").touch()
    with pytest.raises(ConfigError, match="too long"):
        save(run, source, step=7)
    assert not store.calls


def test_a_file_the_store_cannot_hold_is_refused_before_the_bucket_is_touched(
    run_with: Callable[..., Run], store: Any, source: Path, limited: Callable[..., StoreWrapper]
) -> None:
    with pytest.raises(ConfigError, match=r"model\.bin has .* more than this store takes"):
        save(run_with(on=limited(max_parts=2, max_part_bytes=2 * MIB)), source, step=7)
    assert not store.calls


def test_a_store_without_conditions_needs_a_vow(
    run_with: Callable[..., Run], source: Path, limited: Callable[..., StoreWrapper], check: Check
) -> None:
    plain = limited(conditional_put=False)
    with pytest.raises(UnsupportedError):
        save(run_with(on=plain), source, step=7)
    run = run_with(on=plain, single_writer=True)
    check(run, save(run, source, step=7))


# -- aliases and stores of other kinds ------------------------------------------------------------------------------------


def test_an_alias_stands_for_what_was_saved_with_it(run: Run, source: Path) -> None:
    save(run, source, step=7, alias="prod")
    saved = save(run, source, step=8, alias="prod")
    assert str(find(run.catalog, "prod")) == saved.snapshot


def test_an_alias_somebody_else_set_meanwhile_does_not_undo_the_commit(run: Run, store: Any, source: Path) -> None:
    def be_faster(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("aliases/"):
            raise ConflictError("taken")

    store.before = be_faster
    with pytest.raises(ConflictError):
        save(run, source, step=7, alias="prod")
    assert run.catalog.latest() is not None


@pytest.mark.req(26)
def test_two_saves_at_once_commit_one_and_fence_the_other(
    run_with: Callable[..., Run], store: Any, source: Path, tmp_path: Path, check: Check
) -> None:
    """The second begins while the first sends its third part, and continues its upload."""
    run, other = run_with(workers=1), run_with(workers=1)
    results: list[Saved] = []

    def begin_second(verb: str, _: str) -> None:
        if verb == "put_part" and store.count()["put_part"] == 3:
            store.before = lambda *_: None
            results.append(save(other, source, step=7))

    store.before = begin_second
    with pytest.raises((FencedError, NotFoundError)):
        save(run, source, step=7)
    check(run, results[0])
    assert tmp_path.exists()


@pytest.mark.req(26, 29)
def test_a_zombie_that_sends_into_an_upload_we_finish_is_found_out(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    store.fail("put_part", killed, after=2)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    (upload,) = store.inner.uploads("")

    def meddle(verb: str, _: str) -> None:
        if verb == "finish":
            store.before = lambda *_: None
            sent: PartTag = store.inner.put_part(Upload(key=upload.key, id=upload.id), 1, b"z" * MIB)
            assert sent.number == 1

    store.before = meddle
    check(run, save(run, source, step=7))
