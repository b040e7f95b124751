"""One measurement: a client in a process of its own moves one object, and we note what that cost it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.peers import CLIENTS, ROOT, Cloud, Peer, python_of, version_of
from bench.processes import Running

Direction = Literal["put", "get"]
DIRECTIONS: tuple[Direction, ...] = ("put", "get")
TINY_BYTES = 4096
SEED = "seed"
_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one transfer cost.

    Attributes:
        peer: its name.
        cloud: the dialect.
        direction: from the client's view.
        size: bytes.
        cpu_s: of the client and its children, user and system, without its start.
        wall_s: without its start.
        start_up_cpu_s: until it could move the first byte, a tiny object included.
        peak_rss_bytes: of its largest process.
        sink_cpu_s: of the service meanwhile.
        error: why there are no figures; empty when there are.
    """

    peer: str
    cloud: Cloud
    direction: Direction
    size: int
    cpu_s: float = 0.0
    wall_s: float = 0.0
    start_up_cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    sink_cpu_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients are sent.

    Attributes:
        sink: the service.
        endpoint: its address, or that of a way to it.
        folder: for files, in memory.
        blob: what is uploaded.
        size: bytes of the blob.
        authority: PEM that vouches for the service; None without TLS.
        variables: for the environment of clients, where the service is another than the sink.
    """

    sink: Running
    endpoint: str
    folder: Path
    blob: Path
    size: int
    authority: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended, and what it used with its children."""

    status: int
    cpu_s: float
    wall_s: float
    peak_rss_bytes: int
    output: str
    complaint: str


def measure(peer: Peer, cloud: Cloud, direction: Direction, place: Place, *, check: bool = False) -> Sample:
    """Let a client move the blob, or fetch what it put before; `check` compares what came with the blob."""
    sample = Sample(peer=peer.name, cloud=cloud, direction=direction, size=place.size)
    if peer.package and not version_of(peer):
        return replace(sample, error="could not be installed")
    path = place.blob if direction == "put" else place.folder / "fetched"
    sink_before_s = place.sink.cpu_s()
    if peer.script:
        found = _script(peer, cloud, direction, place, path)
    else:
        found = _command(peer, cloud, direction, place, path)
    sample = replace(sample, **found, sink_cpu_s=max(0.0, place.sink.cpu_s() - sink_before_s))
    if check and not sample.error and direction == "get" and peer.target == "file" and not same(path, place.blob):
        sample = replace(sample, error="what came back is not what was sent")
    (place.folder / "fetched").unlink(missing_ok=True)
    return sample


def same(path: Path, blob: Path) -> bool:
    """Whether two files have the same bytes."""
    return path.is_file() and subprocess.run(["cmp", "-s", str(path), str(blob)], check=False).returncode == 0


def key_of(peer: Peer) -> str:
    """Where a client's object lies, in which its own upload put it; bare sockets fetch what was put for them."""
    return SEED if peer.seeded else re.sub(r"[^a-z0-9]+", "-", peer.name.lower()).strip("-")


def environment(cloud: Cloud, place: Place) -> dict[str, str]:
    """Variables that clients see: credentials that nobody checks, where the service is, and no configuration of this user's."""
    home = place.folder / "home"
    home.mkdir(exist_ok=True)
    passed = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    told = {
        "HOME": str(home),
        "TMPDIR": str(place.folder),
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": place.endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "RCLONE_CONFIG": os.devnull,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google itself, over gRPC, what kind of bucket it is
    }
    if cloud == "gcs":
        told["STORAGE_EMULATOR_HOST"] = place.endpoint
    if place.authority:
        told |= dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(place.authority))
    return passed | told | dict(place.variables)


def _script(peer: Peer, cloud: Cloud, direction: Direction, place: Place, path: Path) -> dict[str, Any]:
    """Run a client in Python, which measures itself once it is connected and warm."""
    job = {
        "direction": direction,
        "cloud": cloud,
        "endpoint": place.endpoint,
        "bucket": peer.bucket,
        "key": key_of(peer) if not (peer.seeded and direction == "put") else "bare",
        "blob": str(place.blob),
        "path": str(path),
        "size": place.size,
        "variant": peer.variant,
        "authority": str(place.authority or ""),
    }
    script = str(CLIENTS / peer.script)
    ended = run([python_of(peer.environment), script], environment(cloud, place), json.dumps(job))
    if ended.status:
        return {"error": reason(ended, place)}
    result: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
    return result


def _command(peer: Peer, cloud: Cloud, direction: Direction, place: Place, path: Path) -> dict[str, Any]:
    """Run a command twice, first for a tiny object, which is what its start costs.

    From the wall time only that of a start without any request is taken: round trips are part of a transfer.
    """
    tiny = place.folder / "tiny"
    tiny.write_bytes(os.urandom(TINY_BYTES))
    variables = environment(cloud, place)
    small = run(arguments(peer, cloud, direction, place, tiny, f"tiny-{key_of(peer)}"), variables)
    if small.status:
        return {"error": reason(small, place)}
    start = run([str(program_of(peer)), "version" if peer.command != "aws" else "--version"], variables)
    large = run(arguments(peer, cloud, direction, place, path, key_of(peer)), variables)
    if large.status:
        return {"error": reason(large, place)}
    return {
        "cpu_s": max(0.0, large.cpu_s - small.cpu_s),
        "wall_s": max(0.0, large.wall_s - start.wall_s),
        "start_up_cpu_s": small.cpu_s,
        "peak_rss_bytes": large.peak_rss_bytes,
    }


def program_of(peer: Peer) -> Path:
    """A command of an environment."""
    return Path(python_of(peer.environment)).parent / peer.command


def arguments(peer: Peer, cloud: Cloud, direction: Direction, place: Place, path: Path, key: str) -> list[str]:
    """The command line that moves one object."""
    program = str(program_of(peer))
    if peer.command == "rclone":
        far = f":{cloud}:{peer.bucket}/{key}"
        head = [program, "copyto", "--retries=1", "--ignore-times", *rclone_options(cloud, place)]
    elif peer.command == "s5cmd":
        far = f"s3://{peer.bucket}/{key}"
        verify = ["--no-verify-ssl"] if place.authority else []
        head = [program, "--log=error", *verify, "--endpoint-url", place.endpoint, "cp"]
    else:
        far = f"s3://{peer.bucket}/{key}"
        head = [program, "s3", "cp", "--only-show-errors", "--endpoint-url", place.endpoint]
    return [*head, *([str(path), far] if direction == "put" else [far, str(path)])]


def rclone_options(cloud: Cloud, place: Place) -> list[str]:
    """Where rclone finds the service."""
    options = {
        "s3": ["--s3-provider=Other", f"--s3-endpoint={place.endpoint}", "--s3-env-auth", "--s3-no-check-bucket"],
        "gcs": ["--gcs-anonymous", f"--gcs-endpoint={place.endpoint}/storage/v1/", "--gcs-no-check-bucket"],
    }[cloud]
    return [*options, f"--ca-cert={place.authority}"] if place.authority else options


def run(command: Sequence[str], variables: dict[str, str], told: str = "") -> Ended:
    """Run a process group to its end, or kill it when it takes too long."""
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        tempfile.TemporaryFile("w+") as given,
    ):
        given.write(told)
        given.seek(0)
        begun_s = time.monotonic()
        process = subprocess.Popen(command, stdin=given, stdout=out, stderr=err, env=variables, start_new_session=True)
        timer = threading.Timer(_LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begun_s
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Ended(
            process.returncode, used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss * 1024, out.read(), err.read()
        )


def reason(ended: Ended, place: Place) -> str:
    """Why a client failed, in its own last words."""
    if ended.status == -signal.SIGKILL:
        return f"took longer than {_LIMIT_S:.0f} s"
    lines = [line.strip() for line in (ended.complaint or ended.output).splitlines() if line.strip()]
    words = (lines[-1] if lines else f"exit code {ended.status}").replace(str(place.folder), "…")
    return words.replace(str(ROOT), "…")[:200]
