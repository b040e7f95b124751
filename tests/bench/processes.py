"""Helpers that run as processes of their own beside the clients: the sink, and the way to it."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
HOST = "127.0.0.1"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Running:
    """A helper that runs.

    Attributes:
        pid: of its process.
        ports: what it listens on, by scheme.
    """

    pid: int
    ports: dict[str, int]

    def cpu_s(self) -> float:
        """CPU it has used so far, in steps of a hundredth of a second."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    """Start a module of ours that prints its ports in JSON and ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{arguments[0]} did not start")
        yield Running(process.pid, json.loads(line))
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def sink(blob: Path, certificate: Path | None = None) -> Any:
    """Start a sink that serves `blob`; in TLS too where there is a certificate."""
    return running("bench.sink", str(blob), *(["--certificate", str(certificate)] if certificate else []))


def delayed(port: int, delay_s: float) -> Any:
    """Start a way to `port` that takes so long in each direction."""
    return running("bench.delay", str(port), str(delay_s))


def ask(port: int, path: str) -> dict[str, Any]:
    """Ask a sink's control paths: `/-/usage`, `/-/reset`."""
    connection = HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("GET", path)
        told: dict[str, Any] = json.loads(connection.getresponse().read())
        return told
    finally:
        connection.close()


def put(port: int, path: str, content: Path) -> None:
    """Put a file's bytes at a path of the sink."""
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        with content.open("rb") as file:
            connection.request("PUT", path, file, {"Content-Length": str(content.stat().st_size)})
            connection.getresponse().read()
    finally:
        connection.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for loopback that vouches for itself: PEM of both with the key, PEM without it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both, public = folder / "server.pem", folder / "authority.pem"
    both.write_bytes(pem + private)
    public.write_bytes(pem)
    return both, public
