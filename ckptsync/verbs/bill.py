"""What a run costs at its service, as far as manifests tell: an estimate from list prices, which the options `prices` replace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ckptsync.options import Prices
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId, parse_snapshot_id
from ckptsync.snapshot.manifest import Manifest

_GIB = 1 << 30
_THOUSAND = 1000
FIXED_WRITES = 8
"""Of a save, whatever it holds: its journal, its manifest, and what it lists to find out who writes and what is there already."""
FIXED_READS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Prices in one currency.

    Attributes:
        gib_month: a GiB kept for a month.
        writes_per_1000: requests that write or list.
        reads_per_1000: requests that read.
        source: whose prices, where and when.
    """

    gib_month: float
    writes_per_1000: float
    reads_per_1000: float
    source: str


S3_LIST = Tariff(
    gib_month=0.023,
    writes_per_1000=0.005,
    reads_per_1000=0.0004,
    source="list prices in US$ of S3 Standard in us-east-1, March 2026",
)
"""Source: https://aws.amazon.com/s3/pricing/, first 50 TB."""
GCS_LIST = Tariff(
    gib_month=0.020,
    writes_per_1000=0.005,
    reads_per_1000=0.0004,
    source="list prices in US$ of Cloud Storage Standard in us-central1, March 2026",
)
"""Source: https://cloud.google.com/storage/pricing, operations of class A and B in one region."""
FREE = Tariff(gib_month=0.0, writes_per_1000=0.0, reads_per_1000=0.0, source="no price is known for this store")


def tariff(url: str, prices: Prices, *, elsewhere: bool) -> Tariff:
    """Return what to reckon with for a run.

    Args:
        url: of the run.
        prices: the user's, of which each replaces that of the list.
        elsewhere: the service stands at an address of its own, so that no cloud's list prices count.
    """
    listed = FREE if elsewhere else {"s3": S3_LIST, "gs": GCS_LIST}.get(url.partition("://")[0], FREE)
    given = (prices.gib_month, prices.writes_per_1000, prices.reads_per_1000)
    if given == (None, None, None):
        return listed
    of_list = (listed.gib_month, listed.writes_per_1000, listed.reads_per_1000)
    gib_month, writes, reads = (ours if own is None else own for own, ours in zip(given, of_list, strict=True))
    source = "prices of the options" if None not in given else f"prices of the options, else {listed.source}"
    return Tariff(gib_month=gib_month, writes_per_1000=writes, reads_per_1000=reads, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """An estimate, in the currency of the prices.

    Attributes:
        bytes_stored: of all objects that snapshots name, each counted once.
        storage_month: to keep them for a month.
        writes: requests of all saves that are known of, the deleted ones like the others.
        reads: of the same.
        requests: what those cost.
        source: whose prices, where and when.
    """

    bytes_stored: int
    storage_month: float
    writes: int
    reads: int
    requests: float
    source: str


class Ledger:
    """Adds up manifest by manifest, in memory that does not grow with the files of the run."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._own_bytes = self._writes = self._saves = 0
        self._borrowed: dict[str, int] = {}
        self._there: set[SnapshotId] = set()

    def add(self, manifest: Manifest) -> None:
        """Count one snapshot."""
        own = layout.data_prefix(manifest.id)
        self._there.add(manifest.id)
        self._saves += 1
        self._writes += FIXED_WRITES
        for file in manifest.files:
            if not file.key.startswith(own):
                self._borrowed[file.key] = file.stored_size
                continue
            self._own_bytes += file.stored_size
            # begin, parts, finish; fewer where a whole object is copied at once
            self._writes += 1 if len(file.parts) <= 1 else len(file.parts) + 2

    def bill(self, saves: int, at: Tariff) -> Bill:
        """Return the sum.

        Args:
            saves: how many there were, those included whose snapshots are gone.
            at: the prices.
        """
        stored = self._own_bytes + sum(_left_behind(self._borrowed.items(), self._there))
        scale = max(saves, self._saves) / self._saves if self._saves else 0.0
        writes, reads = round(self._writes * scale), round(self._saves * FIXED_READS * scale)
        requests = (writes * at.writes_per_1000 + reads * at.reads_per_1000) / _THOUSAND
        return Bill(
            bytes_stored=stored,
            storage_month=stored / _GIB * at.gib_month,
            writes=writes,
            reads=reads,
            requests=requests,
            source=at.source,
        )


def _left_behind(borrowed: Iterable[tuple[str, int]], there: set[SnapshotId]) -> Iterable[int]:
    """Sizes of objects that lie under attempts of which no manifest is left; others were counted with theirs."""
    for key, size in borrowed:
        if parse_snapshot_id(key.removeprefix(layout.DATA).partition("/")[0]) not in there:
            yield size
