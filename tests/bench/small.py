"""Many small files at once, as a command line tool moves a folder of them: files in a second, processor time for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import measure as one
from bench import processes, suite
from bench.measure import Direction, Place, Sample
from bench.peers import OURS, PEERS, Peer, version_of

FILES, BYTES = 10_000, 100_000
ROUNDS = 5
DELAYS = {"loopback": 0.0, "20 ms": 0.010}
NAMES = (OURS, "s5cmd", "rclone", "aws s3 cp")
SLOW, SLOW_ROUNDS = {"rclone", "aws s3 cp"}, 2
"""Who takes minutes and is the limit nowhere is not measured as often."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A folder's way into a bucket and back.

    Attributes:
        put: command line.
        get: command line.
    """

    put: Sequence[str]
    get: Sequence[str]


def peers(wanted: Sequence[str]) -> list[Peer]:
    """Who can move a folder; an empty list means all."""
    return [peer for peer in PEERS if peer.name in NAMES and (not wanted or peer.name in wanted)]


def tables(wanted: Sequence[str], files: int = FILES, rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Measure near and far."""
    for name, delay_s in DELAYS.items():
        yield table(peers(wanted), name, delay_s, files if not delay_s else files // 5, rounds)


def table(who: Sequence[Peer], name: str, delay_s: float, files: int, rounds: int) -> dict[str, Any]:
    """Measure these over one way."""
    for peer in who:
        version_of(peer)  # installs it
    with suite.placed(suite.MIB, suite.Shape(name, delay_s=delay_s)) as place:
        source = place.folder / "source"
        source.mkdir()
        for number in range(files):
            (source / f"{number:05d}.bin").write_bytes(os.urandom(BYTES))
        samples: list[Sample] = []

        def measured(peer: Peer, direction: Direction, _: int) -> Sample:
            if (
                direction == "put"
            ):  # each object that the service keeps has a descriptor, of which there are not enough for two
                processes.ask(place.sink.ports["http"], "/-/reset")
            return _moved(peer, direction, place, source, files)

        for number in range(rounds):
            present = [peer for peer in who if number < SLOW_ROUNDS or peer.name not in SLOW]
            for sample in suite.one_round(present, number, samples, measured):
                suite.say(f"{number + 1} {name:10} {_line(sample, files)}")
    return {
        "cloud": "s3",
        "shape": {"name": f"{files} files, {name}"},
        "files": files,
        "size": files * BYTES,
        "rounds": rounds,
        "samples": [*map(asdict, samples)],
    }


def _moved(peer: Peer, direction: Direction, place: Place, source: Path, files: int) -> Sample:
    """Move the folder once."""
    sample = Sample(peer=peer.name, cloud="s3", direction=direction, size=files * BYTES)
    if peer.package and not version_of(peer):
        return replace(sample, error="could not be installed")
    target = place.folder / "fetched"
    shutil.rmtree(target, ignore_errors=True)
    way, variables = _way(peer, place, source, target), one.environment("s3", place)
    variables |= {"CKPTSYNC_STATE_DIR": str(place.folder / "state"), "CKPTSYNC_S3_ENDPOINT_URL": place.endpoint}
    shutil.rmtree(place.folder / "state", ignore_errors=True)
    before_s = place.sink.cpu_s()
    ended = one.run(way.put if direction == "put" else way.get, variables)
    if ended.status:
        return replace(sample, error=one.reason(ended, place))
    sink_cpu_s = place.sink.cpu_s() - before_s
    if (
        direction == "get"
        and subprocess.run(["diff", "-rq", source, target], capture_output=True, check=False).returncode
    ):
        return replace(sample, error="what came back is not what was sent")
    shutil.rmtree(target, ignore_errors=True)
    return replace(
        sample,
        cpu_s=ended.cpu_s,
        wall_s=ended.wall_s,
        peak_rss_bytes=ended.peak_rss_bytes,
        sink_cpu_s=max(0.0, sink_cpu_s),
    )


def _way(peer: Peer, place: Place, source: Path, target: Path) -> _Way:
    """Command lines."""
    key = one.key_of(peer)
    if peer.name == OURS:
        ours = [sys.executable, "-c", "from ckptsync.cli.main import main; main()"]
        run = f"s3://bench/{key}"
        return _Way([*ours, "save", str(source), run, "--step", "1"], [*ours, "restore", run, str(target)])
    program, far = str(one.program_of(peer)), f"s3://bench/{key}/"
    if peer.command == "rclone":
        far = f":s3:bench/{key}"
        head = [program, "copy", "--retries=1", *one.rclone_options("s3", place)]
        return _Way([*head, str(source), far], [*head, far, str(target)])
    if peer.command == "s5cmd":
        head = [program, "--log=error", "--endpoint-url", place.endpoint, "cp"]
        return _Way([*head, f"{source}/", far], [*head, f"{far}*", f"{target}/"])
    head = [program, "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", place.endpoint]
    return _Way([*head, str(source), far], [*head, far, str(target)])


def medians(found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of each peer and direction, those that failed left out."""
    files = found["files"]
    failed = {sample["peer"] for sample in found["samples"] if sample["error"]}
    made: dict[str, dict[str, dict[str, float]]] = {}
    for sample in found["samples"]:
        name, direction = sample["peer"], sample["direction"]
        if name in failed or direction in made.get(name, {}):
            continue
        mine = [one for one in found["samples"] if (one["peer"], one["direction"]) == (name, direction)]
        made.setdefault(name, {})[direction] = {
            "rate": files / max(median(one["wall_s"] for one in mine), 1e-9),
            "cpu_ms": median(one["cpu_s"] for one in mine) * 1e3 / files,
            "peak": max(one["peak_rss_bytes"] for one in mine) / suite.MIB,
        }
    return made


def _line(sample: Sample, files: int) -> str:
    """One sample, to read while it goes."""
    figures = sample.error or (
        f"{files / max(sample.wall_s, 1e-9):6.0f} files/s {sample.cpu_s * 1e3 / files:6.2f} CPU-ms a file"
        f"  peak {sample.peak_rss_bytes // suite.MIB:5} MiB"
    )
    return f"s3  {sample.peer:30} {sample.direction} {figures}"
