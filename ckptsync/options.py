"""Every option that can be set: its range, its default and what it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KIB, MIB = 1 << 10, 1 << 20
SECRETS = frozenset({"drain_token"})  # names of options whose value nobody may see

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
NonEmpty = Annotated[str, Meta(min_length=1)]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how long a request is tried.

    Attributes:
        attempts: tries of one request, 1 or more, counted anew whenever bytes moved. Tries that the service answered by asking
            for a slower pace do not count.
        base_s: the first pause is random between 0 and this; it doubles each time (full jitter).
        cap_s: no pause is longer, unless the service asks for it by Retry-After.
        deadline_s: no new try begins this long after the first, or after bytes moved.
    """

    attempts: Count = 10
    base_s: Positive = 0.25
    cap_s: Positive = 20.0
    deadline_s: Positive = 600.0


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits of one request.

    Attributes:
        connect_timeout_s: to open a connection.
        read_timeout_s: longest silence while a request is under way; the head of an answer must be whole by then.
        finish_timeout_s: longest silence while Google Cloud Storage puts an upload's parts together, for which it may take minutes.
        stall_timeout_s: content must move by at least `stall_bytes` in any so many seconds, or the connection is given up.
        stall_bytes: 1 or more; below that rate, what arrives does not count as progress that lets `retry` start anew.
    """

    connect_timeout_s: Positive = 10.0
    read_timeout_s: Positive = 60.0
    finish_timeout_s: Positive = 600.0
    stall_timeout_s: Positive = 60.0
    stall_bytes: Count = 64 * KIB


class S3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Amazon S3 and services that speak its protocol.

    Attributes:
        endpoint_url: another service's address; None leaves it to boto3 (which honours AWS_ENDPOINT_URL[_S3]).
        region: None leaves it to boto3.
        profile: a named profile of the AWS configuration files.
        addressing: `path` puts the bucket into the path; `auto` does so when `endpoint_url` is set.
        checksum: sent with every part and compared with what the service stored. `auto` is `crc64nvme`, quietly unchecked on
            services that do not answer with it; `none` sends no checksum header at all.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    checksum: Literal["auto", "crc64nvme", "none"] = "auto"


class Gcs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Google Cloud Storage.

    Attributes:
        endpoint_url: another address; None honours STORAGE_EMULATOR_HOST, else the real service.
        project: billing project; None leaves it to the credentials.
        anonymous: send no credentials; set by itself when an emulator is used.
    """

    endpoint_url: str | None = None
    project: str | None = None
    anonymous: bool = False


def processors() -> int:
    """How many this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bytes are moved.

    Attributes:
        part_bytes: size of a part, 5 MiB to 5 GiB; larger where a file would need more parts than the store takes.
        workers: parts in flight, 1 to 256; memory is bounded by `workers * part_bytes`, and twice that where files are packed. None
            begins with one for each processor and has more while that is faster: up to 32 in the memory of 8.
        processes: that move files of up to 1 MiB where there are thousands of them, 1 to 64. None has one for each processor,
            4 at most, but only this one where `workers` is set. A cap on the rate leaves everything to one.
        copy_unchanged: copy parts the previous snapshot has on the server instead of sending them.
        compress: `zstd` packs files where a sample of them shows that it saves a tenth or more; what is packed can be read
            by ckptsync alone, and needs the extra `zstd` on both sides.
        max_bytes_per_s: cap on payload, up and down together, 1 MiB or more a second; None for none.
        reread_source: read every file again before the commit. Without it a change is noticed by the file's times, which
            the kernel sets late, or on tmpfs never, when a file is written to through a memory map.
    """

    part_bytes: Annotated[int, Meta(ge=5 * MIB, le=5 << 30)] = 16 * MIB
    workers: Annotated[int, Meta(ge=1, le=256)] | None = None
    processes: Annotated[int, Meta(ge=1, le=64)] | None = None
    copy_unchanged: bool = True
    compress: Literal["none", "zstd"] = "none"
    max_bytes_per_s: Annotated[int, Meta(ge=MIB)] | None = None
    reread_source: bool = False

    @property
    def parts_in_flight(self) -> int:
        """Whole parts that are moved at once, and that memory is for."""
        return 8 if self.workers is None else self.workers

    @property
    def threads(self) -> tuple[int, int]:
        """How many a transfer begins with: one for each processor, but 2 at least and 8 at most; and how many it may have."""
        return (max(2, min(processors(), 8)) if self.workers is None else self.workers), self.most_workers

    @property
    def most_workers(self) -> int:
        """Threads that there may be, of which each has a file or a part."""
        return 32 if self.workers is None else self.workers


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signatures of manifests, with Ed25519 keys.

    Attributes:
        key: path of a private key in PEM; everything that is committed is signed with it.
        require: paths of public keys in PEM, several joined by `:` where they are one text; a manifest without a valid
            signature by one of them is refused.
    """

    key: NonEmpty | None = None
    require: tuple[NonEmpty, ...] = ()


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `ckptsync report` reckons with, in any one currency. What is not set is taken from the cloud's list.

    Attributes:
        gib_month: a GiB kept for a month.
        writes_per_1000: a thousand requests that write or list.
        reads_per_1000: a thousand requests that read.
    """

    gib_month: Annotated[float, Meta(ge=0)] | None = None
    writes_per_1000: Annotated[float, Meta(ge=0)] | None = None
    reads_per_1000: Annotated[float, Meta(ge=0)] | None = None


class Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sidecar, `ckptsync agent` and `ckptsync run`.

    Attributes:
        ready: rule by which a checkpoint is whole: `auto` recognises the framework by its files.
        quiet_s: with `ready` `quiet`, what has not changed for so long is whole.
        watch: `events` of the kernel, `polling` where there are none, as on network filesystems; `auto` finds out.
        poll_s: between two looks, where events do not tell.
        backlog: `latest` skips checkpoints that newer ones overtake while an upload is under way, `all` uploads each in turn.
        keep_local: checkpoints that stay on the disk, the newest, 1 or more; older ones are deleted once they are durable. None deletes none.
        min_free_bytes: with less free on the disk, checkpoints that are durable are deleted, but for the newest; 0 deletes none.
        drain_timeout_s: how long a SIGTERM, a drain or the command's end may wait for what is not durable.
        host: address of the status port.
        port: of metrics, health and the status page, 0 for any that is free; None opens none.
        drain_token: what `POST /drain` from another machine must bear; None takes it from this machine alone.
        notices: sources of preemption notices, from `ec2`, `gce`, `signal`; `auto` asks which cloud this is, `none` watches nothing.
        notice_file: its appearance is a notice; it may say the deadline.
        notice_command: run every `poll_s`; when it ends with 0, that is a notice.
        ask: how the trainer is asked for a last checkpoint: `none`, `file:PATH`, `signal:NAME` (with `ckptsync run`), `http://…`, or
            `command:…`. What uses ckptsync as a library is asked by a file all the same.
        margin_s: before the deadline everything must be over, so that a clock or a request may be late.
        log: `json` writes an object a line.
        traces: export spans with OpenTelemetry.
    """

    ready: NonEmpty = "auto"
    quiet_s: Positive | None = None
    watch: Literal["auto", "events", "polling"] = "auto"
    poll_s: Positive = 5.0
    backlog: Literal["latest", "all"] = "latest"
    keep_local: Count | None = None
    min_free_bytes: Annotated[int, Meta(ge=0)] = 0
    drain_timeout_s: Positive = 300.0
    host: NonEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None
    drain_token: NonEmpty | None = None
    notices: NonEmpty = "auto"
    notice_file: NonEmpty | None = None
    notice_command: NonEmpty | None = None
    ask: NonEmpty = "none"
    margin_s: Annotated[float, Meta(ge=0)] = 3.0
    log: Literal["text", "json"] = "text"
    traces: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set.

    Attributes:
        single_writer: the caller vouches that nobody else writes to the run; needed where a store cannot prove
            conditional puts.
        state_dir: where journals lie; None is `$XDG_STATE_HOME/ckptsync`, or `~/.local/state/ckptsync`.
    """

    retry: Retry = Retry()
    http: Http = Http()
    s3: S3 = S3()
    gcs: Gcs = Gcs()
    transfer: Transfer = Transfer()
    signing: Signing = Signing()
    prices: Prices = Prices()
    agent: Agent = Agent()
    single_writer: bool = False
    state_dir: str | None = None

    def state_path(self) -> Path:
        """Return the directory for journals; it may not exist yet."""
        if self.state_dir:
            return Path(self.state_dir)
        base = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
        return Path(base) / "ckptsync"
