"""Real S3 servers on loopback, started and stopped by the tests that need them.

    with ministack() as server:
        create_bucket(server, "bucket")
        ...  # point a client at server.url, or a process at server.environ

Each server lives in a virtual environment of its own, made on first use below the directory CKPTSYNC_TEST_SERVERS names
(default `.venvs` in the current directory): their pins must not meet those of the code under test.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ckptsync.testing import ceph, leash

REGION = "us-east-1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02
LOG_TAIL_BYTES = 4000

# Localstack's runtime asks for no upper bounds, and the newest of these three break it.
LOCALSTACK_PINS = (
    "localstack-core[runtime]==4.12.0",
    "pyopenssl<26",
    "cryptography<47",
    "cbor2<6",
    "service_identity",
)
MINISTACK_PINS = ("ministack==1.5.33",)


class ServerError(RuntimeError):
    """A test server cannot be installed, or died, or did not answer in time; its log is in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running S3 server.

    Attributes:
        url: its address, `http://127.0.0.1:port`.
        access_key: of a user who may do everything.
        secret_key: that user's secret.
        environ: what a client process needs in its environment to use it, and nothing of this machine's own
            configuration. Unset AWS_PROFILE and AWS_SESSION_TOKEN beside it.
    """

    url: str
    access_key: str = "test"
    secret_key: str = field(default="test", repr=False)

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment of a client."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def create_bucket(server: Server, bucket: str) -> None:
    """Create a bucket. It exists afterwards; call it once per name."""
    import boto3  # noqa: PLC0415  only those who use a server need the SDK
    from botocore.config import Config  # noqa: PLC0415  an extra

    session = boto3.session.Session(server.access_key, server.secret_key, region_name=REGION)
    client = session.client("s3", endpoint_url=server.url, config=Config(s3={"addressing_style": "path"}))
    try:
        client.create_bucket(Bucket=bucket)
    finally:
        client.close()


@contextmanager
def ministack(environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run MiniStack: S3 in memory, right on conditions and part listings; any credentials will do.

    Args:
        environ: variables laid over the server's own, such as `{"SERVICES": "s3,sts,imds"}`.

    Raises:
        ServerError: it cannot be installed or started.
    """
    python = virtual_environment("ministack", MINISTACK_PINS)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ckptsync-ministack-") as folder:
        settings = {
            "BIND_HOST": "127.0.0.1",  # its own default is every interface
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3,sts",
            "S3_DATA_DIR": f"{folder}/s3",
            "STATE_DIR": f"{folder}/state",
            "S3_PERSIST": "0",
            "PERSIST_STATE": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            "TMPDIR": folder,
            "DOCKER_HOST": "unix:///nonexistent",
            **(environ or {}),
        }
        argv = [str(python.with_name("ministack"))]
        with running("ministack", argv, folder=Path(folder), environ=settings, port=port):
            yield Server(url=f"http://127.0.0.1:{port}")


@contextmanager
def localstack(environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run LocalStack's S3: the one that checks every checksum as Amazon does; any credentials will do.

    Args:
        environ: variables laid over the server's own.

    Raises:
        ServerError: it cannot be installed or started.
    """
    python = virtual_environment("localstack", LOCALSTACK_PINS)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ckptsync-localstack-") as folder:
        settings = {
            "LOCALSTACK_VOLUME_DIR": folder,
            "FILESYSTEM_ROOT": folder,
            "TMPDIR": folder,
            "GATEWAY_SERVER": "hypercorn",  # its default ignores the address it is told to listen on
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{port}",
            "SERVICES": "s3,sts",
            "EAGER_SERVICE_LOADING": "1",
            "STRICT_SERVICE_LOADING": "1",
            "DISABLE_EVENTS": "1",  # it would report its use to its makers
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0",
            "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
            **(environ or {}),
        }
        argv = [str(python), "-m", "localstack.runtime.main"]
        with running("localstack", argv, folder=Path(folder), environ=settings, port=port):
            yield Server(url=f"http://127.0.0.1:{port}")


@contextmanager
def ceph_rgw(*, memory_bytes: int = 2 << 30) -> Iterator[Server]:
    """Run Ceph's RADOS Gateway over one in-memory OSD: a production server with signatures and rights, and old habits.

    Args:
        memory_bytes: room for objects; a full store hangs instead of failing.

    Raises:
        ServerError: Ceph's programs are not there and cannot be installed, or a daemon failed.
    """
    try:
        ceph.ensure_installed()
        with tempfile.TemporaryDirectory(prefix="ckptsync-ceph-") as name, ExitStack() as daemons:
            folder = Path(name)
            cluster = ceph.configure(folder, port=free_port(), mon_port=free_port(), memory_bytes=memory_bytes)
            ceph.make_monitor(cluster)
            daemons.enter_context(running("mon", cluster.mon, folder=folder, port=cluster.mon_port))
            ceph.make_osd(cluster)
            daemons.enter_context(running("osd", cluster.osd, folder=folder))
            ceph.make_user(cluster)
            daemons.enter_context(running("rgw", cluster.rgw, folder=folder, port=cluster.port))
            yield Server(url=f"http://127.0.0.1:{cluster.port}", access_key=ceph.ACCESS_KEY, secret_key=ceph.SECRET_KEY)
    except ceph.CephError as error:
        raise ServerError(str(error)) from error


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def virtual_environment(name: str, pins: Sequence[str]) -> Path:
    """Return the Python of an environment that holds these packages; made on first use, once among many processes.

    Args:
        name: of the environment's directory.
        pins: requirements as pip takes them; an environment made for others is made anew.

    Raises:
        ServerError: pip failed.
    """
    base = Path(os.environ.get("CKPTSYNC_TEST_SERVERS") or ".venvs").absolute()
    base.mkdir(parents=True, exist_ok=True)
    home, stamp, wanted = base / name, base / name / "pins.txt", "\n".join(pins)
    python = home / "bin" / "python"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(home, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins],
        ):
            done = subprocess.run(  # noqa: S603  our own arguments, no shell
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode:
                raise ServerError(f"cannot install {name}: {done.stdout[-LOG_TAIL_BYTES:]}")
        stamp.write_text(wanted)
    return python


@contextmanager
def running(
    name: str,
    argv: Sequence[str],
    *,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it and all it started are gone afterwards, and when this process is killed.

    Args:
        name: for its log file and for messages.
        argv: program and arguments.
        folder: where it runs and its log lies.
        environ: laid over this process's environment.
        port: on 127.0.0.1; the block begins once it takes connections there. None begins at once.

    Raises:
        ServerError: it died or did not listen in time.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603  our own arguments, no shell
            [sys.executable, leash.__file__, *argv],
            stdin=subprocess.PIPE,  # its end tells that we are gone, however we went
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            cwd=folder,
            start_new_session=True,  # its group is ours to stop, and Ctrl-C reaches only the tests
        )
    try:
        if port is not None:
            _await_port(name, process, port, log)
        yield process
        if process.poll() is not None:
            raise ServerError(f"{name} died while in use with status {process.returncode}: {_tail(log)}")
    finally:
        _stop(process)


def _await_port(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until somebody listens, the process dies or the time is over."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerError(f"{name} died on start with status {process.returncode}: {_tail(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise ServerError(f"{name} does not listen on port {port} after {START_TIMEOUT_S:.0f} s: {_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group: politely, then not."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _signal_group(process, signal.SIGKILL)  # children that outlived their leader
    process.wait()
    if process.stdin:
        process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal whatever is left of a process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(its log is empty)"
