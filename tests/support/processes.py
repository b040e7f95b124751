"""Verbs in processes of their own, to be killed or measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Worker = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def workers() -> Iterator[Worker]:
    """Yield a function that starts worker.py with arguments; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a worker and return what it printed."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output)


def killed_after(process: subprocess.Popen[str], seconds_s: float) -> bool:
    """Kill a worker with SIGKILL unless it ends within some seconds; tells whether it was killed."""
    try:
        process.wait(seconds_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False
