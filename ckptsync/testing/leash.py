"""Run a command that must not outlive whoever started it, even when that is killed: `leash.py COMMAND…`.

It waits for the end of its standard input, which comes when the last holder of the other end is gone, and then kills
its process group. Uses nothing but the standard library, so that it can be run as a file by any Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _wait_for_the_end() -> None:
    """Kill the group once nobody holds the other end of standard input."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command and return its status, 128 more than the signal's number when one ended it."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603  what we were asked to run
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is meant for the command, whose end we wait for
    threading.Thread(target=_wait_for_the_end, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(main())  # the thread that reads would hold an ordinary exit up
