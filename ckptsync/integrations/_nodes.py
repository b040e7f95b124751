"""Processes that train together: which of them saves what, and how all go on from the same snapshot. Needs `accelerate`."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ckptsync.errors import CkptsyncError, ConfigError, IntegrityError, NoSnapshotError
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId, parse_snapshot_id
from ckptsync.snapshot.manifest import Manifest
from ckptsync.transfer.folders import is_partial, remove_tree
from ckptsync.verbs.compare import holds_only
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.ranks import Rank
from ckptsync.verbs.restore import restore

try:
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object
except ImportError as error:
    raise ConfigError("accelerate is not installed; pip install 'ckptsync[transformers]'") from error

_NODE = re.compile(r"node-\d+")
Bring = Callable[[Run, Manifest], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands among those that train together.

    Attributes:
        is_main: it is the first of all.
        saves: it is the one that saves: the first of all, or of its node where each node saves what it has.
        first: number of the process that saves for it.
        node: which node it is on, 0 to `nodes` less 1.
        nodes: how many of them save; 1 when all share one folder.
        launch: names this start of the job, the same on all.
    """

    is_main: bool
    saves: bool
    first: int
    node: int
    nodes: int
    launch: str

    @property
    def part(self) -> str:
        """The folder of a snapshot that holds what this node has; empty when that is the whole of it."""
        return f"node-{self.node}" if self.nodes > 1 else ""

    def rank(self) -> Rank | None:
        """As which rank this node saves; None when it is the only one."""
        if self.nodes == 1:
            return None
        return Rank(rank=self.node, world=self.nodes, launch=self.launch, under=self.part)


def place(*, on_each_node: bool) -> Place:
    """Find out where this process stands. All call it together.

    Args:
        on_each_node: each node saves what it has on a disk of its own; otherwise all share one folder.
    """
    state = PartialState()
    launch = broadcast_object_list([uuid.uuid4().hex])[0]
    if not on_each_node:
        return Place(state.is_main_process, state.is_main_process, 0, 0, 1, launch)
    firsts = gather_object([state.process_index] if state.is_local_main_process else [])
    node = sum(first <= state.process_index for first in firsts) - 1
    return Place(state.is_main_process, state.is_local_main_process, firsts[node], node, len(firsts), launch)


def meet() -> None:
    """Wait until all processes are here."""
    PartialState().wait_for_everyone()


def any_of_all(flag: bool) -> bool:  # noqa: FBT001  it is all there is to say
    """Return whether any process has said yes. All call it together."""
    return any(gather_object([flag]))


def said_by_owner(here: Place, text: str) -> str:
    """Return what the process that saves for this one says. All call it together."""
    said: list[str] = gather_object([text])
    return said[here.first]


@dataclass(frozen=True, slots=True)
class _Word:
    """What the first process tells the others: a snapshot to bring, or that it has come to an end.

    Attributes:
        snapshot: its id; empty at the end.
        failure: what the end is; empty when all is well.
        is_missing: that there is no such snapshot.
    """

    snapshot: str = ""
    failure: str = ""
    is_missing: bool = False


def brought(run: Run, here: Place, snapshot: str, bring: Bring) -> SnapshotId | None:
    """Bring back the newest snapshot that is good on every node; all call it together.

    Args:
        run: where from.
        here: where this process stands.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        bring: fetches what this node needs of it, in the process that saves; raises IntegrityError when that is bad.

    Returns:
        Which one; None when there is none at all.

    Raises:
        NoSnapshotError: there is none of that name.
        IntegrityError: every snapshot tried was bad.
        CkptsyncError: it failed here or in another process.
    """
    if not here.is_main:
        return _follow(run, here, bring)
    last = _Word()
    try:
        reached = newest_good(
            run, snapshot, fallback=True, use=lambda reading, manifest: _together(reading, manifest, bring)
        )
    except NoSnapshotError as error:
        if snapshot == "latest":
            return None
        last = _Word(failure=str(error), is_missing=True)
        raise
    except BaseException as error:
        last = _Word(failure=str(error) or type(error).__name__)
        raise
    finally:
        broadcast_object_list([last])
    return reached.manifest.id


def _together(reading: Run, manifest: Manifest, bring: Bring) -> None:
    """Let every node bring its part of a snapshot that the first process has found."""
    broadcast_object_list([_Word(snapshot=manifest.snapshot)])
    _in_step(lambda: bring(reading, manifest))


def _follow(run: Run, here: Place, bring: Bring) -> SnapshotId | None:
    """Bring what the first process tells, until it tells the end."""
    found: SnapshotId | None = None
    failure: CkptsyncError | None = None
    while (word := broadcast_object_list([_Word()])[0]).snapshot:
        found = parse_snapshot_id(word.snapshot)
        assert found is not None  # noqa: S101  it is one

        def own(found: SnapshotId = found) -> None:
            if here.saves:
                bring(run, run.catalog.get(found))

        try:
            _in_step(own)
        except CkptsyncError as error:
            failure = error  # so there is another word to come
    if word.is_missing:
        raise NoSnapshotError(word.failure)
    if word.failure:
        raise failure or CkptsyncError(f"the first process failed: {word.failure}")
    return found


def _in_step(work: Callable[[], None]) -> None:
    """Do something in every process; all fail when one does, and of all failures a bad snapshot is the least.

    Raises:
        IntegrityError: what was brought is bad, here or elsewhere.
        CkptsyncError: it failed otherwise.
    """
    failure: CkptsyncError | None = None
    try:
        work()
    except CkptsyncError as error:
        failure = error
    told = gather_object([(isinstance(failure, IntegrityError), str(failure))] if failure is not None else [])
    others = [message for is_bad, message in told if not is_bad]
    if failure is not None and (not others or not isinstance(failure, IntegrityError)):
        raise failure
    if others:
        raise CkptsyncError(f"in another process: {others[0]}")
    if told:
        raise IntegrityError(f"in another process: {told[0][1]}")


def bring_folder(run: Run, manifest: Manifest, here: Place, target: Path, *, needs: str = "") -> None:
    """Let what this node needs of a snapshot appear at `target`, verified, whole or not at all.

    Args:
        run: where from.
        manifest: of the snapshot.
        here: where this process stands.
        target: a directory. One that is there is replaced; what it holds and the snapshot does not stays beside it.
        needs: a file that must be in it, or it is not the framework's; empty when any may.

    Raises:
        ConfigError: the snapshot is not one of the framework's.
        IntegrityError: it is damaged.
        StoreError: the bucket failed for good.
    """
    paths = {entry.path for entry in manifest.entries}
    parts = sorted({top for path in paths if _NODE.fullmatch(top := path.partition("/")[0])})
    part = ""
    if parts:  # a node that is new takes the first one's
        part = here.part if here.part in parts else parts[0]
    if needs and f"{part}/{needs}".lstrip("/") not in paths:
        raise ConfigError(f"snapshot {manifest.snapshot} has no {needs}: it was not saved by this integration")
    try:
        if part:
            _bring_part(run, manifest, part, target)
        else:
            restore(run, target, snapshot=manifest.snapshot, fallback=False)
    except IntegrityError:  # another snapshot goes elsewhere, and would leave this one's good parts there for ever
        for beside in target.parent.glob(f".*{manifest.snapshot}*"):
            if is_partial(beside.name):
                remove_tree(beside, ignore_errors=True)
        raise


def _bring_part(run: Run, manifest: Manifest, part: str, target: Path) -> None:
    """Let a folder of a snapshot appear at `target`; killed amid replacing one, it leaves none there."""
    holder = target.with_name(f".{target.name}.ckptsync-node")
    restore(run, holder, snapshot=manifest.snapshot, include=[f"{part}/*"], fallback=False)
    if target.is_dir() and holds_only(target, manifest, part):
        remove_tree(target)
    elif os.path.lexists(target):
        target.rename(next(free for number in count(1) if not os.path.lexists(free := _kept(target, number))))
    (holder / part).rename(target)
    remove_tree(holder, ignore_errors=True)


def _kept(target: Path, number: int) -> Path:
    """Where what stood at a target is kept."""
    return target.with_name(f".{target.name}.before-restore-{number}")
