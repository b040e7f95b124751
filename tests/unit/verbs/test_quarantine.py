"""A snapshot that was found bad: who passes it over, who takes it all the same, and how it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptsync import names
from ckptsync.errors import ConfigError, DeniedError, IntegrityError, ManifestError, NoSnapshotError
from ckptsync.events import Kind
from ckptsync.policy import BestN, EveryNSteps, LatestN
from ckptsync.snapshot import layout
from ckptsync.snapshot.quarantine import MAX_BAD, MAX_QUARANTINE_BYTES, decode_quarantine
from ckptsync.verbs.gc import collect
from ckptsync.verbs.listing import rows
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.status import status
from ckptsync.verbs.verify import verify

FILES = {"a": b"1234", "b/c": b"56"}


def damage(run: Any, snapshot: Any, path: str = "a") -> bytes:
    """Flip a bit of a file; its content before."""
    key = layout.data_key(snapshot, path)
    content: bytes = run.store.read(key)
    run.store.put(key, bytes([content[0] ^ 1, *content[1:]]))
    return content


def set_aside(run: Any, *snapshots: Any) -> None:
    for snapshot in snapshots:
        run.store.put(layout.quarantine_key(snapshot), b"{}")


def gc(run: Any, keep: Any = None) -> Any:
    return collect(run, keep, grace_s=0, dry_run=False)


def kept_steps(found: Any) -> list[int]:
    return [int(one.split("-")[1]) for one in found.kept]


class TestVerify:
    """It sets aside, and it releases."""

    def test_what_is_bad_is_set_aside_with_the_reason(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1, {f"f{n:02d}": b"x%d" % n for n in range(MAX_BAD + 5)})
        for n in range(MAX_BAD + 3):
            damage(run, snapshot, f"f{n:02d}")
        assert verify(run).quarantined
        record = decode_quarantine(run.store.read(layout.quarantine_key(snapshot)), snapshot)
        assert record.reason.startswith("f00 part 1: part 1 of 1 of f00 is not what was committed")
        assert record.reason.endswith("and 22 more")
        assert (len(record.bad), record.bad_count) == (MAX_BAD, MAX_BAD + 3)

    def test_found_good_in_full_it_is_trusted_again_and_after_a_sample_it_is_not(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1, {f"f{n:02d}": b"x%d" % n for n in range(20)})
        content = damage(run, snapshot, "f00")
        assert verify(run).quarantined
        run.store.put(layout.data_key(snapshot, "f00"), content)
        assert verify(run, percent=99).quarantined
        assert run.catalog.quarantined() == {snapshot}
        assert not verify(run).quarantined
        assert run.catalog.quarantined() == set()

    def test_asked_not_to_it_changes_nothing(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1, FILES)
        content = damage(run, snapshot)
        assert not verify(run, quarantine=False).quarantined
        assert verify(run).quarantined
        run.store.put(layout.data_key(snapshot, "a"), content)
        assert verify(run, quarantine=False).quarantined

    def test_who_may_not_write_is_told_and_gets_the_findings(
        self, run: Any, make: Any, store: Any, events: Any
    ) -> None:
        snapshot = make.snapshot(1, FILES)
        damage(run, snapshot)

        def denied(verb: str, key: str) -> None:
            if verb in {"put", "delete"} and key.startswith(layout.QUARANTINE):
                raise DeniedError("no such right", op=verb, key=key)

        store.before = denied
        found = verify(run)
        assert (len(found.bad), found.quarantined) == (1, False)
        assert any(event.kind is Kind.NOTICE and "could not be quarantined" in event.message for event in events)
        other = make.snapshot(2)
        store.inner.put(layout.quarantine_key(other), b"{}")
        assert verify(run).quarantined
        assert any(event.kind is Kind.NOTICE and "could not be lifted" in event.message for event in events)

    def test_what_was_deleted_meanwhile_leaves_no_record(self, run: Any, make: Any, store: Any) -> None:
        snapshot = make.snapshot(1, FILES)
        make.snapshot(2)

        def meanwhile(verb: str, key: str) -> None:
            if verb == "get" and key.startswith("data/"):
                store.heal()
                remove(run, str(snapshot), force=True)

        store.before = meanwhile
        found = verify(run, "1")
        assert found.bad
        assert not found.quarantined
        assert make.there(layout.QUARANTINE) == []

    def test_damage_of_the_manifest_needs_no_record(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1)
        run.store.put(layout.manifest_key(snapshot), b"{}")
        with pytest.raises(ManifestError):
            verify(run)
        assert make.there(layout.QUARANTINE) == []


class TestReading:
    """`latest` passes it over; by its own name it is still there."""

    def test_latest_is_the_one_before_and_the_verdict_says_why(
        self, run: Any, make: Any, store: Any, tmp_path: Path
    ) -> None:
        good, bad = make.snapshot(100, FILES), make.snapshot(200, FILES)
        damage(run, bad)
        verify(run)
        store.heal()
        found = restore(run, tmp_path / "target")
        assert (found.snapshot, found.steps_lost) == (str(good), 100)
        (skipped,) = found.skipped
        assert skipped.snapshot == str(bad)
        assert skipped.reason.startswith("it is quarantined: a part 1: ")
        assert not [key for verb, key in store.calls if verb == "get" and bad.nonce in key and "data/" in key]
        assert names.find(run.catalog, "latest") == good
        assert status(run).snapshot == str(good)

    def test_those_before_may_be_collected_while_it_is_passed_over(
        self, run: Any, make: Any, store: Any, tmp_path: Path
    ) -> None:
        old = make.snapshot(1, FILES)
        set_aside(run, make.snapshot(2))

        def meanwhile(verb: str, key: str) -> None:
            if verb == "put" and key.startswith(layout.lease_prefix(old)):
                store.heal()
                make.snapshot(3)
                remove(run, str(old), force=True)

        store.before = meanwhile
        found = restore(run, tmp_path / "target")
        assert (found.step, len(found.skipped)) == (3, 1)

    def test_without_fallback_it_is_an_error(self, run: Any, make: Any, tmp_path: Path) -> None:
        make.snapshot(1)
        set_aside(run, make.snapshot(2))
        with pytest.raises(IntegrityError, match="quarantined"):
            restore(run, tmp_path / "target", fallback=False)

    def test_where_all_are_bad_that_is_said_and_one_can_still_be_named(
        self, run: Any, make: Any, tmp_path: Path
    ) -> None:
        snapshot = make.snapshot(1, FILES)
        set_aside(run, snapshot)
        with pytest.raises(IntegrityError, match="the only snapshot"):
            restore(run, tmp_path / "target")
        with pytest.raises(ManifestError, match="good"):
            names.find(run.catalog, "latest")
        assert status(run).snapshot is None
        assert restore(run, tmp_path / "target", snapshot=str(snapshot)).step == 1

    def test_named_it_is_checked_as_always(self, run: Any, make: Any, tmp_path: Path) -> None:
        snapshot = make.snapshot(1, FILES)
        damage(run, snapshot)
        set_aside(run, snapshot)
        with pytest.raises(IntegrityError, match="is not what was committed"):
            restore(run, tmp_path / "target", snapshot="1")

    def test_the_best_is_one_that_is_good(self, run: Any, make: Any) -> None:
        second, best = make.snapshot(1, loss=0.5), make.snapshot(2, loss=0.1)
        assert names.find(run.catalog, "best:loss:min") == best
        set_aside(run, best)
        assert names.find(run.catalog, "best:loss:min") == second
        set_aside(run, second)
        with pytest.raises(NoSnapshotError):
            names.find(run.catalog, "best:loss:min")

    def test_what_stood_at_the_target_is_kept_when_only_a_quarantined_one_holds_it(
        self, run: Any, make: Any, tmp_path: Path
    ) -> None:
        make.snapshot(1, FILES)
        newest = make.snapshot(2, {"a": b"newest"})
        restore(run, tmp_path / "target")
        set_aside(run, newest)
        (kept,) = restore(run, tmp_path / "target").kept
        assert (Path(kept) / "a").read_bytes() == b"newest"

    @pytest.mark.parametrize(
        ("record", "said"),
        [(None, "a part 1: "), (b"{}", "damaged"), (b"x" * (MAX_QUARANTINE_BYTES + 1), "too large")],
    )
    def test_ls_says_so_and_why(self, run: Any, make: Any, record: bytes | None, said: str) -> None:
        make.snapshot(1)
        bad = make.snapshot(2, FILES)
        damage(run, bad)
        verify(run)
        if record is not None:
            run.store.put(layout.quarantine_key(bad), record)
        newest, oldest = rows(run)
        assert (newest.state, newest.bytes, oldest.state) == ("quarantined", 6, "committed")
        assert said in newest.problem


class TestPromoting:
    """A name that others trust."""

    def test_it_is_refused_unless_forced(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1)
        set_aside(run, snapshot)
        with pytest.raises(IntegrityError, match="quarantined"):
            names.promote(run.catalog, snapshot, "prod")
        assert make.there(layout.ALIASES) == []
        assert names.promote(run.catalog, snapshot, "prod", force=True).version == 1


class TestRetention:
    """It takes no good one's place."""

    @pytest.mark.req(2, 8)
    def test_it_pushes_out_no_good_one(self, run: Any, make: Any) -> None:
        made = [make.snapshot(step) for step in range(1, 6)]
        set_aside(run, made[4], made[2])
        assert kept_steps(gc(run, LatestN(2))) == [5, 4, 2]
        assert kept_steps(gc(run, LatestN(1))) == [5, 4]

    def test_policies_keep_it_as_they_keep_others(self, run: Any, make: Any) -> None:
        made = {step: make.snapshot(step, loss=step / 10) for step in range(1, 7)}
        set_aside(run, made[1], made[2])
        assert kept_steps(gc(run, BestN("loss", "min", 1) | EveryNSteps(5))) == [6, 5, 3, 1]

    @pytest.mark.req(2, 8)
    def test_while_none_is_good_all_stay(self, run: Any, make: Any) -> None:
        made = [make.snapshot(step) for step in range(3)]
        set_aside(run, *made)
        assert gc(run, LatestN(1)).removed == ()
        good = make.snapshot(3)
        assert gc(run, LatestN(1)).removed == tuple(map(str, reversed(made)))
        assert run.catalog.latest().snapshot == str(good)

    def test_its_record_goes_with_it(self, run: Any, make: Any) -> None:
        bad = make.snapshot(1, FILES)
        make.snapshot(2)
        set_aside(run, bad)
        assert gc(run, LatestN(1)).removed == (str(bad),)
        assert make.there(layout.QUARANTINE) == []
        bad = make.snapshot(3, FILES)
        set_aside(run, bad)
        remove(run, "3")
        assert make.there(layout.QUARANTINE) == []

    def test_records_of_snapshots_that_are_gone_go_and_foreign_objects_stay(
        self, run: Any, make: Any, clock: Any
    ) -> None:
        snapshot = make.snapshot(1)
        set_aside(run, snapshot, layout.new_snapshot_id(1, 1))
        run.store.put("quarantine/notes.txt", b"mine")
        clock.advance(1)
        found = gc(run)
        assert (found.objects_deleted, found.foreign) == (1, ("quarantine/notes.txt",))
        assert make.there(layout.QUARANTINE) == [layout.quarantine_key(snapshot), "quarantine/notes.txt"]

    def test_a_pinned_one_stays_and_one_with_a_lease_too(self, run: Any, make: Any) -> None:
        pinned = make.snapshot(1)
        make.snapshot(2)
        names.pin(run.catalog, pinned)
        set_aside(run, pinned)
        assert gc(run, LatestN(1)).removed == ()
        with pytest.raises(ConfigError, match="pinned"):
            remove(run, "1")
