"""A training under `ckptsync run` on machines that end in every way, each with an empty disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ckptsync.run import open_run
from support.waiting import LONG_S, wait_until

CKPTSYNC = str(Path(sys.executable).with_name("ckptsync"))
ENDS = ("SIGKILL", "SIGTERM", "notice")


@dataclass(slots=True)
class Instances:
    """Machines, one after the other.

    Attributes:
        url: of the run.
        folder: for their disks.
        command: the training; `{dir}` is the directory of checkpoints, `{log}` a file that it begins with a line for each start.
        options: of `ckptsync run`.
        life_s: each lives for up to so long once its training has begun.
        starts: at which step each one began.
    """

    url: str
    folder: Path
    command: Sequence[str]
    options: Sequence[str] = ()
    life_s: float = 1.5
    starts: list[int] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "starts.log"

    def begun(self) -> tuple[subprocess.Popen[bytes], Path]:
        """A new machine, whose training has begun."""
        disk = self.folder / f"disk-{len(self.starts)}"
        (disk / "state").mkdir(parents=True)
        known = len(self.starts)
        words = {"dir": str(disk / "checkpoints"), "log": str(self.log)}
        with (disk / "out").open("wb") as out:
            process = subprocess.Popen(
                [
                    *(CKPTSYNC, "run", self.url, "--dir", words["dir"], "--state-dir", str(disk / "state"), "-v"),
                    *("--notices", "signal", "--notice-file", str(disk / "notice"), *self.options, "--"),
                    *(word.format(**words) for word in self.command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: len(self._lines()) > known or process.poll() is not None)
        assert len(self._lines()) > known, (disk / "out").read_text()
        self.starts.append(int(self._lines()[known].split()[1]))
        return process, disk

    def end(self, process: subprocess.Popen[bytes], disk: Path, how: str) -> None:
        """End a machine: at once, by SIGTERM with time to drain, or by a notice and then at once."""
        if how == "SIGTERM":
            process.terminate()
            process.wait(LONG_S)
            return
        if how == "notice":
            (disk / "notice.new").write_text("10")
            (disk / "notice.new").replace(disk / "notice")
            time.sleep(2.0)
        kill_session(process.pid)
        process.wait(LONG_S)

    def newest_step(self) -> int:
        """What is committed."""
        with open_run(self.url) as run:
            newest = run.catalog.latest()
        return newest.id.step if newest is not None else 0

    def survive(self, events: int, dice: random.Random) -> list[str]:
        """Let so many machines end at random moments, and the last one come to its end; what became of each."""
        told = []
        for _ in range(events):
            before = self.newest_step()
            process, disk = self.begun()
            assert self.starts[-1] >= before, "it began behind what was committed"
            time.sleep(dice.uniform(0.0, self.life_s))
            how = dice.choice(ENDS)
            assert process.poll() is None, (disk / "out").read_text()
            self.end(process, disk, how)
            told.append(f"{how}: begun at {self.starts[-1]}, committed {self.newest_step()}")
        process, disk = self.begun()
        assert process.wait(3 * LONG_S) == 0, (disk / "out").read_text()
        return told

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def kill_session(leader: int) -> None:
    """Kill whatever is in a session, in every process group of it, as when a machine is gone."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if found == leader:
            try:
                os.kill(int(folder.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
