"""The commit record: what a snapshot holds, as a value, and its bytes.

See docs/design/format.md, which this file implements. Decoding trusts nothing: a manifest from a stranger can neither name
files outside the target nor objects outside its run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ckptsync.errors import ConfigError, ManifestError
from ckptsync.snapshot.cost import Cost, Natural
from ckptsync.snapshot.digest import DIGEST_BYTES, file_digest, part_count, part_span
from ckptsync.snapshot.encoding import Encoding
from ckptsync.snapshot.envelope import UNREADABLE, seal, unseal
from ckptsync.snapshot.layout import SnapshotId, check_path, parse_snapshot_id
from ckptsync.snapshot.signature import PublicKey, Signer

FORMAT, VERSION = "ckptsync-manifest", 1
PACKED_VERSION = 2
"""Of manifests with a packed file: who knows the first version alone must stop there, not take the snapshot for damaged."""
# Why these: docs/design/format.md, Limits. Each is refused before the memory it would cost is taken.
MAX_ENTRIES = 2_000_000
MAX_FOLDERS = 1_000_000
MAX_PARTS = 1_000_000
MAX_TARGET_BYTES = 4095
MAX_BESIDE_BYTES = 16 << 20

_HEX = b"0123456789abcdef"
_AT_ONCE = 4096  # digests looked at together: a million one by one take longer than all else about them
_Digest = Annotated[str, Meta(min_length=2 * DIGEST_BYTES, max_length=2 * DIGEST_BYTES)]
_Mode = Annotated[int, Meta(ge=0, le=0o7777)]
_Time = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


# gc=False: it holds text and numbers alone, so that it is in no cycle, and there may be a million to look for cycles in
class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="file", gc=False):
    """One regular file.

    Attributes:
        path: relative to the snapshot's root, `/` between segments.
        size: bytes.
        mode: permission bits.
        mtime_ns: modification time, nanoseconds since the Unix epoch.
        key: the object that holds it, relative to the run.
        tag: the service's version of that object when it was written, empty when unknown; a copy is pinned to it.
        part_bytes: where it is cut; every part but the last is so long. 0 when it is empty.
        parts: BLAKE3 of each part, in order.
        encoding: how its object is packed; unset when that is the file as it is.
    """

    path: str
    size: Natural
    mode: _Mode = 0o644
    mtime_ns: _Time = 0
    key: str
    tag: str = ""
    part_bytes: Natural
    parts: tuple[_Digest, ...]
    encoding: Encoding | msgspec.UnsetType = msgspec.UNSET

    @property
    def digest(self) -> str:
        """Digest of the whole file, 64 hex digits."""
        return file_digest(self.parts)

    @property
    def packing(self) -> Encoding | None:
        """How its object is packed, None when that is the file as it is."""
        return None if self.encoding is msgspec.UNSET else self.encoding

    @property
    def stored_size(self) -> int:
        """Bytes of its object."""
        return self.size if self.encoding is msgspec.UNSET else self.encoding.size

    def stored_span(self, number: int) -> tuple[int, int]:
        """Return offset and size in bytes of part `number` (1-based) in its object."""
        if self.encoding is msgspec.UNSET:
            return part_span(number, self.size, self.part_bytes)
        return self.encoding.span(number)


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="symlink"):
    """One symbolic link whose target stays inside the snapshot.

    Attributes:
        path: where the link stands.
        target: relative to the link's own folder, as `readlink` gives it.
    """

    path: str
    target: str


class DirectoryEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="directory"):
    """One directory, the root (path `.`) left out.

    Attributes:
        path: relative to the snapshot's root.
        mode: permission bits.
    """

    path: str
    mode: _Mode = 0o755


Entry = FileEntry | LinkEntry | DirectoryEntry


class Writer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wrote it.

    Attributes:
        host: the machine's name.
        pid: the process.
    """

    host: str
    pid: Natural


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it was made with, as far as known.

    Attributes:
        versions: `python`, `torch`, `cuda`, `ckptsync` and so on.
        git_commit: of the working directory, with `-dirty` behind it when files differ.
        config_fingerprint: digest of the training configuration, from the caller.
    """

    versions: dict[str, str] = {}
    git_commit: str = ""
    config_fingerprint: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A committed snapshot.

    Attributes:
        snapshot: its id, `epoch-step-nonce`.
        commit_id: 32 random hex digits; tells our own commit from another's when an answer was lost.
        kind: whether the root is a directory or a single file.
        mode: permission bits of the root directory.
        created: RFC 3339, UTC, by the writer's clock; for people, nothing is ordered by it.
        entries: files, links and directories, sorted by path.
        metrics: numbers to choose by; None stands for NaN and infinities, which JSON lacks.
        meta: free text by name.
        parent: id of the snapshot that was the latest at the time, empty when there was none.
        writer: who committed it.
        ranks: who brought it, by rank; empty when there was a single writer.
        provenance: what it was made with.
        cost: what saving it took.
    """

    snapshot: str
    commit_id: str
    kind: Literal["directory", "file"] = "directory"
    mode: _Mode = 0o755
    created: str
    entries: tuple[Entry, ...]
    metrics: dict[str, float | None] = {}
    meta: dict[str, str] = {}
    parent: str = ""
    writer: Writer
    ranks: tuple[Writer, ...] = ()
    provenance: Provenance = Provenance()
    cost: Cost = Cost()

    @property
    def id(self) -> SnapshotId:
        """The id, taken apart."""
        found = parse_snapshot_id(self.snapshot)
        if found is None:
            raise ManifestError(f"{self.snapshot!r} is not a snapshot id")
        return found

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The regular files alone."""
        return tuple(entry for entry in self.entries if isinstance(entry, FileEntry))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def stored_size(self) -> int:
        """Bytes of all their objects."""
        return sum(file.stored_size for file in self.files)

    @property
    def version(self) -> int:
        """The format's version that can say all this."""
        return PACKED_VERSION if any(file.packing for file in self.files) else VERSION


class _Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest whose entries are not read yet."""

    entries: msgspec.Raw


_decoder = msgspec.json.Decoder(Manifest)
_outlines = msgspec.json.Decoder(_Outline)


def encode(manifest: Manifest, signer: Signer | None = None) -> bytes:
    """Return the manifest as canonical JSON: keys sorted, no spaces, UTF-8. Equal manifests give equal bytes.

    Args:
        manifest: what to commit.
        signer: signs it; None leaves it unsigned.
    """
    return seal(FORMAT, manifest.version, msgspec.json.encode(manifest, order="sorted"), signer)


def decode(data: bytes, snapshot: SnapshotId | None = None, *, required: tuple[PublicKey, ...] = ()) -> Manifest:
    """Read a manifest, believing nothing.

    Args:
        data: the object's content.
        snapshot: the id its key named; another one inside is refused.
        required: keys of which one must have signed it; none means that a signature is not looked at.

    Raises:
        ManifestError: damaged, of another format version, not signed as required, over a limit, or unsafe; the sentence
            says which.
    """
    body, version = unseal(data, FORMAT, PACKED_VERSION, required)
    try:
        _check_outline(data, body)
        manifest = _decoder.decode(body)
    except UNREADABLE as error:
        raise ManifestError(f"manifest cannot be understood: {error}") from error
    if snapshot is not None and manifest.snapshot != str(snapshot):
        raise ManifestError(f"manifest of {manifest.snapshot} stands under the key of {snapshot}")
    if manifest.version > version:
        raise ManifestError(f"manifest of version {version} has a packed file, which only version {PACKED_VERSION} has")
    check_entries(manifest)
    return manifest


def _check_outline(data: bytes, body: memoryview) -> None:
    """Refuse what would take more memory, once it is read, than a manifest within the limits.

    Raises:
        ManifestError: too many entries, or too much beside them.
    """
    beside = len(body) - len(memoryview(_outlines.decode(body).entries))
    if beside > MAX_BESIDE_BYTES:
        raise ManifestError(f"manifest has {beside} bytes beside its entries, more than {MAX_BESIDE_BYTES}")
    if data.count(b"{") > 2 * MAX_ENTRIES + beside:  # a name may hold a brace, an entry must
        raise ManifestError(f"manifest has more than {MAX_ENTRIES} entries")


def check_entries(manifest: Manifest) -> None:
    """Refuse entries that do not make one tree below the target.

    Raises:
        ManifestError: an unsafe or repeated path, a path below a file or link, a link that leaves the tree, parts that do
            not cover the file, a key outside the run, or more of something than the limits allow.
    """
    _ = manifest.id
    if len(manifest.entries) > MAX_ENTRIES:
        raise ManifestError(f"manifest has {len(manifest.entries)} entries, more than {MAX_ENTRIES}")
    _check_folders(manifest)
    seen: set[str] = set()
    for entry in manifest.entries:
        if entry.path in seen:
            raise ManifestError(f"path {entry.path!r} stands twice in the manifest")
        seen.add(entry.path)
        if isinstance(entry, FileEntry):
            _check_file(entry)
        elif isinstance(entry, LinkEntry) and not link_stays_inside(entry.path, entry.target):
            raise ManifestError(f"link {entry.path!r} leaves the snapshot: it points to {entry.target[:200]!r}")
    if manifest.kind == "file" and (len(manifest.entries) != 1 or not manifest.files or "/" in manifest.files[0].path):
        raise ManifestError("a snapshot of a single file holds something else")


def _check_folders(manifest: Manifest) -> None:
    """Refuse unsafe paths, paths below what is no folder, and more folders than the limit; looks at each folder once."""
    solid = {entry.path for entry in manifest.entries if not isinstance(entry, DirectoryEntry)}
    folders: set[str] = set()
    for entry in manifest.entries:
        for folder in _parents(check_path(entry.path)):
            if folder in folders:
                break
            if folder in solid:
                raise ManifestError(f"path {entry.path!r} lies below {folder!r}, which is no directory")
            folders.add(folder)
        if len(folders) > MAX_FOLDERS:
            raise ManifestError(f"manifest has more than {MAX_FOLDERS} folders")


def _parents(path: str) -> Iterable[str]:
    """Every folder above a path, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _check_file(entry: FileEntry) -> None:
    """Refuse parts that do not cover the file, and keys outside the run."""
    check_path(entry.key)
    if entry.size and not entry.part_bytes:
        raise ManifestError(f"file {entry.path!r} has {entry.size} bytes but no part size")
    expected = part_count(entry.size, entry.part_bytes) if entry.size else 0
    if expected > MAX_PARTS:
        raise ManifestError(f"file {entry.path!r} has {expected} parts, more than {MAX_PARTS}")
    if len(entry.parts) != expected:
        raise ManifestError(f"file {entry.path!r} needs {expected} part digests and has {len(entry.parts)}")
    if not _are_hex(entry.parts):
        raise ManifestError(f"file {entry.path!r} has a part digest that is not BLAKE3 in hex")
    if entry.packing and not (entry.size and entry.packing.fits(entry.size, entry.part_bytes)):
        raise ManifestError(f"file {entry.path!r} cannot be packed into parts that end where its manifest says")


def _are_hex(digests: Sequence[str]) -> bool:
    """Whether texts that are as long as digests are made of lower-case hex digits alone."""
    for first in range(0, len(digests), _AT_ONCE):
        text = "".join(digests[first : first + _AT_ONCE])
        if not text.isascii() or text.encode().translate(None, _HEX):
            return False
    return True


def link_stays_inside(path: str, target: str) -> bool:
    """Tell whether a link at `path` (relative to the root) points below the root, whatever other links there are.

    The target may climb only out of the link's own folders, and only at its beginning.
    """
    if (
        not target
        or target.startswith("/")
        or "\0" in target
        or len(target.encode("utf-8", "surrogatepass")) > MAX_TARGET_BYTES
    ):
        return False
    segments = [segment for segment in target.split("/") if segment not in {"", "."}]
    climbs = 0
    while climbs < len(segments) and segments[climbs] == "..":
        climbs += 1
    return ".." not in segments[climbs:] and climbs <= path.count("/")


def checked_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Turn metrics into what JSON can hold: NaN and infinities become None.

    Raises:
        ConfigError: a value is no number, or a name is empty or has `:` or `=` in it, which `best:NAME:min` could not address.
    """
    return {name: value if math.isfinite(value) else None for name, value in copied_metrics(metrics).items()}


def copied_metrics(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return metrics as numbers of their own: a tensor, or the mapping itself, may have other values by the time they are written.

    Raises:
        ConfigError: as `checked_metrics`.
    """
    copied: dict[str, float] = {}
    for name, given in metrics.items():
        if not _is_text(name) or not name or ":" in name or "=" in name:
            raise ConfigError(f"metric name {name!r} is no text, is empty or has ':' or '=' in it")
        try:
            copied[name] = float(given.detach() if hasattr(given, "detach") else given)  # type: ignore[arg-type]  # it may be
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last is torch's
            raise ConfigError(f"metric {name!r} is {given!r}, which is no number") from error
    return copied


def checked_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """Return free text by name as it may stand in a manifest.

    Raises:
        ConfigError: a name or value is no text, or cannot be written as UTF-8; a reader would refuse the whole manifest.
    """
    for name, value in meta.items():
        if not _is_text(name) or not _is_text(value):
            raise ConfigError(f"meta {name!r} is {value!r}; names and values must be text")
    return dict(meta)


def _is_text(value: object) -> bool:
    """Whether JSON can hold a value as text: a name from the disk may have bytes in it that are no UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
