"""A run that requires signatures: nothing of an unsigned or altered manifest is used by any verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.keys import key_pair

from ckptsync import names
from ckptsync.errors import ConfigError, FencedError, IntegrityError, ManifestError, NoSnapshotError, TransientError
from ckptsync.events import Event, Kind
from ckptsync.options import MIB, Config, Signing, Transfer
from ckptsync.policy import LatestN
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import encode
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.adopt import adopt
from ckptsync.verbs.doctor import diagnose
from ckptsync.verbs.gc import collect
from ckptsync.verbs.listing import compare, rows, show
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.verify import verify

Open = Callable[..., Run]


@pytest.fixture
def opened(run: Run, store: Any, events: list[Event], clock: FakeClock, tmp_path: Path) -> Open:
    """Open the run with keys: `key` signs, `require` asks for signatures, each by the name of a pair."""
    del run  # its patches
    pairs = {name: key_pair(tmp_path, name) for name in ("mine", "theirs")}

    def make(key: str | None = None, *require: str) -> Run:
        signing = Signing(
            key=str(pairs[key][0]) if key else None, require=tuple(str(pairs[name][1]) for name in require)
        )
        transfer = Transfer(part_bytes=5 * MIB, workers=4)
        config = Config(signing=signing, transfer=transfer, state_dir=str(tmp_path / "state"))
        return run_on(store, config, observer=events.append, clock=clock)

    return make


@pytest.fixture
def strict(opened: Open) -> Run:
    """Signs and asks for its own signature."""
    return opened("mine", "mine")


def signed_then_not(opened: Open, source: Path) -> tuple[Saved, Saved]:
    """A good snapshot, and a newer one that a stranger committed."""
    good = save(opened("mine", "mine"), source, step=1)
    (source / "config.json").write_bytes(b"changed by a stranger")
    return good, save(opened(), source, step=2)


def test_a_signed_snapshot_comes_back(strict: Run, opened: Open, source: Path, target: Path, content: Any) -> None:
    saved = save(strict, source, step=1)
    assert restore(strict, target).snapshot == saved.snapshot
    assert content(target) == content(source)
    assert restore(opened(), target).snapshot == saved.snapshot
    assert restore(opened(None, "theirs", "mine"), target).snapshot == saved.snapshot
    assert not verify(strict).bad


def test_a_restore_falls_back_to_the_newest_signed_one(
    opened: Open, strict: Run, source: Path, target: Path, events: list[Event]
) -> None:
    good, bad = signed_then_not(opened, source)
    restored = restore(strict, target)
    assert restored.snapshot == good.snapshot
    assert [skipped.snapshot for skipped in restored.skipped] == [bad.snapshot]
    assert "is not signed" in restored.skipped[0].reason
    assert restored.steps_lost == 1
    assert (target / "config.json").read_bytes() == b"{}"
    assert any(event.kind is Kind.FELL_BACK and "is not signed" in event.message for event in events)


def test_asked_for_by_name_it_is_refused(opened: Open, strict: Run, source: Path, target: Path) -> None:
    _, bad = signed_then_not(opened, source)
    for name in (bad.snapshot, "2"):
        with pytest.raises(ManifestError, match="is not signed"):
            restore(strict, target, snapshot=name)
    assert not target.exists()
    names.promote(opened().catalog, layout.parse_snapshot_id(bad.snapshot), "named")  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="is not signed"):
        restore(strict, target, snapshot="named")


def test_when_none_is_good_nothing_is_restored(opened: Open, strict: Run, source: Path, target: Path) -> None:
    save(opened(), source, step=1)
    save(opened("theirs"), source, step=2)
    with pytest.raises(IntegrityError, match="none of 2 snapshots"):
        restore(strict, target)
    assert not target.exists()
    with pytest.raises(ManifestError):
        names.find(strict.catalog, "latest")
    assert strict.catalog.latest() is None
    assert list(strict.catalog.history()) == []


def test_no_object_of_an_unsigned_snapshot_is_asked_for(
    opened: Open, strict: Run, source: Path, target: Path, store: Any
) -> None:
    bad = save(opened(), source, step=1)
    store.heal()
    with pytest.raises(IntegrityError):
        restore(strict, target)
    with pytest.raises(IntegrityError):
        verify(strict)
    with pytest.raises(IntegrityError):
        verify(strict, bad.snapshot)
    assert not any(key.startswith(layout.DATA) for _, key in store.calls)


def test_every_way_of_reading_refuses_it(opened: Open, strict: Run, source: Path) -> None:
    good, bad = signed_then_not(opened, source)
    with pytest.raises(ManifestError, match="is not signed"):
        show(strict, bad.snapshot)
    with pytest.raises(ManifestError, match="is not signed"):
        compare(strict, good.snapshot, bad.snapshot)
    assert names.find(strict.catalog, "latest") == layout.parse_snapshot_id(good.snapshot)
    assert [manifest.snapshot for manifest in strict.catalog.history()] == [good.snapshot]
    with pytest.raises(NoSnapshotError):
        names.find(strict.catalog, "best:loss:min")
    listed = {row.snapshot: row for row in rows(strict)}
    assert (listed[good.snapshot].state, listed[good.snapshot].problem) == ("committed", "")
    assert listed[bad.snapshot].state == "quarantined"
    assert "is not signed" in listed[bad.snapshot].problem


def test_gc_leaves_what_is_not_signed(opened: Open, strict: Run, source: Path, store: Any) -> None:
    """Nobody's retention may delete what it cannot read; and the newest signed one stays whatever stands above it."""
    good, bad = signed_then_not(opened, source)
    collected = collect(strict, LatestN(1), grace_s=0, dry_run=False)
    assert collected.removed == ()
    assert set(collected.kept) == {good.snapshot, bad.snapshot}
    assert collected.objects_deleted == 0
    assert collected.foreign == ()
    assert not verify(strict, good.snapshot).bad
    assert not verify(opened(), bad.snapshot).bad
    assert any(
        found.key.startswith(layout.data_prefix(layout.parse_snapshot_id(bad.snapshot))) for found in store.list("")
    )  # type: ignore[arg-type]


def test_an_unsigned_snapshot_can_be_removed_by_name(opened: Open, strict: Run, source: Path, target: Path) -> None:
    good, bad = signed_then_not(opened, source)
    remove(strict, bad.snapshot)
    assert restore(strict, target).skipped == ()
    assert restore(strict, target).snapshot == good.snapshot


def test_a_save_takes_no_part_from_an_unsigned_snapshot(opened: Open, strict: Run, source: Path) -> None:
    save(opened(), source, step=1)
    saved = save(strict, source, step=2)
    assert saved.bytes_reused == 0
    manifest = strict.catalog.get(layout.parse_snapshot_id(saved.snapshot))  # type: ignore[arg-type]
    assert manifest.parent == ""
    assert save(strict, source, step=3).bytes_reused > 0


def test_what_could_not_be_read_back_is_not_saved(opened: Open, source: Path, store: Any) -> None:
    for run in (opened(None, "mine"), opened("theirs", "mine")):
        with pytest.raises(ConfigError, match="nobody could restore what is saved"):
            save(run, source, step=1)
        with pytest.raises(ConfigError, match="nobody could restore what is saved"):
            adopt(run, "exported", step=1)
    assert store.count()["put"] == 0


def test_adopted_objects_are_signed_too(strict: Run, store: Any, target: Path) -> None:
    store.put("exported/model", b"weights")
    adopted = adopt(strict, "exported", step=1)
    assert restore(strict, target).snapshot == adopted.snapshot


def test_a_lost_answer_to_a_signed_commit_is_ours(strict: Run, source: Path, store: Any) -> None:
    from ckptsync.options import Retry  # noqa: PLC0415
    from ckptsync.store.retry import Retrying  # noqa: PLC0415

    lost = [0]

    def lose_once(verb: str, key: str) -> None:
        if verb == "put" and key.startswith(layout.MANIFESTS) and not lost[0]:
            lost[0] += 1
            raise TransientError("connection reset", op="put")

    store.after = lose_once
    retrying = Retrying(store, Retry(), clock=strict.clock, observer=lambda _: None)
    saved = save(run_on(retrying, strict.config, clock=strict.clock), source, step=1)
    assert lost == [1]
    assert show(strict, saved.snapshot).snapshot == saved.snapshot


def test_an_unsigned_manifest_under_our_key_means_that_we_are_fenced(strict: Run, source: Path, store: Any) -> None:
    """A stranger who copies our commit id does not make us believe that the commit was ours."""

    def forge(verb: str, key: str) -> None:
        if verb == "put" and key.startswith(layout.MANIFESTS):
            store.heal()
            snapshot = layout.snapshot_of_manifest_key(key)
            assert snapshot is not None
            forged = msgspec.structs.replace(base, snapshot=str(snapshot))
            store.inner.put(key, encode(forged))

    save(strict, source, step=1)
    base = strict.catalog.latest()
    assert base is not None
    store.before = forge
    with pytest.raises(FencedError):
        save(strict, source, step=2)


def test_a_signed_manifest_under_another_runs_key_of_the_same_id_needs_its_data(
    strict: Run, source: Path, target: Path, store: Any
) -> None:
    """An altered object of a signed snapshot is found by its digest, which the signature covers."""
    saved = save(strict, source, step=1)
    manifest = strict.catalog.get(layout.parse_snapshot_id(saved.snapshot))  # type: ignore[arg-type]
    small = next(file for file in manifest.files if file.path == "config.json")
    store.put(small.key, b"[]")
    with pytest.raises(IntegrityError):
        restore(strict, target, snapshot=saved.snapshot)
    parts = msgspec.json.decode(store.read(layout.manifest_key(manifest.id)))
    entry = next(entry for entry in parts["manifest"]["entries"] if entry["path"] == "config.json")
    entry["parts"] = [part_digest(b"[]")]
    body = msgspec.json.encode(parts["manifest"], order="sorted")
    forged = parts | {"manifest": msgspec.Raw(body), "blake3": part_digest(body)}
    store.put(layout.manifest_key(manifest.id), msgspec.json.encode(forged, order="sorted"))
    with pytest.raises(ManifestError, match="was altered"):
        restore(strict, target, snapshot=saved.snapshot)
    assert not target.exists()


def test_doctor_tells_whether_signing_is_on(opened: Open) -> None:
    def told(run: Run) -> tuple[str, str]:
        (check,) = [check for check in diagnose(run) if check.name == "signing"]
        return check.state, check.detail

    assert told(opened()) == ("ok", "off: nothing is signed here, and signatures are not looked at")
    assert told(opened("mine"))[1].startswith("on: what this machine commits is signed by ")
    assert told(opened("mine", "mine"))[0] == "ok"
    assert told(opened(None, "mine"))[0] == "warn"
    assert "can restore and not save" in told(opened(None, "mine"))[1]
