"""A command beside the sidecar: how it starts, ends and dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LONG_S, wait_until

from ckptsync.agent.child import Child, CommandError

PYTHON = sys.executable


def started(code: str, **environ: str) -> Child:
    return Child([PYTHON, "-S", "-c", code], {**os.environ, **environ})


@pytest.mark.parametrize(("code", "exit_code"), [("pass", 0), ("raise SystemExit(9)", 9)])
def test_its_exit_code_is_told(code: str, exit_code: int) -> None:
    child = started(code)
    assert child.wait(LONG_S) == exit_code
    assert child.exit_code() == exit_code
    child.send(signal.SIGTERM)
    child.kill()


def test_a_signal_ends_it_as_shells_tell_it() -> None:
    child = started("import time; time.sleep(600)")
    assert child.exit_code() is None
    assert child.wait(0.01) is None
    child.send(signal.SIGTERM)
    assert child.wait(LONG_S) == 128 + signal.SIGTERM


def test_its_environment_is_what_it_is_given() -> None:
    assert started("import os, sys; sys.exit(os.environ['WHAT'] != 'this')", WHAT="this").wait(LONG_S) == 0


@pytest.mark.parametrize("session", [False, True], ids=["in its group", "in a session of its own"])
def test_killing_it_ends_what_it_started(tmp_path: Path, session: bool) -> None:  # noqa: FBT001
    noted = tmp_path / "pid"
    child = started(
        "import subprocess, sys, time, os\n"
        f"inner = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session={session})\n"
        f"open({str(noted) + '.half'!r}, 'w').write(str(inner.pid)); os.rename({str(noted) + '.half'!r}, {str(noted)!r})\n"
        "time.sleep(600)"
    )
    wait_until(noted.exists)
    inner = int(noted.read_text())
    child.kill()
    assert child.wait(LONG_S) == 128 + signal.SIGKILL
    wait_until(lambda: is_gone(inner))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("name", "mode", "exit_code", "says"),
    [
        ("nothing", None, 127, "there is no such command"),
        ("plain", 0o644, 126, "Permission denied"),
        ("text", 0o755, 126, "Exec format error"),
    ],
)
def test_what_cannot_be_started(tmp_path: Path, name: str, mode: int | None, exit_code: int, says: str) -> None:
    path = tmp_path / name
    if mode is not None:
        path.write_text("no program\n")
        path.chmod(mode)
    with pytest.raises(CommandError, match=says) as refused:
        Child([str(path)], os.environ)
    assert refused.value.exit_code == exit_code


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(CommandError, match="null byte"):
        Child(["true", "a\0b"], os.environ)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties a child to its parent")
def test_it_is_told_when_its_parent_dies_without_a_word(tmp_path: Path) -> None:
    told, here = tmp_path / "told", tmp_path / "here"
    inner = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(told)!r}, 'w').close(), sys.exit(0)))\n"
        f"open({str(here)!r}, 'w').close()\n"
        "time.sleep(600)"
    )
    outer = f"import os, sys, time; from ckptsync.agent.child import Child; Child([sys.executable, '-S', '-c', {inner!r}], os.environ); time.sleep(600)"
    with subprocess.Popen([PYTHON, "-c", outer], stdin=subprocess.DEVNULL) as parent:
        wait_until(here.exists)
        parent.kill()
    wait_until(told.exists)
