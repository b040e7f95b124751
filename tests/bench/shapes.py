"""Ways to the service other than plain loopback: delays, rates, TLS.

The kernel need not know how to delay: a proxy does. A rate is a token bucket on the loopback of a network namespace that is made for
it, which needs root and iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import suite
from bench.peers import Cloud, Peer, chosen, version_of
from bench.suite import MIB, Shape

SHAPES = (
    Shape("1 ms", delay_s=0.0005),
    Shape("20 ms", delay_s=0.010),
    Shape("100 ms", delay_s=0.050),
    Shape("1 Gbit/s", rate="1gbit"),
    Shape("10 Gbit/s", rate="10gbit"),
    Shape("TLS", tls=True),
    Shape("Ceph RGW", server="ceph", size=96 * MIB),  # all rounds of all peers must fit into its memory
)
_PEERS: dict[Cloud, tuple[str, ...]] = {
    "s3": (
        "bare socket",
        "ckptsync",
        "ckptsync, memory",
        "ckptsync, memory, no hash",
        "boto3",
        "s5cmd",
        "rclone",
        "obstore",
        "obstore, memory",
    ),
    "gcs": (
        "bare socket",
        "ckptsync",
        "ckptsync, memory",
        "ckptsync, memory, no hash",
        "google-cloud-storage",
        "transfer_manager, processes",
        "obstore",
        "obstore, memory",
    ),
}
LIMITED = 'ip link set lo up && tc qdisc add dev lo root tbf rate "$0" burst 512kb latency 100ms && exec "$@"'


def peers_of(cloud: Cloud, shape: Shape, wanted: Sequence[str]) -> list[Peer]:
    """Who is measured over a shape: fewer than on plain loopback, as there are many shapes."""
    found = [peer for peer in chosen(cloud, wanted) if peer.name in _PEERS[cloud]]
    return [peer for peer in found if not (shape.server and peer.group == "bare socket")]  # they sign nothing


def missing(shape: Shape) -> str:
    """Why a shape cannot be had here; empty when it can."""
    if not shape.rate:
        return ""
    if os.geteuid() != 0:
        return "a rate limit needs root"
    absent = [tool for tool in ("unshare", "ip", "tc") if not shutil.which(tool)]
    return f"a rate limit needs {', '.join(absent)}" if absent else ""


def table(cloud: Cloud, shape: Shape, size: int, rounds: int, wanted: Sequence[str], out: Path) -> dict[str, Any]:
    """Measure over one way; one that cannot be had here is told with the reason."""
    peers, size = peers_of(cloud, shape, wanted), min(shape.size, size)
    nothing: dict[str, Any] = {"cloud": cloud, "shape": asdict(shape), "size": size, "rounds": 0, "samples": []}
    if reason := missing(shape):
        suite.say(f"{shape.name}: {reason}")
        return {**nothing, "missing": reason}
    if not peers:
        return {**nothing, "missing": "none of the peers chosen is measured over it"}
    if not shape.rate:
        return suite.table(peers, cloud, shape, size, rounds)
    for peer in peers:
        version_of(peer)  # installs it: the namespace has no way out
    place = out / f"inside-{os.getpid()}.json"
    job = {"cloud": cloud, "shape": shape.name, "size": size, "rounds": rounds, "peers": [peer.name for peer in peers]}
    again = [sys.executable, "-m", "bench.shapes", json.dumps(job), str(place)]
    status = subprocess.run(["unshare", "--net", "sh", "-c", LIMITED, shape.rate, *again], check=False).returncode
    if status or not place.is_file():
        return {**nothing, "missing": "the network namespace or its rate limit could not be made"}
    made: dict[str, Any] = json.loads(place.read_text())
    place.unlink()
    return made


def inside(job: dict[str, Any], place: Path) -> None:
    """Measure with the rate limit in force: we have been started in the namespace."""
    shape = next(shape for shape in SHAPES if shape.name == job["shape"])
    peers = [peer for peer in chosen(job["cloud"], ()) if peer.name in job["peers"]]
    place.write_text(json.dumps(suite.table(peers, job["cloud"], shape, job["size"], job["rounds"])))


if __name__ == "__main__":
    inside(json.loads(sys.argv[1]), Path(sys.argv[2]))
