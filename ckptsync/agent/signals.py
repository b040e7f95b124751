"""Signals as notices: Kubernetes, systemd and Slurm send SIGTERM and wait a while before they kill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ckptsync.agent.notice import Notice, Source, Tell
from ckptsync.clock import SYSTEM, Clock


@contextmanager
def noticing(
    tell: Tell,
    *,
    grace_s: float,
    number: int = signal.SIGTERM,
    chain: bool = True,
    clock: Clock = SYSTEM,
) -> Iterator[None]:
    """Take the first signal for a notice, as long as the `with` block lasts; a second one does what it did before.

    Outside the main thread, where no handler can be set, nothing is changed. A forked child is none of our business: there the
    signal does what it did before.

    Args:
        tell: called in the main thread, between two of its instructions.
        grace_s: how long after the signal the machine or the container is killed: the senders do not tell.
        number: of the signal.
        chain: call the handler that was there before as well.
        clock: that deadlines are by.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination,
    https://slurm.schedmd.com/slurm.conf.html#OPT_KillWait
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, before = os.getpid(), signal.getsignal(number)

    def received(received_number: int, frame: FrameType | None) -> None:
        signal.signal(number, before)
        if os.getpid() != owner:
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(received_number).name
        tell(
            Notice(
                source=Source.SIGNAL,
                kind=name,
                final=True,
                deadline_s=clock.monotonic() + grace_s,
                message=f"{name} was received, which leaves {grace_s:.0f} s",
            )
        )
        if chain and callable(before):
            before(received_number, frame)

    signal.signal(number, received)
    try:
        yield
    finally:
        if os.getpid() == owner and signal.getsignal(number) is received:
            signal.signal(number, before)
