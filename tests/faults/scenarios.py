"""The verbs as the matrix runs them: what is there before, what is done, what may be seen afterwards."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from support.tree import fingerprint

from ckptsync import names
from ckptsync.errors import NoSnapshotError
from ckptsync.options import Config
from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.testing.faults import Killed, death
from ckptsync.verbs.adopt import adopt
from ckptsync.verbs.carry import carry
from ckptsync.verbs.export import export_archive
from ckptsync.verbs.gc import collect
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

from .beds import BEST, IMPORTED, KINDS, Bed, Kind

Trees = list[dict[str, str]]
ARCHIVE = "all.tar"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One verb, to be struck at each of its requests.

    Attributes:
        name: as the page shows it.
        arrange: what was there before.
        act: the verb. Raises what the verb raises; called again it must finish.
        during: which trees a restore may give after the verb was struck.
        after: which tree a restore gives once the verb has finished.
        loses: snapshots the verb was told to remove.
        target: the verb fills `bed.folder / "target"`, which must be whole at any moment.
        journal_lost: this machine forgets what it knew before the verb is called again.
        proves: the verb has done what it is for.
        kinds: buckets on which it is struck; what they lack makes no difference to the other verbs.
    """

    name: str
    arrange: Callable[[Bed], None]
    act: Callable[[Bed], object]
    during: Callable[[Bed], Trees]
    after: Callable[[Bed], dict[str, str]]
    loses: Callable[[Bed], set[SnapshotId]] = lambda _: set()
    target: bool = False
    journal_lost: bool = False
    proves: Callable[[Bed], bool] = lambda _: True
    kinds: tuple[Kind, ...] = KINDS


# -- what was there before -----------------------------------------------------------------------------------------------


def _old(bed: Bed) -> None:
    save(bed.plain, bed.trees.old, step=1)


def _old_and_new(bed: Bed) -> None:
    _old(bed)
    save(bed.plain, bed.trees.new, step=2)


def _aliased(bed: Bed) -> None:
    _old(bed)
    names.promote(bed.plain.catalog, _at(bed, 1), BEST)
    save(bed.plain, bed.trees.new, step=2)


def _half_saved(bed: Bed) -> None:
    """The new tree, killed after two parts of its large file."""
    _old(bed)
    _killed_save(bed, 2)


def _killed_save(bed: Bed, step: int) -> None:
    verb = "put_part" if bed.ledger.traits.multipart else "put"
    key = "*" if bed.ledger.traits.multipart else "data/*"
    bed.faulty.inject(death(after=True), verb=verb, key=key, skip=1)
    with suppress(Killed):
        save(bed.run, bed.trees.new, step=step)
    bed.heal()
    bed.ledger.sent.clear()


def _much(bed: Bed) -> None:
    """Three snapshots, the second of which continues a killed attempt, and another attempt that came to nothing."""
    save(bed.plain, bed.trees.oldest, step=1)
    _killed_save(bed, 2)
    save(bed.plain, bed.trees.new, step=2)
    _killed_save(bed, 3)
    bed.lose_journal()
    save(bed.plain, bed.trees.old, step=4)
    bed.age()


def _continued(bed: Bed) -> None:
    """Two snapshots, the older of which continues a killed attempt."""
    _killed_save(bed, 1)
    save(bed.plain, bed.trees.new, step=1)
    save(bed.plain, bed.trees.old, step=2)


def _to_adopt(bed: Bed) -> None:
    _old(bed)
    for path in sorted(bed.trees.new.rglob("*")):
        if path.is_file() and not path.is_symlink():
            bed.inner.put(f"{IMPORTED}/{path.relative_to(bed.trees.new)}", path.read_bytes())


def _to_restore(bed: Bed) -> None:
    _old(bed)
    restore(bed.plain, bed.folder / "target")
    save(bed.plain, bed.trees.new, step=2)


# -- what is done ----------------------------------------------------------------------------------------------------------


def _at(bed: Bed, step: int) -> SnapshotId:
    """Id of the snapshot of a step, also when it is gone."""
    return names.find(bed.plain.catalog, str(step))


def _remove_first(bed: Bed) -> None:
    """Remove step 1. When it is gone for good, it was removed."""
    snapshot = bed.remembered
    with suppress(NoSnapshotError):
        remove(bed.run, str(snapshot))


def _collect(bed: Bed) -> None:
    collect(bed.run, LatestN(1), grace_s=bed.grace_s, dry_run=False)


def _promote(bed: Bed) -> None:
    names.promote(bed.run.catalog, _at(bed, 2), BEST)


def _pin(bed: Bed) -> None:
    names.pin(bed.run.catalog, _at(bed, 2))


def _verify(bed: Bed) -> None:
    assert not verify(bed.run).bad


def _adopt(bed: Bed) -> None:
    adopt(bed.run, IMPORTED, step=2)


# -- what may be seen ------------------------------------------------------------------------------------------------------


def _is_old(bed: Bed) -> dict[str, str]:
    return fingerprint(bed.trees.old)


def _is_new(bed: Bed) -> dict[str, str]:
    return fingerprint(bed.trees.new)


def _only_old(bed: Bed) -> Trees:
    return [_is_old(bed)]


def _only_new(bed: Bed) -> Trees:
    return [_is_new(bed)]


def _either(bed: Bed) -> Trees:
    return [_is_old(bed), _is_new(bed)]


def _imported(bed: Bed) -> dict[str, str]:
    """The new tree as objects show it: no links, no empty folders, the usual modes."""
    place = bed.place()
    for path in sorted(bed.trees.new.rglob("*")):
        if path.is_file() and not path.is_symlink():
            copy = place / path.relative_to(bed.trees.new)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.parent.chmod(0o755)
            shutil.copyfile(path, copy)
            copy.chmod(0o644)
    found = fingerprint(place)
    shutil.rmtree(place)
    return found


def _old_or_imported(bed: Bed) -> Trees:
    return [_is_old(bed), _imported(bed)]


def _all_but_newest(bed: Bed) -> set[SnapshotId]:
    return {listed.id for listed in bed.plain.catalog.listed()} - {next(bed.plain.catalog.listed(limit=1)).id}


def _first(bed: Bed) -> set[SnapshotId]:
    bed.remembered = _at(bed, 1)
    return {bed.remembered}


def _save(bed: Bed) -> object:
    return save(bed.run, bed.trees.new, step=2)


def _save_rank(bed: Bed) -> object:
    """All that a rank does, the commit included: it is the only one."""
    return save_rank(bed.run, bed.trees.new, Rank(rank=0, world=1, launch="struck"), step=2)


def _carry(bed: Bed) -> object:
    """What the local tier does."""
    config = Config(transfer=bed.run.config.transfer, state_dir=str(bed.folder / "kept-state"))
    with open_run(bed.folder / "kept", config) as kept:
        if not any(kept.catalog.listed()):
            save(kept, bed.trees.new, step=2)
        return carry(kept, next(kept.catalog.history()), bed.run)


def _export(bed: Bed) -> object:
    assert not (bed.folder / ARCHIVE).exists() or _is_exported(bed), "what stands there is no whole archive"
    return export_archive(bed.run, bed.folder / ARCHIVE)


def _is_exported(bed: Bed) -> bool:
    place = bed.place()
    with tarfile.open(bed.folder / ARCHIVE) as archive:
        archive.extraction_filter = lambda member, _: member  # the argument is not there in Python 3.11.2
        archive.extractall(place)  # noqa: S202  we have made it
    found = fingerprint(place)
    shutil.rmtree(place)
    return found == _is_new(bed)


def _restore(bed: Bed) -> object:
    return restore(bed.run, bed.folder / "target")


def _is_promoted(bed: Bed) -> bool:
    return names.find(bed.plain.catalog, BEST) == _at(bed, 2)


def _is_pinned(bed: Bed) -> bool:
    return names.pins(bed.plain.catalog) == {_at(bed, 2)}


_ALIKE = tuple(kind for kind in KINDS if kind.name in {"memory", "memory, 4 workers", "directory"})
_SHARED = tuple(
    kind for kind in KINDS if kind.name in {"memory", "memory, 4 workers", "memory, no part copies", "directory"}
)
_NAMING = tuple(kind for kind in KINDS if kind.name in {"memory", "memory, single writer", "directory"})
_ERASING = tuple(
    kind for kind in KINDS if kind.name in {"memory", "memory, 4 workers", "memory, no multipart", "directory"}
)

SCENARIOS = (
    Scenario("save", _old, _save, _either, _is_new),
    Scenario("save, journal lost", _old, _save, _either, _is_new, journal_lost=True),
    Scenario("save, continued", _half_saved, _save, _either, _is_new),
    Scenario("save by a rank", _old, _save_rank, _either, _is_new, kinds=_SHARED),
    Scenario("carry", _old, _carry, _either, _is_new, kinds=_SHARED),
    Scenario("restore", _old_and_new, _restore, _only_new, _is_new, target=True, kinds=_ALIKE),
    Scenario("restore over the old", _to_restore, _restore, _only_new, _is_new, target=True, kinds=_ALIKE),
    Scenario("export", _old_and_new, _export, _only_new, _is_new, proves=_is_exported, kinds=_ALIKE),
    Scenario("gc", _much, _collect, _only_old, _is_old, _all_but_newest, kinds=_ERASING),
    Scenario("rm", _continued, _remove_first, _only_old, _is_old, _first, kinds=_ERASING),
    Scenario("promote", _aliased, _promote, _only_new, _is_new, proves=_is_promoted, kinds=_NAMING),
    Scenario("pin", _old_and_new, _pin, _only_new, _is_new, proves=_is_pinned, kinds=_NAMING),
    Scenario("adopt", _to_adopt, _adopt, _old_or_imported, _imported, kinds=_NAMING),
    Scenario("verify", _old_and_new, _verify, _only_new, _is_new, kinds=_ALIKE),
)
