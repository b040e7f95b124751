"""What a page must say about where it was measured."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import ckptsync
from bench.peers import PEERS, version_of


def facts() -> dict[str, object]:
    """Processor, kernel, interpreter, date."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Version of every peer, ours included."""
    found = {peer.name: version_of(peer) for peer in PEERS if peer.environment != "own"}
    return {"ckptsync": ckptsync.__version__, **found}
