"""How a program with a manager ends: without a word, by an error, by Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync import saver as saver_module
from ckptsync.manager import CheckpointManager
from ckptsync.run import open_run

Make = Callable[..., CheckpointManager]


@pytest.mark.req(4)
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise RuntimeError"])
def test_a_program_that_ends_without_closing_waits_for_its_last_save(tmp_path: Path, end: str) -> None:
    script = f"""
from ckptsync import CheckpointManager, Config
manager = CheckpointManager({str(tmp_path / "run")!r}, config=Config(state_dir={str(tmp_path / "state")!r}))
manager.save(7, n={{"large": list(range(100_000))}})
{end}
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == {"": 0, "raise SystemExit(3)": 3}.get(end, 1), found.stderr
    with open_run(tmp_path / "run") as run:
        assert [one.id.step for one in run.catalog.listed()] == [7]


@pytest.mark.req(4)
def test_a_program_that_ends_says_what_is_not_durable(tmp_path: Path) -> None:
    script = f"""
from ckptsync import CheckpointManager, Config
manager = CheckpointManager({str(tmp_path / "run")!r}, config=Config(state_dir={str(tmp_path / "state")!r}))
manager.save(7, n={{"n": 1}})
manager.wait()
import pathlib, shutil
shutil.rmtree({str(tmp_path / "run")!r})
pathlib.Path({str(tmp_path / "run")!r}).write_text("in the way")
manager.save(8, n={{"n": 2}})
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "step 8 is not durable" in found.stderr, found.stderr


@pytest.mark.req(4)
def test_a_program_that_ends_tidies_up_behind_its_last_save(tmp_path: Path) -> None:
    script = f"""
from ckptsync import CheckpointManager, Config, LatestN
manager = CheckpointManager({str(tmp_path / "run")!r}, keep=LatestN(1), config=Config(state_dir={str(tmp_path / "state")!r}))
for step in (7, 8):
    manager.save(step, n={{"large": list(range(100_000))}})
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert not found.stderr
    with open_run(tmp_path / "run") as run:
        assert [one.id.step for one in run.catalog.listed()] == [8]


@pytest.mark.req(4)
def test_a_program_that_ends_does_not_call_what_is_durable_lost(tmp_path: Path) -> None:
    script = f"""
from ckptsync import CheckpointManager, Config, saver
def fail(*_, **__):
    raise ckptsync.StoreError("nothing can be deleted")
import ckptsync
saver.tidy = fail
manager = CheckpointManager({str(tmp_path / "run")!r}, config=Config(state_dir={str(tmp_path / "state")!r}))
manager.save(7, n={{"n": 1}})
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "nothing can be deleted" in found.stderr
    assert "durable" not in found.stderr


@pytest.mark.req(4)
@pytest.mark.parametrize("waiting", ["manager.wait()", "manager.save(8, n={'n': 2})", "manager.close()"])
def test_ctrl_c_ends_the_waiting_and_not_the_save(tmp_path: Path, waiting: str) -> None:
    script = f"""
import signal, sys, threading
from ckptsync import CheckpointManager, Config, saver
signal.signal(signal.SIGINT, signal.default_int_handler)
plain, begun = saver.save, threading.Event()
def slow(*args, **options):
    begun.set()
    sys.stdin.readline()
    return plain(*args, **options)
saver.save = slow
with CheckpointManager({str(tmp_path / "run")!r}, config=Config(state_dir={str(tmp_path / "state")!r})) as manager:
    manager.save(7, n={{"n": 1}})
    begun.wait()
    try:
        print("waiting", flush=True)
        {waiting}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("left", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "interrupted\n"
        program.stdin.write("go on\n")
        program.stdin.flush()
        assert program.stdout.readline() == "left\n"
    with open_run(tmp_path / "run") as run:
        assert [one.id.step for one in run.catalog.listed()] == [7]


def test_a_check_that_breaks_does_not_hide_what_the_loop_died_of(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("a slip of the user's own")

    monkeypatch.setattr(saver_module, "save", fail)

    def loop() -> None:
        with make() as manager:
            manager.save(0, n={"n": 0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert "a slip of the user's own" in caplog.text
