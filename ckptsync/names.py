"""Names for snapshots: ids, steps, `latest`, `best:METRIC:min|max`, aliases; and pins, which retention honours."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.catalog import Catalog
from ckptsync.errors import ConfigError, ConflictError, IntegrityError, ManifestError, NoSnapshotError
from ckptsync.records import read_record, timestamp
from ckptsync.snapshot import layout
from ckptsync.snapshot.envelope import UNREADABLE
from ckptsync.snapshot.layout import MAX_VERSION, SnapshotId

_MAX_ALIAS_BYTES = 64 << 10
_AT = re.compile(
    r"(?P<run>[^/:]+://[^/]*/.*|(?![^/:]+://).+)@(?P<name>best:[^@]+:(?:min|max)|[^/@]+)",
    re.DOTALL,
)


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name for a snapshot.

    Attributes:
        name: as given to `promote`.
        snapshot: the id it stands for.
        version: 1 at first, one more at each change.
        created: RFC 3339, UTC.
    """

    name: str
    snapshot: str
    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    created: str


_decoder = msgspec.json.Decoder(Alias)


def split(text: str) -> tuple[str, str]:
    """Take `RUN@SNAP` apart; of `RUN` alone it is `latest`.

    What stands behind the last `@` is a name only where no `/` follows (but in `best:METRIC:min`, whose metric may have one) and, in
    a URL, only behind the bucket. A run whose own name has such an `@` is written `RUN@latest`.

    Returns:
        The run, and the name, which `find` resolves.
    """
    if found := _AT.fullmatch(text):
        return found["run"], found["name"]
    return text, "latest"


def find(catalog: Catalog, name: str) -> SnapshotId:
    """Resolve a snapshot id, a step, `latest`, `best:METRIC:min|max` or an alias.

    A step that several epochs saved means the newest of them.

    Raises:
        NoSnapshotError: nothing committed fits.
        ConfigError: `best:` is not written right.
    """
    if name == "latest":
        if (manifest := catalog.latest()) is None:
            if any(True for _ in catalog.listed(limit=1)):
                raise ManifestError(f"no snapshot in {catalog.store.url} is good; `ckptsync ls` says why")
            raise NoSnapshotError(f"there is no snapshot in {catalog.store.url}")
        return manifest.id
    if snapshot := layout.parse_snapshot_id(name):
        return snapshot
    if name.isascii() and name.isdigit():
        return _at_step(catalog, name.lstrip("0") or "0")
    if name.startswith("best:"):
        return _best(catalog, name)
    return _aliased(catalog, name)


def _at_step(catalog: Catalog, step: str) -> SnapshotId:
    """Newest snapshot of a step, which is text because it may have more digits than Python turns into a number."""
    for listed in catalog.listed():
        if str(listed.id.step) == step:
            return listed.id
    raise NoSnapshotError(f"no snapshot of step {step} is committed in {catalog.store.url}")


def _best(catalog: Catalog, name: str) -> SnapshotId:
    """Snapshot with the least or greatest value of a metric; the newest of equals, and none that is quarantined."""
    parts = name.split(":")
    if len(parts) != 3 or parts[2] not in {"min", "max"} or not parts[1]:  # noqa: PLR2004  best, metric, mode
        raise ConfigError(f"{name!r} is not like best:METRIC:min or best:METRIC:max")
    best: tuple[float, SnapshotId] | None = None
    quarantined = catalog.quarantined()
    for manifest in catalog.history():
        value = manifest.metrics.get(parts[1])
        if value is None or manifest.id in quarantined:
            continue
        if best is None or (value < best[0] if parts[2] == "min" else value > best[0]):
            best = value, manifest.id
    if best is None:
        raise NoSnapshotError(f"no good snapshot in {catalog.store.url} has a metric {parts[1]!r}")
    return best[1]


def _aliased(catalog: Catalog, name: str) -> SnapshotId:
    """Snapshot an alias stands for."""
    alias = read_alias(catalog, name)
    snapshot = layout.parse_snapshot_id(alias.snapshot) if alias else None
    if snapshot is None:
        raise NoSnapshotError(f"there is no snapshot or alias {name!r} in {catalog.store.url}")
    return snapshot


def read_alias(catalog: Catalog, name: str) -> Alias | None:
    """Return what a name stands for; None when it was never set. One listing and one get."""
    if (key := _newest_version(catalog, name)) is None:
        return None
    try:
        alias = _decoder.decode(read_record(catalog.store, key, _MAX_ALIAS_BYTES))
    except UNREADABLE as error:
        raise ManifestError(f"alias {name!r} is damaged: {error}") from error
    if alias.name != name or alias.version != layout.version_of_alias_key(key):
        raise ManifestError(f"alias {name!r} is damaged: what stands under {key} is for another one")
    return alias


def _newest_version(catalog: Catalog, name: str) -> str | None:
    """Key of what a name stands for; a second listing only when a foreign object stands first."""
    for limit in (1, None):
        empty = True
        for found in catalog.store.list(layout.alias_prefix(name), limit=limit):
            empty = False
            if layout.version_of_alias_key(found.key) is not None:
                return found.key
        if empty:
            break
    return None


def all_aliases(catalog: Catalog, *, skip_damaged: bool = False) -> dict[str, Alias]:
    """Return every alias by name.

    Args:
        catalog: of the run.
        skip_damaged: leave out those that cannot be read, for who only shows them.

    Raises:
        ManifestError: one is damaged, and `skip_damaged` is not set.
    """
    keys = (found.key for found in catalog.store.list(layout.ALIASES))
    names = {key.split("/")[1] for key in keys if layout.version_of_alias_key(key) is not None}
    found: dict[str, Alias] = {}
    for name in sorted(names):
        try:
            alias = read_alias(catalog, name)
        except ManifestError:
            if not skip_damaged:
                raise
            continue
        if alias is not None:
            found[name] = alias
    return found


def name_committed(catalog: Catalog, snapshot: SnapshotId, name: str | None) -> None:
    """Let a name, if there is one, stand for a snapshot that was committed just now; who is told of a failure is told that as well.

    Raises:
        ManifestError: the alias is damaged.
        ConflictError: somebody changed the alias meanwhile.
    """
    if name is None:
        return
    try:
        promote(catalog, snapshot, name)
    except (ManifestError, ConflictError) as error:
        raise type(error)(f"snapshot {snapshot} is committed, but its name is not set: {error}") from error


def promote(catalog: Catalog, snapshot: SnapshotId, name: str, *, force: bool = False) -> Alias:
    """Let a name stand for a committed snapshot from now on. Safe to call again.

    Each change creates the alias' next version, only if it is absent: of two who change it at once, one is told.

    Args:
        catalog: of the run.
        snapshot: which.
        name: letters, digits, `.`, `_` and `-`.
        force: also when the snapshot is quarantined.

    Raises:
        NoSnapshotError: the snapshot is not committed.
        IntegrityError: it is quarantined, and `force` is not set; nothing was changed.
        ConfigError: the name cannot be used, or was changed as often as it can be.
        ConflictError: somebody changed the alias meanwhile.
    """
    if not force:
        catalog.get(snapshot)  # others trust a name without looking
        if catalog.is_quarantined(snapshot):
            raise IntegrityError(
                f"snapshot {snapshot} in {catalog.store.url} is quarantined; `verify` it, or use force (--force)"
            )
    elif not catalog.exists(snapshot):
        raise NoSnapshotError(f"snapshot {snapshot} is not committed in {catalog.store.url}")
    current = read_alias(catalog, name)
    if current is not None and current.snapshot == str(snapshot):
        return current
    version = current.version + 1 if current else 1
    if version > MAX_VERSION:
        raise ConfigError(f"alias {name!r} has no versions left; take another name")
    alias = Alias(name=name, snapshot=str(snapshot), version=version, created=timestamp(catalog.clock))
    data = msgspec.json.encode(alias, order="sorted")
    try:
        catalog.store.put(layout.alias_key(name, version), data, if_absent=catalog.store.traits.conditional_put)
    except ConflictError as error:
        now = read_alias(catalog, name)
        if now is None or now.snapshot != alias.snapshot:
            stands_for = now.snapshot if now else "nothing"
            raise ConflictError(f"alias {name!r} was set to {stands_for} meanwhile; look and promote again") from error
    return alias


def pin(catalog: Catalog, snapshot: SnapshotId) -> None:
    """Keep a committed snapshot from retention until it is unpinned. Safe to call again.

    Raises:
        NoSnapshotError: it is not committed.
    """
    if not catalog.exists(snapshot):
        raise NoSnapshotError(f"snapshot {snapshot} is not committed in {catalog.store.url}")
    catalog.store.put(layout.pin_key(snapshot), b"")


def unpin(catalog: Catalog, snapshot: SnapshotId) -> None:
    """Leave a snapshot to retention again. Safe to call again."""
    catalog.store.delete([layout.pin_key(snapshot)])


def pins(catalog: Catalog) -> set[SnapshotId]:
    """Return the pinned snapshots."""
    names = (found.key.removeprefix(layout.PINS) for found in catalog.store.list(layout.PINS))
    return {snapshot for name in names if (snapshot := layout.parse_snapshot_id(name)) is not None}
