"""A network of our own: loopback, and the address at which clouds have their metadata service; nothing else is reachable."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

METADATA = "169.254.169.254"
_CLONE_NEWNET = 0x40000000
_NEIGHBOUR = "02:00:00:00:00:01"
T = TypeVar("T")


class Network:
    """What runs in it: one thread, and every thread and process that comes of it. Sockets made there stay there."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread

    def call(self, work: Callable[[], T]) -> T:
        """Do something inside, and return what it returned."""
        return self._thread.submit(work).result()

    def configure(self, *commands: str) -> None:
        """Change it by commands of `ip`."""

        def work() -> None:
            for command in commands:
                done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"ip {command}: {done.stderr}"

        self.call(work)

    def have_metadata_address(self) -> None:
        """Let the service's address be one of this machine; nobody listens there yet."""
        self.configure(f"address add {METADATA}/32 dev lo")

    def swallow_metadata_address(self) -> None:
        """Let whatever is sent to the service's address be lost."""
        self.configure(
            "link add near type veth peer name far",
            "link set near up",
            "link set far up",
            f"route add {METADATA}/32 dev near",
            f"neighbour add {METADATA} lladdr {_NEIGHBOUR} dev near",
        )


def why_not() -> str:
    """Why no such network can be made here; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "there is no `ip`; Debian's package is iproute2"
    try:
        with network():
            return ""
    except OSError as error:
        return f"no right to make a network namespace: {error.strerror}"


@contextmanager
def network() -> Iterator[Network]:
    """Make one; it is gone with what runs in it.

    Raises:
        OSError: there is no right to.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="namespace") as thread:
        made = Network(thread)
        made.call(_leave)
        made.configure("link set lo up")
        yield made


def _leave() -> None:
    """Take this thread alone into a new network."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
