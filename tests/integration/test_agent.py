"""The sidecar as a process of its own, on each kind of store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agents import write

from ckptsync.run import open_run
from ckptsync.testing.metadata import MetadataServer
from ckptsync.verbs.save import save

ENTRY = "from ckptsync.cli.main import main; main()"
MIB = 1 << 20
PATIENCE_S = 60.0

Sidecar = Callable[..., "Process"]


class Process:
    """A sidecar, and what it printed."""

    def __init__(self, folder: Path, url: str, *arguments: str) -> None:
        command = [sys.executable, "-c", ENTRY, "agent", str(folder), url, "--json", "--notices", "none", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def next(self, name: str = "committed") -> dict[str, Any]:
        """The next event of a name; the test's own time limit ends the waiting."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(self.process.communicate()[1])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    def wait(self) -> tuple[int, str]:
        """Wait for its end; exit code and stderr."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def sidecar(folder: Path, url: str) -> Iterator[Sidecar]:
    """Start a sidecar; what still runs at the end is killed."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(folder, url, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def steps(url: str) -> list[int]:
    with open_run(url) as run:
        return [listed.id.step for listed in run.catalog.listed()]


def test_commits_what_appears_and_drains_at_the_end(sidecar: Sidecar, folder: Path, url: str) -> None:
    process = sidecar()
    write(folder / "step_1.safetensors", at_s=1)
    assert process.next()["step"] == 1
    write(folder / "step_2.safetensors", at_s=2)  # drained
    assert process.end() == (0, "")
    assert steps(url) == [2, 1]


def test_a_killed_upload_is_continued(sidecar: Sidecar, folder: Path, url: str) -> None:
    write(folder / "step_1.safetensors", size=40 * MIB)
    first = sidecar("--max-rate", "10MiB", "--part-size", "5MiB", "--workers", "1")
    until_s = time.monotonic() + PATIENCE_S
    while sent_bytes(url) < 5 * MIB:  # nothing tells but the bucket
        assert time.monotonic() < until_s, first.wait()
        time.sleep(0.1)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert steps(url) == []
    committed = sidecar("--part-size", "5MiB").next()
    assert committed["bytes_reused"] > 0
    assert committed["bytes_reused"] + committed["bytes_sent"] == committed["bytes"]


def sent_bytes(url: str) -> int:
    """Payload of uploads that are under way."""
    with open_run(url) as run:
        return sum(part.size for upload in run.store.uploads("data/") for part in run.store.parts(upload).values())


def test_a_newer_writer_ends_it_with_5(sidecar: Sidecar, folder: Path, url: str, tmp_path: Path) -> None:
    process = sidecar()
    write(folder / "step_1.safetensors", at_s=1)
    process.next()
    with open_run(url) as run:
        save(run, write(tmp_path / "other"), step=9)
    write(folder / "step_2.safetensors", at_s=2)
    code, errors = process.wait()
    assert code == 5
    assert errors.count("\n") <= 2


def test_a_drain_that_takes_too_long_ends_with_75(sidecar: Sidecar, folder: Path, url: str) -> None:
    write(folder / "step_1.safetensors", size=40 * MIB)
    process = sidecar("--max-rate", "1MiB", "--part-size", "5MiB", "--workers", "1", "--drain-timeout", "0.001")
    until_s = time.monotonic() + PATIENCE_S
    while not announced(url):
        assert time.monotonic() < until_s, process.wait()
        time.sleep(0.05)
    code, errors = process.end()
    assert code == 75
    assert "step_1.safetensors" in errors
    assert steps(url) == []


def announced(url: str) -> bool:
    """Whether an upload has begun."""
    with open_run(url) as run:
        return any(run.store.list("journals/"))


def test_the_trainers_marker_ends_it_with_0(sidecar: Sidecar, folder: Path, url: str) -> None:
    process = sidecar()
    write(folder / "step_1.safetensors")
    (folder / ".ckptsync-done").touch()
    assert process.wait()[0] == 0
    assert steps(url) == [1]


@pytest.mark.req(13)
def test_what_rotates_while_it_is_sent_is_committed(sidecar: Sidecar, folder: Path, url: str) -> None:
    file = write(folder / "step_1.safetensors", size=20 * MIB)
    process = sidecar("--max-rate", "10MiB", "--part-size", "5MiB", "--workers", "1")
    until_s = time.monotonic() + PATIENCE_S
    while sent_bytes(url) < 5 * MIB:
        assert time.monotonic() < until_s, process.wait()
        time.sleep(0.05)
    file.unlink()
    assert process.next()["step"] == 1


@pytest.fixture
def watched_by_all(s3_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of a cloud whose notices are heard, and S3."""
    with MetadataServer() as metadata:
        for name, value in {**s3_environ, **metadata.environ}.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("watched_by_all")
@pytest.mark.parametrize("watch", ["events", "polling"])
@pytest.mark.parametrize("files", [10, 10_000])
def test_idle_it_costs_next_to_nothing(
    files: int, watch: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    for number in range(files):
        place = folder / f"of{number // 500}" / f"{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (folder / "last.pt").write_bytes(b"PK\x03\x04 left by a crash")
    write(folder / "step_1.safetensors")
    url = f"s3://checkpoints/idle-{files}-{watch}"
    process = Process(folder, url, "--notices", "ec2,gce", "--port", "0", "--watch", watch)
    try:
        process.next()
        time.sleep(3)  # what the commit brought about is over
        before_s, seconds_s = cpu_s(process), 10.0
        time.sleep(seconds_s)
        share = (cpu_s(process) - before_s) / seconds_s
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        resident_mb = int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6
        sys.stderr.write(f"\n{files} files, {watch}: {share:.2%} of a core, {resident_mb:.1f} MB\n")
        assert share < 0.01
        assert resident_mb < 84  # it is 79 with 10 000 files here; another interpreter may take a little more
    finally:
        process.end(signal.SIGKILL)


def cpu_s(process: Process) -> float:
    """Processor time so far."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
