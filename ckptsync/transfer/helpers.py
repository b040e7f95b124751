"""Several processes for many small files, since one of Python's runs one thread at a time.

Helpers take small files from one end of the list while this process works at the other. Whatever a helper cannot do, or did not
live to do, comes back and is done here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from ckptsync.events import Event, Kind, Observer
from ckptsync.options import MIB
from ckptsync.transfer.pipe import Done, Job, Report, Setup, Told, read, write

SMALL_BYTES = MIB
"""Larger files are no matter of processes: while they are hashed or sent, other threads run."""
_FILES_EACH = 1000
"""A helper costs half a second of processor time before it is of use, as long as so many files take."""
_BATCH = 32
_AHEAD = 64
_LEAVE_S = 10.0
"""A process that was killed is gone at once, unless its disk hangs."""
_PACKAGE = Path(__file__).parents[2]

_T = TypeVar("_T")


class _HasPath(Protocol):
    """Whatever is known by its path."""

    @property
    def path(self) -> str: ...


_FileT = TypeVar("_FileT", bound=_HasPath)


@dataclass(frozen=True, slots=True)
class Crew:
    """What helpers may be started.

    Attributes:
        setup: what they are told.
        processes: how many there may be, this one included.
    """

    setup: Setup
    processes: int


class Helpers:
    """Processes that work off a list of jobs together with this one. A context manager: behind it none is left.

    Args:
        jobs: small files of one part.
        crew: what may be started; as few are as the number of jobs is worth.
        hear: told what helpers report, in threads of theirs.
        observer: told when a helper failed.
    """

    def __init__(
        self, jobs: Iterable[Job], crew: Crew, *, hear: Callable[[Told | Done], None], observer: Observer
    ) -> None:
        self._jobs = deque(jobs)
        self._setup, self._hear, self._observer = crew.setup, hear, observer
        self._back: list[Job] = []
        self._failure: BaseException | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._lock = threading.Lock()
        self._wanted = min(crew.processes, 1 + len(self._jobs) // _FILES_EACH) - 1

    def __enter__(self) -> Self:
        with suppress(RuntimeError):  # the system allows no more threads
            for number in range(self._wanted):
                thread = threading.Thread(target=self._drive, name=f"ckptsync-helper-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = True
            self._jobs.clear()
            processes = list(self._processes)
        for process in processes:
            process.kill()
        for thread in self._threads:
            thread.join(_LEAVE_S)

    def own(self) -> Iterator[Job]:
        """Jobs for this process, until there are none left to begin."""
        while batch := self._take(1, ours=True):
            yield from batch

    def handed_back(self) -> list[Job]:
        """Wait for the helpers to end; jobs that they have not done.

        Raises:
            BaseException: what `hear` or the observer raised.
        """
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self._back

    def _take(self, most: int, *, ours: bool = False) -> list[Job]:
        """The next jobs, from one end for us and from the other for helpers."""
        take = self._jobs.popleft if ours else self._jobs.pop
        with self._lock:
            return [take() for _ in range(min(most, len(self._jobs)))]

    def _drive(self) -> None:
        """Start a helper, keep it busy, and hear it out."""
        waiting: dict[str, Job] = {}
        try:
            with self._started() as process:
                try:
                    self._converse(process, waiting)
                finally:
                    if waiting or self._failure is not None:
                        process.kill()  # its input may be held open by a fork of ours, and it wait for more
        except (OSError, EOFError, msgspec.DecodeError) as error:
            if waiting and not self._ended:
                notice = f"a helper process ended early ({error}); its files are moved by this one"
                self._tell(self._observer, Event(kind=Kind.NOTICE, message=notice))
        except BaseException as error:  # noqa: BLE001  handed to the caller of handed_back
            self._failure = error
        finally:
            with self._lock:
                self._back.extend(waiting.values())

    def _started(self) -> subprocess.Popen[bytes]:
        """Start a helper; not to be found by the current directory, which may hold anything."""
        paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ckptsync.transfer.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        with self._lock:
            self._processes.append(process)
            if self._ended:
                process.kill()
        return process

    def _converse(self, process: subprocess.Popen[bytes], waiting: dict[str, Job]) -> None:
        """Hand out jobs as reports come in."""
        requests, answers = process.stdin, process.stdout
        assert requests is not None  # noqa: S101  both are pipes
        assert answers is not None  # noqa: S101  as above
        write(requests, self._setup)
        more = True
        while (more or waiting) and self._failure is None:
            while more and len(waiting) <= _AHEAD:
                batch = self._take(_BATCH)
                waiting.update((job.path, job) for job in batch)
                write(requests, batch)
                more = bool(batch)
            if waiting:
                for report in read(answers, list[Report]):
                    self._heard(report, waiting)

    def _heard(self, report: Report, waiting: dict[str, Job]) -> None:
        """Tell our caller, or take a job back."""
        if isinstance(report, Told):
            self._tell(self._hear, report)
        elif isinstance(report, Done):
            del waiting[report.entry.path]
            self._tell(self._hear, report)
        else:
            job = waiting.pop(report.path)
            with self._lock:
                self._back.append(job)

    def _tell(self, listener: Callable[[_T], None], what: _T) -> None:
        """Tell our caller; an error is kept for `handed_back`, and ends the work. An OSError of theirs is no word on the helper."""
        try:
            listener(what)
        except BaseException as error:  # noqa: BLE001  handed to the caller of handed_back
            with self._lock:
                self._failure = self._failure or error
                self._jobs.clear()


def move_with_help(
    files: Sequence[_FileT],
    crew: Crew | None,
    *,
    job: Callable[[_FileT], Job | None],
    move: Callable[[Iterable[_FileT]], None],
    hear: Callable[[Told | Done], None],
    observer: Observer,
) -> None:
    """Move files in this process and, where they are many and small, in others as well.

    Args:
        files: what is to be moved, large ones or small.
        crew: what may be started; None moves everything here.
        job: what a helper must know of a file; None where it is for this process alone.
        move: moves files here, and is given those that helpers did not manage in a second call.
        hear: told what helpers report, in threads of theirs.
        observer: told when a helper failed.

    Raises:
        BaseException: what `move`, `hear` or the observer raised.
    """
    jobs = {file.path: found for file in files if (found := job(file))} if crew else {}
    if crew is None or not jobs:
        move(files)
        return
    shared = {file.path: file for file in files if file.path in jobs}
    with Helpers(jobs.values(), crew, hear=hear, observer=observer) as helpers:
        alone = (file for file in files if file.path not in shared)
        move(chain(alone, (shared[job.path] for job in helpers.own())))
        move(shared[job.path] for job in helpers.handed_back())
