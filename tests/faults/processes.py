"""Actors as processes: started, waited for, stopped and woken. And the real buckets they meet in."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.servers import create_bucket, ministack

BUCKET = "faults"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs may be made.

    Attributes:
        name: as the page shows it.
        base: URL of a folder.
        environ: what leads a process there.
    """

    name: str
    base: str
    environ: Mapping[str, str]


@contextmanager
def place(name: str, folder: Path) -> Iterator[Place]:
    """Start what is needed: a directory, a loopback S3 or a loopback GCS; this process is led there as well."""
    if name == "directory":
        yield Place(name, str(folder / "buckets"), {})
    elif name == "s3":
        with ministack() as server:
            create_bucket(server, BUCKET)
            with patch.dict(os.environ, server.environ):
                yield Place(name, f"s3://{BUCKET}", dict(server.environ))
    else:
        # a claim is put twice at once, to prove the condition
        with GcsServer(buckets=[BUCKET], writes_per_s=None) as gcs:
            environ = {"STORAGE_EMULATOR_HOST": gcs.url}
            with patch.dict(os.environ, environ):
                yield Place(name, f"gs://{BUCKET}", environ)


def actor(*arguments: object, environ: Mapping[str, str], state: Path) -> subprocess.Popen[str]:
    """Start actor.py."""
    command = [sys.executable, str(Path(__file__).with_name("actor.py")), *map(str, arguments)]
    environ = {**os.environ, **environ, "CKPTSYNC_STATE_DIR": str(state)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Wait for an actor: exit code (negative: the signal), what it printed, what it complained of."""
    output, errors = process.communicate(timeout=120)
    return process.returncode, json.loads(output) if output else {}, errors


def succeeded(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for an actor that must succeed."""
    code, result, errors = ended(process)
    assert code == 0, errors
    return result


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    """Wait until an actor has stopped itself."""
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert found.si_code == os.CLD_STOPPED, "it ended before it was to stop"


def wake(process: subprocess.Popen[str]) -> None:
    """Let a stopped actor go on."""
    process.send_signal(signal.SIGCONT)


def make_tree(root: Path, seed: int) -> Path:
    """A file of three parts of 5 MiB, whose first is the same in every tree, and small ones."""
    (root / "sub").mkdir(parents=True)
    first = random.Random(0).randbytes(5 * MIB)
    dice = random.Random(seed)
    (root / "model.bin").write_bytes(first + dice.randbytes(5 * MIB + 9))
    (root / "same.bin").write_bytes(b"always the same")
    (root / "sub" / "state.json").write_bytes(dice.randbytes(50))
    (root / "sub" / "empty").touch()
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root
