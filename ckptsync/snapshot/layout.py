"""Every key in the bucket is made and read here. See docs/design/format.md, which this file implements.

Stores list in ascending order only, so keys that are asked "which is the newest?" carry the complement of their number:
the newest sorts first, and one listing of one key answers.
"""

from __future__ import annotations

import hashlib
import operator
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass

from ckptsync.errors import ConfigError, ManifestError

EPOCH_DIGITS, STEP_DIGITS, VERSION_DIGITS, RANK_DIGITS = 8, 12, 8, 5
MAX_EPOCH, MAX_STEP, MAX_VERSION = int("9" * EPOCH_DIGITS), int("9" * STEP_DIGITS), int("9" * VERSION_DIGITS)
MAX_WORLD = int("9" * RANK_DIGITS)
MAX_LAUNCH_LETTERS = 200
MAX_ALIAS_LETTERS = 100
MAX_KEY_BYTES = 900  # S3 and GCS take 1024; what is left is for the run URL's own prefix
MAX_SEGMENT_BYTES = 255  # what the usual file systems take

MANIFESTS, DATA, WRITERS, LAUNCHES, JOURNALS, RANKS, PINS, ALIASES, LEASES, QUARANTINE = (
    "manifests/",
    "data/",
    "writers/",
    "launches/",
    "journals/",
    "ranks/",
    "pins/",
    "aliases/",
    "leases/",
    "quarantine/",
)

_ID = re.compile(r"([0-9]{8})-([0-9]{12})-([a-z0-9]{8})")
_MANIFEST = re.compile(rf"{MANIFESTS}(.+)\.json")
_WRITER = re.compile(rf"{WRITERS}([0-9]{{8}})\.json")
_VERSION = re.compile(rf"{ALIASES}([^/]+)/([0-9]{{8}})\.json")
_JOURNAL = re.compile(rf"{JOURNALS}([^/]+)/(?:journal(?:-[0-9]{{5}})?\.json|adopted-by/(.+))")
_REPORT = re.compile(rf"{RANKS}([^/]+)/([0-9]{{5}})-of-([0-9]{{5}})\.json")
_LAUNCH = re.compile(rf"{LAUNCHES}[0-9a-f]{{32}}")
_CONTENT = re.compile(rf"{RANKS}([^/]+)/content/[0-9a-f]{{32}}")
_LEASE = re.compile(rf"{LEASES}([^/]+)/[a-z0-9]{{8}}")
_QUARANTINED = re.compile(rf"{QUARANTINE}(.+)\.json")
_ALIAS = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_ALIAS_LETTERS - 1}}}")
_NONCE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_NONCE_LETTERS = 8
SNAPSHOT_ID_LETTERS = EPOCH_DIGITS + 1 + STEP_DIGITS + 1 + _NONCE_LETTERS


@dataclass(frozen=True, slots=True, order=True)
class SnapshotId:
    """Names one attempt to save one step; later epochs come after earlier ones whatever their steps.

    Attributes:
        epoch: which writer of the run, 1 to 99 999 999.
        step: training step, 0 to 999 999 999 999.
        nonce: eight random characters, so that two attempts never share a key.
    """

    epoch: int
    step: int
    nonce: str

    def __post_init__(self) -> None:
        if not all(type(number) is int for number in (self.epoch, self.step)):
            raise ConfigError(f"step {self.step!r} is not a whole number")
        if not 1 <= self.epoch <= MAX_EPOCH:
            raise ConfigError(f"epoch {self.epoch} is out of range 1..{MAX_EPOCH}")
        if not 0 <= self.step <= MAX_STEP:
            raise ConfigError(f"step {self.step} is out of range 0..{MAX_STEP}")

    def __str__(self) -> str:
        return f"{self.epoch:0{EPOCH_DIGITS}d}-{self.step:0{STEP_DIGITS}d}-{self.nonce}"


def checked_step(step: object) -> int:
    """Return a training step as an int; numpy's whole numbers are some too, True is none.

    Raises:
        ConfigError: it is no whole number, or out of range.
    """
    if not isinstance(step, bool):
        with suppress(TypeError):
            return SnapshotId(1, operator.index(step), "x" * _NONCE_LETTERS).step  # type: ignore[arg-type]  # whether it is one is asked
    raise ConfigError(f"step {step!r} is not a whole number")


def new_snapshot_id(epoch: int, step: int) -> SnapshotId:
    """Make the id of a new attempt.

    Raises:
        ConfigError: epoch or step out of range.
    """
    return SnapshotId(epoch, step, _nonce())


def _nonce() -> str:
    """Eight random letters and digits."""
    return "".join(secrets.choice(_NONCE_ALPHABET) for _ in range(_NONCE_LETTERS))


def shared_snapshot_id(epoch: int, step: int, launch: str) -> SnapshotId:
    """Make the id under which all ranks of a launch save a step: each finds the same without asking the others.

    Raises:
        ConfigError: epoch or step out of range.
    """
    number = int.from_bytes(hashlib.blake2b(f"{step}\n{launch}".encode(), digest_size=16).digest(), "big")
    letters = []
    for _ in range(_NONCE_LETTERS):
        number, letter = divmod(number, len(_NONCE_ALPHABET))
        letters.append(_NONCE_ALPHABET[letter])
    return SnapshotId(epoch, step, "".join(letters))


def parse_snapshot_id(text: str) -> SnapshotId | None:
    """Read an id back, or return None when the text is none."""
    found = _ID.fullmatch(text)
    return SnapshotId(int(found[1]), int(found[2]), found[3]) if found and int(found[1]) else None


def _newest_first(snapshot: SnapshotId) -> str:
    """The id with epoch and step complemented, so that the newest sorts first."""
    epoch, step = MAX_EPOCH - snapshot.epoch, MAX_STEP - snapshot.step
    return f"{epoch:0{EPOCH_DIGITS}d}-{step:0{STEP_DIGITS}d}-{snapshot.nonce}"


def _from_newest_first(text: str) -> SnapshotId | None:
    """The id back from its complement; None for anything else."""
    found = _ID.fullmatch(text)
    if not found or int(found[1]) == MAX_EPOCH:
        return None
    return SnapshotId(MAX_EPOCH - int(found[1]), MAX_STEP - int(found[2]), found[3])


def manifest_key(snapshot: SnapshotId) -> str:
    """Key of the commit record: the newest sorts first."""
    return f"{MANIFESTS}{_newest_first(snapshot)}.json"


def snapshot_of_manifest_key(key: str) -> SnapshotId | None:
    """Read the id out of a manifest's key; None for foreign keys."""
    found = _MANIFEST.fullmatch(key)
    return _from_newest_first(found[1]) if found else None


def data_prefix(snapshot: SnapshotId) -> str:
    """Folder of an attempt's files."""
    return f"{DATA}{snapshot}/"


def data_key(snapshot: SnapshotId, path: str) -> str:
    """Key of one file of an attempt.

    Raises:
        ConfigError: the key would be longer than the clouds take.
    """
    key = f"{data_prefix(snapshot)}{path}"
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigError(f"path {path[:60]!r}… is too long: its key would pass {MAX_KEY_BYTES} bytes")
    return key


def writer_key(epoch: int) -> str:
    """Key of the claim on an epoch: the newest sorts first."""
    return f"{WRITERS}{MAX_EPOCH - epoch:0{EPOCH_DIGITS}d}.json"


def epoch_of_writer_key(key: str) -> int | None:
    """Read the epoch out of a claim's key; None for foreign keys."""
    found = _WRITER.fullmatch(key)
    return MAX_EPOCH - int(found[1]) if found and int(found[1]) < MAX_EPOCH else None


def journal_prefix(snapshot: SnapshotId) -> str:
    """Folder of what is known about an attempt: the newest sorts first."""
    return f"{JOURNALS}{_newest_first(snapshot)}/"


def journal_key(snapshot: SnapshotId, rank: int | None = None) -> str:
    """Key of the record of what an attempt, or one of its ranks, may have written."""
    return f"{journal_prefix(snapshot)}journal{'' if rank is None else f'-{rank:0{RANK_DIGITS}d}'}.json"


def adoption_key(earlier: SnapshotId, later: SnapshotId) -> str:
    """Key that says: `later` continues `earlier` and may name its data."""
    return f"{journal_prefix(earlier)}adopted-by/{later}"


def condemned_key(attempt: SnapshotId) -> str:
    """Key that says: gc is about to delete what this attempt wrote; nobody may continue it any more."""
    return f"{journal_prefix(attempt)}condemned"


def journal_of_key(key: str) -> tuple[SnapshotId, SnapshotId | None] | None:
    """Read the attempt out of a journal's key, and the adopter where it is an adoption; None for foreign keys."""
    found = _JOURNAL.fullmatch(key)
    attempt = _from_newest_first(found[1]) if found else None
    if found is None or attempt is None:
        return None
    if found[2] is None:
        return attempt, None
    adopter = parse_snapshot_id(found[2])
    return (attempt, adopter) if adopter else None


def report_prefix(snapshot: SnapshotId) -> str:
    """Folder of the reports of an attempt's ranks: the newest sorts first."""
    return f"{RANKS}{_newest_first(snapshot)}/"


def report_key(snapshot: SnapshotId, rank: int, world: int) -> str:
    """Key of what one rank has brought to an attempt."""
    return f"{report_prefix(snapshot)}{rank:0{RANK_DIGITS}d}-of-{world:0{RANK_DIGITS}d}.json"


def report_of_key(key: str) -> tuple[SnapshotId, int, int] | None:
    """Read attempt, rank and number of ranks out of a report's key; None for foreign keys."""
    found = _REPORT.fullmatch(key)
    attempt = _from_newest_first(found[1]) if found else None
    return (attempt, int(found[2]), int(found[3])) if found and attempt else None


def epoch_prefix(folder: str, epoch: int) -> str:
    """What all keys of an epoch begin with in a folder that sorts the newest first."""
    return f"{folder}{MAX_EPOCH - epoch:0{EPOCH_DIGITS}d}-"


def committer_key(attempt: SnapshotId) -> str:
    """Key that says which rank reads the reports, so that the others need not; a hint, which decides nothing."""
    return f"{report_prefix(attempt)}committer"


def launch_key(launch: str) -> str:
    """Key that says: this launch has claimed the run once, and never may again."""
    return f"{LAUNCHES}{hashlib.blake2b(launch.encode(), digest_size=16).hexdigest()}"


def is_launch_key(key: str) -> bool:
    """Tell whether a key says that a launch has claimed the run."""
    return _LAUNCH.fullmatch(key) is not None


def content_key(attempt: SnapshotId, path: str) -> str:
    """Key of the digest that the file of an attempt's ranks at `path` must have, whoever writes it."""
    return f"{report_prefix(attempt)}content/{hashlib.blake2b(path.encode(), digest_size=16).hexdigest()}"


def is_content_key(key: str) -> bool:
    """Tell whether a key says what the file of an attempt's ranks must hold."""
    return _CONTENT.fullmatch(key) is not None


def attempt_of_report_folder(key: str) -> SnapshotId | None:
    """Read the attempt out of the key of whatever its ranks put beside their data; None for foreign keys."""
    attempt = _from_newest_first(key.removeprefix(RANKS).partition("/")[0]) if key.startswith(RANKS) else None
    known = report_of_key(key) or is_content_key(key)
    return attempt if attempt and (known or key == committer_key(attempt)) else None


def pin_key(snapshot: SnapshotId) -> str:
    """Key that keeps a snapshot from retention."""
    return f"{PINS}{snapshot}"


def lease_prefix(snapshot: SnapshotId) -> str:
    """Folder of the leases of those who read a snapshot."""
    return f"{LEASES}{snapshot}/"


def new_lease_key(snapshot: SnapshotId) -> str:
    """Make the key of a new reader's lease on a snapshot."""
    return f"{lease_prefix(snapshot)}{_nonce()}"


def snapshot_of_lease_key(key: str) -> SnapshotId | None:
    """Read the snapshot out of a lease's key; None for foreign keys."""
    found = _LEASE.fullmatch(key)
    return parse_snapshot_id(found[1]) if found else None


def quarantine_key(snapshot: SnapshotId) -> str:
    """Key of the record that says why a snapshot is not to be trusted."""
    return f"{QUARANTINE}{snapshot}.json"


def snapshot_of_quarantine_key(key: str) -> SnapshotId | None:
    """Read the snapshot out of a quarantine record's key; None for foreign keys."""
    found = _QUARANTINED.fullmatch(key)
    return parse_snapshot_id(found[1]) if found else None


def alias_prefix(name: str) -> str:
    """Folder of an alias' versions.

    Raises:
        ConfigError: the name cannot be used.
    """
    if not _is_alias(name):
        raise ConfigError(
            f"{name!r} cannot be an alias: use 1 to {MAX_ALIAS_LETTERS} letters, digits, '.', '_' and '-', neither a number "
            "nor `latest`"
        )
    return f"{ALIASES}{name}/"


def _is_alias(name: object) -> bool:
    """Whether a word can stand for a snapshot and for nothing else."""
    return (
        isinstance(name, str)
        and bool(_ALIAS.fullmatch(name))
        and name != "latest"
        and not name.isdigit()
        and not parse_snapshot_id(name)
    )


def alias_key(name: str, version: int) -> str:
    """Key of one version of an alias: the newest sorts first."""
    return f"{alias_prefix(name)}{MAX_VERSION - version:0{VERSION_DIGITS}d}.json"


def version_of_alias_key(key: str) -> int | None:
    """Read the version out of an alias' key; None for foreign keys."""
    found = _VERSION.fullmatch(key)
    if not found or not _is_alias(found[1]) or int(found[2]) == MAX_VERSION:
        return None
    return MAX_VERSION - int(found[2])


def check_path(path: str) -> str:
    """Return `path` when it is a plain relative path that stays below whatever it is joined to.

    Raises:
        ManifestError: empty, absolute, with `..`, `.`, empty or NUL-bearing segments, too long, or not valid Unicode.
    """
    segments = path[: MAX_KEY_BYTES + 1].split("/")
    if "" in segments or "." in segments or ".." in segments or "\0" in path:
        raise ManifestError(f"unsafe path {path[:MAX_KEY_BYTES]!r}")
    try:
        size = len(path) if path.isascii() else len(path.encode())
    except UnicodeEncodeError as error:
        raise ManifestError(f"path {path[:MAX_KEY_BYTES]!r} is not valid Unicode") from error
    if size > MAX_KEY_BYTES:
        raise ManifestError(f"path {path[:60]!r}… is too long: more than {MAX_KEY_BYTES} bytes")
    if size > MAX_SEGMENT_BYTES and any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        raise ManifestError(f"path {path[:60]!r}… is too long: more than {MAX_SEGMENT_BYTES} bytes between two slashes")
    return path
