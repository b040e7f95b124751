"""What the first process of a container must do: pass signals on, and bury processes that nobody waits for."""

from __future__ import annotations

import os
import signal

_NOT_PASSED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}
_BY_SIGNAL = 128


def become_init() -> None:
    """Fork where this is process 1: the child returns from here and does the work; its parent waits for it, and ends as it does.

    Nothing happens in any other process. For a process without threads.
    """
    if os.getpid() != 1:
        return
    passed = signal.valid_signals() - _NOT_PASSED
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed | {signal.SIGCHLD})
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_wait_for(worker, passed | {signal.SIGCHLD}))


def _wait_for(worker: int, signals: set[signal.Signals]) -> int:
    """Pass signals on until the worker ends; what it ended with, as a shell tells it."""
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            try:
                os.kill(worker, number)
            except ProcessLookupError:
                continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == worker:
                code = os.waitstatus_to_exitcode(status)
                return _BY_SIGNAL - code if code < 0 else code
            if pid == 0:
                break
