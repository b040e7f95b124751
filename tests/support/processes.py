"""Verbs in processes of their own, to be killed or measured."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Worker = Callable[..., "subprocess.Popen[str]"]

READY = "ready\n"  # what a worker prints before it begins


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
    return json.loads(output.removeprefix(READY))


class Killing:
    """Kills workers with SIGKILL, each at a random moment of its verb.

    `seconds` is about how long the verb takes. The moments come earlier where workers end before theirs, and later
    where they are killed, so that on any machine some are killed and some end.
    """

    def __init__(self, seed: int, seconds: float) -> None:
        self.dice, self.within_s, self.killed = random.Random(seed), seconds, 0

    def kills(self, process: subprocess.Popen[str]) -> bool:
        """Kill a worker unless it ends before its moment; tells whether it was killed."""
        assert process.stdout is not None
        process.stdout.readline()  # READY: what an interpreter needs to start is not the verb's
        try:
            process.wait(self.dice.random() * self.within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.killed += 1
            self.within_s *= 1.25
            return True
        assert process.returncode == 0, process.communicate()[1]
        self.within_s *= 0.8
        return False
