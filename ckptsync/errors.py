"""The one error tree.

    CkptsyncError                 exit 1   anything we raise on purpose
    ├── ConfigError               exit 2   bad argument, option, URL or path; nothing was touched
    ├── StoreError                exit 3   the bucket refused or failed
    │   ├── TransientError                 may succeed when tried again; the only retryable one
    │   ├── NotFoundError                  the bucket, object or upload is not there
    │   ├── ConflictError                  a conditional put lost: something is there already
    │   ├── DeniedError                    credentials are valid but lack a right
    │   ├── CredentialsError               credentials are absent, wrong or expired
    │   └── UnsupportedError               the service cannot do what was asked
    ├── IntegrityError            exit 4   bytes are not what was committed
    │   └── ManifestError                  a commit record cannot be read
    │       └── VersionError               it was written by a newer ckptsync: nothing is damaged
    ├── FencedError               exit 5   a newer writer owns the run
    ├── NoSnapshotError           exit 6   there is nothing to restore: start from zero
    ├── IncompleteError           exit 7   files or ranks are missing; nothing was committed
    │   └── SourceChangedError             a file changed while it was being read
    ├── DiskError                 exit 8   the local disk is full, read-only or failing
    └── NotDurableError           exit 75  work was left that is not in the bucket

Exit codes are an interface: start-up scripts and the sidecar's caller branch on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ckptsync.redaction import redacted


class CkptsyncError(Exception):
    """Base of every error ckptsync raises on purpose; `exit_code` is what the command line exits with.

    Attributes:
        was_told: whether an observer told of it when it happened, so that it is not said again at the end.
    """

    exit_code: ClassVar[int] = 1
    was_told: bool = False

    def __init__(self, *args: object) -> None:
        """Keep the sentence, without the credentials that an address in it may carry."""
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in args))


class ConfigError(CkptsyncError, ValueError):
    """An argument, option, URL or path cannot be used; nothing was read or written."""

    exit_code = 2


class StoreError(CkptsyncError):
    """A request to the store failed for good.

    Attributes:
        op: the store verb, as in `put_part`.
        key: the key asked for, relative to the run, empty when there is none.
        attempts: how many times it was tried, 1 or more.
        request_id: the service's own id of the last request, for its support desk; empty when unknown.
        path: the file concerned, relative to the snapshot, empty when none; see `naming`.
        part: 1-based number of the part concerned, 0 when none.
        parts: how many parts the file has.
        rank: of the process that asked, None when it has none.
    """

    exit_code = 3

    def __init__(self, message: str, *, op: str = "", key: str = "", attempts: int = 1, request_id: str = "") -> None:
        """Keep the facts beside the sentence."""
        super().__init__(message)
        self.op = op
        self.key = key
        self.attempts = attempts
        self.request_id = request_id
        self.path = ""
        self.part = 0
        self.parts = 0
        self.rank: int | None = None

    def __str__(self) -> str:
        """One sentence, then what a support desk asks for."""
        facts = [
            text
            for shown, text in (
                (self.op, f"during {self.op}"),
                (self.rank is not None, f"rank {self.rank}"),
                (self.path, f"file {self.path}"),
                (self.part, f"part {self.part} of {self.parts}"),
                (self.key, f"key {self.key!r}"),
                (self.attempts > 1, f"{self.attempts} attempts"),
                (self.request_id, f"request {self.request_id}"),
            )
            if shown
        ]
        return f"{self.args[0]} ({', '.join(facts)})" if facts else str(self.args[0])


@contextmanager
def naming(path: str = "", *, part: int = 0, parts: int = 0, rank: int | None = None) -> Iterator[None]:
    """Let a `StoreError` that leaves the `with` block say what it was about; what it says already stays.

    Args:
        path: the file, relative to the snapshot; empty leaves file and part alone.
        part: 1-based; 0 for none.
        parts: how many the file has.
        rank: of this process; None leaves it alone.
    """
    try:
        yield
    except StoreError as error:
        if path and not error.path:
            error.path, error.part, error.parts = path, part, parts
        if error.rank is None:
            error.rank = rank
        raise


class TransientError(StoreError):
    """The request may succeed when tried again.

    Attributes:
        throttled: the service asked for a slower pace (S3 503 SlowDown, 429).
        retry_after_s: the pause the service asked for, in seconds; None when it named none.
        received: bytes of a `get` that had arrived before it broke; the next try may start behind them.
        queued_s: seconds the request waited for its turn on this machine; they do not count against its deadline.
    """

    def __init__(
        self,
        message: str,
        *,
        op: str = "",
        key: str = "",
        attempts: int = 1,
        request_id: str = "",
        throttled: bool = False,
        retry_after_s: float | None = None,
        received: int = 0,
    ) -> None:
        """Keep what the next try needs."""
        super().__init__(message, op=op, key=key, attempts=attempts, request_id=request_id)
        self.throttled = throttled
        self.retry_after_s = retry_after_s
        self.received = received
        self.queued_s = 0.0


class NotFoundError(StoreError, FileNotFoundError):
    """The bucket, object or multipart upload is not there (never raised for a mere lack of rights)."""


class ConflictError(StoreError):
    """A put with `if_absent` found an object, or a pinned object was replaced meanwhile."""


class DeniedError(StoreError, PermissionError):
    """The credentials are known to the service but lack the right for this request."""


class CredentialsError(StoreError):
    """No usable credentials: none found, wrong, or expired and not renewable."""


class UnsupportedError(StoreError):
    """The service or store cannot do what was asked; its traits say so beforehand."""


class IntegrityError(CkptsyncError):
    """Bytes differ from what was committed, or from what was sent."""

    exit_code = 4


class ManifestError(IntegrityError):
    """A commit record is damaged, of an unknown format, or names unsafe paths."""


class VersionError(ManifestError):
    """A record is of a later format version than this ckptsync reads; nothing is damaged, and nothing older stands in for it."""


class FencedError(CkptsyncError):
    """A newer writer has claimed the run: this one must stop, its snapshot was not committed."""

    exit_code = 5


class NoSnapshotError(CkptsyncError):
    """No committed snapshot fits the request."""

    exit_code = 6


class IncompleteError(CkptsyncError):
    """Files or ranks are missing, so nothing was committed; the previous snapshot stays the latest.

    Attributes:
        missing: ranks that have not saved their part; empty when it is not about ranks.
    """

    exit_code = 7
    missing: tuple[int, ...] = ()


class SourceChangedError(IncompleteError):
    """A source file changed while it was being read; save again when it is at rest."""


class DiskError(CkptsyncError, OSError):
    """The local disk is full, read-only or failing."""

    exit_code = 8


class NotDurableError(CkptsyncError):
    """The process ends with work that is not in the bucket; the journal keeps it for the next start."""

    exit_code = 75
