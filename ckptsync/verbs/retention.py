"""Which snapshots a rule lets go, told from the listing and from as few manifests as the answer rests on.

A run may have ten thousand snapshots, and gc runs after every save. So a manifest is read only where it matters whether it can be
read: those that would go, which stay when they are damaged, and those that push others out, which must be good. A rule that
compares metrics needs all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from ckptsync.catalog import Listed
from ckptsync.errors import ManifestError, NotFoundError
from ckptsync.policy import Candidate, KeepPolicy, relied_on, retained
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.transfer.workers import map_tasks

_NOTHING: Mapping[str, float | None] = {}


def let_go(
    run: Run,
    listed: Sequence[Listed],
    keep: KeepPolicy,
    *,
    quarantined: AbstractSet[SnapshotId],
    spared: AbstractSet[SnapshotId],
    now_s: float,
) -> frozenset[SnapshotId]:
    """Return the snapshots that a rule does not keep. Those whose manifest cannot be read neither count nor go.

    Args:
        run: where.
        listed: every committed snapshot, the newest first.
        keep: the rule.
        quarantined: take no good one's place.
        spared: stay whatever the rule says.
        now_s: the store's time, seconds since the Unix epoch.

    Raises:
        StoreError: a request failed for good.
    """
    manifests = _Manifests(run, listed)
    candidates = [
        Candidate(
            id=one.id,
            created_s=one.stat.modified_s,
            metrics=_Metrics(manifests, one.id),
            quarantined=one.id in quarantined,
        )
        for one in listed
    ]
    while candidates:
        kept = retained(keep, candidates, now_s) | spared
        gone = frozenset(one.id for one in candidates) - kept
        if not gone:
            break
        manifests.read(gone | relied_on(keep, candidates, now_s))
        readable = [one for one in candidates if not manifests.is_bad(one.id)]
        if len(readable) == len(candidates):
            return gone
        candidates = readable  # what could not be read has pushed something out, or shall stay: ask again without it
    return frozenset()


class _Manifests:
    """The manifests of a run, each read once at most; their metrics are remembered and nothing else."""

    def __init__(self, run: Run, listed: Sequence[Listed]) -> None:
        self.run = run
        self.listed = {one.id: one for one in listed}
        self.known: dict[SnapshotId, Mapping[str, float | None] | None] = {}
        self.lock = threading.Lock()

    def read(self, snapshots: Iterable[SnapshotId]) -> None:
        """Read some, in parallel, unless they were read before."""
        with self.lock:
            missing = [self.listed[one] for one in sorted(snapshots) if one not in self.known]
            found = map_tasks(self._read, missing, self.run.config.transfer.parts_in_flight)
            self.known.update(zip((one.id for one in missing), found, strict=True))

    def _read(self, listed: Listed) -> Mapping[str, float | None] | None:
        """Metrics of one; None when it is damaged or gone."""
        try:
            return self.run.catalog.load(listed).metrics or _NOTHING
        except (ManifestError, NotFoundError):
            return None

    def is_bad(self, snapshot: SnapshotId) -> bool:
        """Whether one was read and could not be."""
        return self.known.get(snapshot, _NOTHING) is None

    def metrics(self, snapshot: SnapshotId) -> Mapping[str, float | None]:
        """Metrics of one; who asks for those of one compares them with those of all, which are read together."""
        if snapshot not in self.known:
            self.read(self.listed)
        return self.known[snapshot] or _NOTHING


class _Metrics(Mapping[str, float | None]):
    """Metrics of a snapshot, read when somebody looks."""

    def __init__(self, manifests: _Manifests, snapshot: SnapshotId) -> None:
        self.manifests = manifests
        self.snapshot = snapshot

    def __getitem__(self, name: str) -> float | None:
        return self.manifests.metrics(self.snapshot)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifests.metrics(self.snapshot))

    def __len__(self) -> int:
        return len(self.manifests.metrics(self.snapshot))
