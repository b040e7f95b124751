"""A notice, and too little time: decided within a second, and what cannot be whole in time is left to the next start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.agents import write
from support.instances import kill_session
from support.waiting import LONG_S, wait_until

from ckptsync.run import Run, open_run
from ckptsync.snapshot import layout
from ckptsync.testing.metadata import MetadataServer
from ckptsync.testing.proxy import Proxy, faults
from ckptsync.verbs.attempts import folders, journal_keys

MIB = 1 << 20
CKPTSYNC = str(Path(sys.executable).with_name("ckptsync"))
SIZE_BYTES = 60 * MIB
LATE_S = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """What a process told, and when that was read."""

    at_s: float
    fields: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.fields.get("message", ""))


class Told:
    """`ckptsync agent`, or `ckptsync run` with a command that sleeps."""

    def __init__(self, verb: str, folder: Path, url: str, *options: str, command: tuple[str, ...]) -> None:
        place = (str(folder), url) if verb == "agent" else (url, "--dir", str(folder))
        behind = () if verb == "agent" else ("--", *command)
        self.process = subprocess.Popen(
            [CKPTSYNC, verb, *place, "--json", *options, *behind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def next(self, words: str) -> Event:
        """The next event with these words in its message, or of this name; the test's own time limit ends the waiting."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = Event(time.monotonic(), json.loads(line))
            if words in {event.fields["event"], ""} or words in event.message:
                return event
        raise AssertionError(self.process.communicate()[1])


Start = Callable[..., Told]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start one on the disk of this test; what still runs at the end is killed."""
    started: list[Told] = []

    def begin(verb: str, url: str, *options: str, command: tuple[str, ...] = ("sleep", "600")) -> Told:
        started.append(Told(verb, tmp_path / "checkpoints", url, *options, command=command))
        return started[-1]

    yield begin
    for one in started:
        kill_session(one.process.pid)
        one.process.communicate()


# -- how soon ------------------------------------------------------------------------------------------------------


@pytest.mark.req(6)
@pytest.mark.parametrize("verb", ["agent", "run"])
@pytest.mark.parametrize("cloud", ["ec2", "gce"])
def test_a_second_after_a_cloud_says_so_it_is_decided(
    cloud: str, verb: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    write(tmp_path / "checkpoints" / "step_1.safetensors", at_s=1)
    asked = {"ec2": "instance-action", "gce": "preempted?wait_for_change"}[cloud]
    with MetadataServer(clouds=(cloud,)) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        told = start(verb, str(tmp_path / "run"), "--notices", cloud)
        assert told.next("committed").fields["step"] == 1
        wait_until(lambda: any(asked in request for request in server.requests))
        begun_s = time.monotonic()
        if cloud == "ec2":
            server.interrupt()
        else:
            server.preempt()
        decided(told, begun_s, cloud, verb)


@pytest.mark.req(6)
@pytest.mark.parametrize("verb", ["agent", "run"])
def test_a_second_after_the_file_says_so_it_is_decided(
    verb: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    write(tmp_path / "checkpoints" / "step_1.safetensors", at_s=1)
    told = start(verb, str(tmp_path / "run"), "--notices", "none", "--notice-file", str(tmp_path / "notice"))
    told.next("committed")
    begun_s = notice(tmp_path, "60")
    decided(told, begun_s, "hook", verb)


def notice(folder: Path, text: str) -> float:
    """Let a notice appear whole; when it did."""
    (folder / "notice.new").write_text(text)
    begun_s = time.monotonic()
    (folder / "notice.new").replace(folder / "notice")
    return begun_s


def decided(told: Told, begun_s: float, source: str, verb: str) -> Event:
    """The decision, which must have come in time."""
    told.next(f"notice of {source}")
    found = told.next("decided to ")
    took_s = found.at_s - begun_s
    sys.stderr.write(f"\n{verb}, {source}: {took_s:.3f} s until {found.message}\n")
    assert took_s < LATE_S, found.message
    return found


# -- too slow a bucket ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slow:
    """A run in a bucket behind a proxy, and what is left of a machine's time when it is told."""

    url: str
    proxy: Proxy
    left_s: float
    bytes_per_s: int


@pytest.fixture
def slow(s3_environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Thirty seconds at 1 MiB/s, or in short seven at 3: half of a checkpoint in either."""
    left_s, mib_per_s = (7.0, 3) if os.environ.get("CKPTSYNC_TEST_SHORT") else (30.0, 1)
    with Proxy(s3_environ["AWS_ENDPOINT_URL_S3"]) as proxy:
        for name, value in {**s3_environ, "AWS_ENDPOINT_URL_S3": proxy.url}.items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "CKPTSYNC_STATE_DIR": str(tmp_path / "state"),
            "CKPTSYNC_S3_CHECKSUM": "none",
            "CKPTSYNC_TRANSFER_WORKERS": "1",
            "CKPTSYNC_TRANSFER_PART_BYTES": str(5 * MIB),
        }.items():
            monkeypatch.setenv(name, value)
        url = f"s3://checkpoints/{tmp_path.name}"
        yield Slow(url, proxy, left_s, mib_per_s * MIB)
        proxy.heal()
        with open_run(url) as run:
            run.store.delete([stat.key for stat in run.store.list("")])
            for upload in run.store.uploads(""):
                run.store.abort(upload)


@pytest.mark.slow
@pytest.mark.req(1, 6)
@pytest.mark.parametrize("verb", ["agent", "run"])
@pytest.mark.parametrize("told", ["amid an upload", "as it begins"])
def test_what_is_too_slow_is_left_to_the_next_start(
    told: str, verb: str, slow: Slow, start: Start, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    options = ("--notices", "none", "--notice-file", str(tmp_path / "notice"))
    write(checkpoints / "step_1.safetensors", at_s=1)
    first = start(verb, slow.url, *options)
    assert first.next("committed").fields["step"] == 1
    before = listed(slow.url)

    slow.proxy.inject(faults.pace(slow.bytes_per_s, direction="up"), method="PUT", target="step_2", times=None)
    write(checkpoints / "step_2.safetensors", at_s=2, size=SIZE_BYTES)
    wait_until(lambda: answered(slow.proxy) if told == "amid an upload" else begun(slow.proxy))
    deadline_s = notice(tmp_path, f"{slow.left_s:g}") + slow.left_s
    decision = decided(first, deadline_s - slow.left_s, "hook", verb)
    asks = verb == "run" and told == "as it begins"  # and nobody answers: what is under way goes on
    if told == "as it begins" and not asks:
        assert "no rate was measured yet" in decision.message
        decision = first.next("decided to keep")
    assert ("decided to ask" if asks else "the next start continues") in decision.message

    wait_until(lambda: answered(slow.proxy) and (asks or not open_parts(slow.proxy)))
    parts = answered(slow.proxy)
    assert nothing_half_done_is_visible(slow.url, before)
    time.sleep(max(0.0, deadline_s - time.monotonic()))  # the machine is there until then, and no longer
    assert first.process.poll() is None
    assert asks or answered(slow.proxy) == parts, "something was begun after all"
    kill_session(first.process.pid)
    assert first.process.wait(LONG_S) == -signal.SIGKILL
    assert nothing_half_done_is_visible(slow.url, before)

    slow.proxy.heal()
    (tmp_path / "notice").unlink()
    second = start(verb, slow.url, *options)
    committed = second.next("committed").fields
    assert committed["step"] == 2
    assert committed["bytes_reused"] > 0
    assert committed["bytes_reused"] + committed["bytes_sent"] == committed["bytes"]
    sys.stderr.write(f"reused {committed['bytes_reused'] / MIB:.0f} of {committed['bytes'] / MIB:.0f} MiB\n")
    assert listed(slow.url) == [2, 1]


def begun(proxy: Proxy) -> bool:
    """Whether a part is on its way."""
    return any(entry.sent for entry in proxy.entries("PUT", "step_2.*partNumber"))


def answered(proxy: Proxy) -> int:
    """How many parts have arrived."""
    return sum(entry.status == 200 for entry in proxy.entries("PUT", "step_2.*partNumber"))


def open_parts(proxy: Proxy) -> int:
    """How many parts are under way."""
    return sum(entry.status == 0 for entry in proxy.entries("PUT", "step_2.*partNumber"))


def listed(url: str) -> list[int]:
    """Steps of the snapshots, as `ckptsync ls` has them; attempts are in its list as well, and called so."""
    rows = map(json.loads, asked("ls", url).splitlines())
    states = {row["step"]: row["state"] for row in rows}
    assert set(states.values()) <= {"committed", "incomplete"}
    return [step for step, state in states.items() if state == "committed"]


def asked(verb: str, url: str) -> str:
    """What a verb says in JSON."""
    done = subprocess.run([CKPTSYNC, verb, "--json", url], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def nothing_half_done_is_visible(url: str, before: list[int]) -> bool:
    """Whether the snapshots are those of before, and all else in the bucket is what journals name."""
    status = json.loads(asked("status", url))
    assert listed(url) == before
    assert (status["step"], [one["step"] for one in status["pending"]]) == (1, [2])
    with open_run(url) as run:
        may_be = named(run)
        strangers = [stat.key for stat in run.store.list(layout.DATA) if stat.key not in may_be]
        strangers += [upload.key for upload in run.store.uploads("") if upload.key not in may_be]
    return not strangers


def named(run: Run) -> set[str]:
    """Keys that a journal or a manifest accounts for."""
    keys = {key for folder in folders(run.store) for key in journal_keys(run.store, folder.id, folder) or ()}
    for one in run.catalog.listed():
        keys |= {file.key for file in run.catalog.load(one).files}
    return keys
