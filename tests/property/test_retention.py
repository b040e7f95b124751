"""Whatever is saved, killed, read, set aside, named and collected: what must stay stays, and stays whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ckptsync import names
from ckptsync.catalog import Catalog
from ckptsync.errors import CkptsyncError, IntegrityError, NoSnapshotError, StoreError
from ckptsync.events import Event
from ckptsync.options import MIB, Config, Transfer
from ckptsync.policy import AnyOf, BestN, EveryNSteps, KeepPolicy, LatestN, Within
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Provenance
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Fault, Faulty, Killed, death, error, lost_answer
from ckptsync.verbs.gc import collect
from ckptsync.verbs.lease import LIFE_S, Leases
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

_EXAMPLES = 200
_RULES: st.SearchStrategy[KeepPolicy] = st.one_of(
    st.builds(EveryNSteps, st.integers(2, 9)),
    st.builds(BestN, st.just("loss"), st.sampled_from(["min", "max"]), st.integers(1, 2)),
    st.builds(Within, st.sampled_from([1.0, 5.0, LIFE_S])),
    st.builds(LatestN, st.integers(1, 3)),
)
_POLICIES: st.SearchStrategy[KeepPolicy] = st.one_of(
    _RULES, _RULES, st.builds(lambda a, b: AnyOf((a, b)), _RULES, _RULES)
)
_FAULTS: dict[str, Callable[[], Fault]] = {
    "killed before": death,
    "killed after": lambda: death(after=True),
    "error": lambda: error(StoreError),
    "lost answer": lost_answer,
}
_TROUBLE = st.one_of(st.none(), st.none(), st.tuples(st.sampled_from(sorted(_FAULTS)), st.integers(0, 25)))
_PICK = st.integers(0, 99)
_MARKS = ("", "pin", "promote", "begin_reading", "quarantine")
"""Rules that do something to the newest snapshot; most get nothing."""


def _ignore(event: Event) -> None:
    del event


class Retention(RuleBasedStateMachine):
    """The real verbs on a bucket in memory, where time passes only when a rule says so, and with no grace."""

    def __init__(self) -> None:
        super().__init__()
        self.around = ExitStack()
        self.around.enter_context(mock.patch("ckptsync.verbs.sending.provenance", return_value=Provenance()))
        self.around.enter_context(mock.patch("os.fsync"))
        self.folder = Path(self.around.enter_context(tempfile.TemporaryDirectory())).resolve()
        self.clock = FakeClock()
        self.bucket = MemoryStore(clock=self.clock)
        config = Config(transfer=Transfer(part_bytes=MIB, workers=1), state_dir=str(self.folder / "state"))
        self.run = run_on(self.bucket, config, observer=_ignore, clock=self.clock)
        self.foreign: dict[str, bytes] = {}
        self.reading: list[tuple[SnapshotId, Any, Manifest]] = []
        self.had_any = False
        self.intact = True

    def teardown(self) -> None:
        self.around.close()

    # -- what is there, by the bucket itself -----------------------------------------------------------------------------

    def committed(self) -> list[SnapshotId]:
        """The newest first."""
        return [listed.id for listed in self.run.catalog.listed()]

    def picked(self, pick: int) -> SnapshotId | None:
        """One of those that are committed."""
        found = self.committed()
        return found[pick % len(found)] if found else None

    def untouchable(self) -> set[SnapshotId]:
        """What no retention may delete: the newest good one, pinned, aliased and leased ones."""
        there, bad = self.committed(), self.run.catalog.quarantined()
        good = [one for one in there if one not in bad]
        aliased = {layout.parse_snapshot_id(alias.snapshot) for alias in names.all_aliases(self.run.catalog).values()}
        spared = names.pins(self.run.catalog) | aliased | {one for one, _, _ in self.reading}
        return {*good[:1], *(one for one in there if one in spared)}

    def troubled(self, trouble: tuple[str, int] | None) -> Run:
        """The run, over a bucket that fails at one request; after a kill it fails at all that follow."""
        store = Faulty(self.bucket)
        if trouble is not None:
            how, skip = trouble
            store.inject(_FAULTS[how](), skip=skip, times=None if how.startswith("killed") else 1)
        return replace(self.run, store=store, catalog=Catalog(store, clock=self.clock))

    # -- what people do --------------------------------------------------------------------------------------------------

    @initialize(
        history=st.lists(st.tuples(st.integers(0, 6), _TROUBLE, st.sampled_from(_MARKS)), min_size=4, max_size=8)
    )
    def history(self, history: list[tuple[int, tuple[str, int] | None, str]]) -> None:
        """A run that has been going on for a while, with foreign objects in it."""
        for key in ("old-run/model.pt", "data/readme", "leases/x", "quarantine/notes.txt", "manifests/tmp", "pins/x"):
            self.foreign[key] = key.encode()
            self.bucket.put(key, self.foreign[key])
        for step, trouble, mark in history:
            self.save(step, b"%d" % step, trouble)
            if mark:
                getattr(self, mark)(0)

    @rule(step=st.integers(0, 6), content=st.binary(max_size=3), trouble=_TROUBLE)
    def save(self, step: int, content: bytes, trouble: tuple[str, int] | None) -> None:
        """At higher and at lower steps, mostly to the end; killed ones are continued by those at the same step."""
        self.clock.advance(1)
        with suppress(Killed, StoreError):
            self.saved(self.troubled(trouble), step, content)
        self.clock.advance(1)

    def saved(self, run: Run, step: int, content: bytes) -> None:
        """One file that changes, one that does not."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "a").write_bytes(content)
        (source / "b").write_bytes(b"the same")
        save(run, source, step=step, metrics={"loss": float(step % 4)})

    @rule(pick=_PICK, name=st.sampled_from(["prod", "best"]))
    def promote(self, pick: int, name: str = "prod") -> None:
        if (chosen := self.picked(pick)) is not None:
            with suppress(IntegrityError):
                names.promote(self.run.catalog, chosen, name)

    @rule(pick=_PICK, on=st.booleans())
    def pin(self, pick: int, on: bool = True) -> None:  # noqa: FBT001, FBT002
        if (chosen := self.picked(pick)) is not None:
            (names.pin if on else names.unpin)(self.run.catalog, chosen)

    @rule(pick=_PICK)
    def begin_reading(self, pick: int) -> None:
        """As a restore does it."""
        if (chosen := self.picked(pick)) is not None:
            self.read(chosen)

    def read(self, chosen: SnapshotId) -> None:
        """The lease first, then the manifest, if it is there still."""
        lease = Leases(self.run).on(chosen)
        lease.__enter__()
        try:
            self.reading.append((chosen, lease, self.run.catalog.get(chosen)))
        except NoSnapshotError:
            lease.__exit__(None, None, None)

    @precondition(lambda self: self.reading)
    @rule(pick=_PICK, killed=st.booleans())
    def end_reading(self, pick: int, killed: bool) -> None:  # noqa: FBT001
        """Done, or dead: then its lease stays for a while."""
        _, lease, _ = self.reading.pop(pick % len(self.reading))
        if not killed:
            lease.__exit__(None, None, None)

    @rule(pick=_PICK)
    def damage_and_verify(self, pick: int) -> None:
        """A bit flips, and a check sees it; a snapshot that shares the object is damaged as well, and may not be known to be."""
        chosen = self.picked(pick)
        files = [file for file in self.run.catalog.get(chosen).files if file.size] if chosen else []
        if files:
            self.intact = False
            content = bytearray(self.bucket.read(files[0].key))
            content[0] ^= 1
            self.bucket.put(files[0].key, content)
        if chosen is not None:
            found = verify(self.run, str(chosen))
            assert found.quarantined == bool(found.bad)

    @rule(pick=_PICK)
    def quarantine(self, pick: int) -> None:
        """Somebody says it is bad."""
        if (chosen := self.picked(pick)) is not None:
            self.bucket.put(layout.quarantine_key(chosen), b"{}")

    @rule(trouble=_TROUBLE)
    def restore(self, trouble: tuple[str, int] | None) -> None:
        """Either nothing, or the newest that is good; what stood there may be kept beside it."""
        target = self.folder / "target"
        good = self.run.catalog.latest()
        try:
            found = restore(self.troubled(trouble), target)
        except (Killed, StoreError):
            return
        except NoSnapshotError:
            assert not self.committed()
            return
        except IntegrityError:
            return
        assert good is not None
        assert found.snapshot == good.snapshot or found.skipped
        for entry in self.run.catalog.get(_id(found.snapshot)).files:
            assert (target / entry.path).stat().st_size == entry.size

    @rule(skip=st.integers(0, 9), after=st.booleans())
    def restore_while_a_newer_one_is_saved_and_the_rest_collected(self, skip: int, after: bool) -> None:  # noqa: FBT001
        """At whatever request that happens, what a restore has begun with stays, or it takes the newer one."""
        if self.newest_good() is None:
            return
        store = Faulty(self.bucket)

        def meanwhile(_: object) -> None:
            self.saved(self.run, 7, b"newer")
            collect(self.run, LatestN(1), grace_s=0, dry_run=False)

        store.inject(Fault(meanwhile, "after" if after else "before"), skip=skip)
        target = self.folder / f"target-{len(list(self.folder.iterdir()))}"
        try:
            restore(replace(self.run, store=store, catalog=Catalog(store, clock=self.clock)), target)
        except IntegrityError:
            assert not self.intact
        else:
            assert (target / "b").read_bytes() == b"the same"

    @rule(skip=st.integers(0, 40), after=st.booleans(), pick=_PICK, keep=_POLICIES)
    def collect_while_a_reader_comes(self, skip: int, after: bool, pick: int, keep: KeepPolicy) -> None:  # noqa: FBT001
        """At whatever request: it finds no manifest, or its data stays until it is done."""
        chosen = self.picked(pick)
        if chosen is None:
            return
        store = Faulty(self.bucket)
        store.inject(Fault(lambda _: self.read(chosen), "after" if after else "before"), skip=skip)
        collect(
            replace(self.run, store=store, catalog=Catalog(store, clock=self.clock)), keep, grace_s=0, dry_run=False
        )

    @rule(pick=_PICK)
    def rm(self, pick: int) -> None:
        """Not the last one: that is for people to decide."""
        there = self.committed()
        if len(there) > 1:
            chosen = there[pick % len(there)]
            spared = chosen in self.untouchable() - {self.newest_good()}
            with suppress(CkptsyncError):
                remove(self.run, str(chosen))
            assert not spared or self.run.catalog.exists(chosen)

    @rule(seconds_s=st.sampled_from([1.0, 60.0, LIFE_S / 2]))
    def wait(self, seconds_s: float) -> None:
        """Readers at work renew their leases."""
        self.clock.advance(seconds_s)
        self.reading = [self.renewed(one) for one in self.reading]

    @rule(keep=_POLICIES | st.none(), trouble=_TROUBLE)
    def collect(self, keep: KeepPolicy | None, trouble: tuple[str, int] | None) -> None:
        """With no grace: who is at work now is done by then, as rules run one after the other."""
        before, stays = self.committed(), self.untouchable()
        with suppress(Killed, StoreError):
            collect(self.troubled(trouble), keep, grace_s=0, dry_run=False)
        after = set(self.committed())
        assert stays <= after, "gc deleted what it must spare"
        assert after or not before, "gc left nothing"
        assert keep is not None or after == set(before), "gc deleted without a policy"

    def renewed(self, one: tuple[SnapshotId, Any, Manifest]) -> tuple[SnapshotId, Any, Manifest]:
        """A reader to whom a part came."""
        lease = Leases(self.run).on(one[0])
        lease.__enter__()
        one[1].__exit__(None, None, None)
        return one[0], lease, one[2]

    def newest_good(self) -> SnapshotId | None:
        newest = self.run.catalog.latest()
        return newest.id if newest else None

    # -- what always holds -----------------------------------------------------------------------------------------------

    @invariant()
    def there_is_a_snapshot_when_there_was_one(self) -> None:
        self.had_any = self.had_any or bool(self.committed())
        assert self.committed() or not self.had_any

    @invariant()
    def what_a_manifest_names_is_there(self) -> None:
        there = {found.key: found.size for found in self.bucket.list(layout.DATA)}
        for manifest in [*self.run.catalog.history(), *(manifest for _, _, manifest in self.reading)]:
            for file in manifest.files:
                assert there.get(file.key) == file.size, f"{manifest.snapshot} lost {file.path}"

    @invariant()
    def foreign_objects_are_as_they_were(self) -> None:
        for key, content in self.foreign.items():
            assert self.bucket.read(key) == content


def _id(text: str) -> SnapshotId:
    found = layout.parse_snapshot_id(text)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.req(2, 8, 14, 28)
def test_nothing_that_must_stay_is_ever_deleted() -> None:
    examples = _EXAMPLES // 4 if os.environ.get("CKPTSYNC_TEST_SHORT") else _EXAMPLES
    run_state_machine_as_test(Retention, settings=settings(max_examples=examples, stateful_step_count=20))
