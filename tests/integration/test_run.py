"""`ckptsync run`: a command with the sidecar beside it, as processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.waiting import LONG_S, wait_until

from ckptsync.run import open_run
from ckptsync.verbs.save import save

CKPTSYNC = str(Path(sys.executable).with_name("ckptsync"))
WRITE = """import os, shutil, sys
def write(step):
    folder = os.environ['CKPTSYNC_DIR']
    shutil.copy(os.environ['TEMPLATE'], folder + '/x.tmp')
    os.replace(folder + '/x.tmp', folder + f'/step-{step}.pt')
"""
WRITE_ONE = f"{WRITE}\nwrite(5); sys.exit(int(sys.argv[1]))"


@pytest.fixture(autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of torch.save, for commands that start quicker without torch."""
    path = tmp_path_factory.getbasetemp() / "template.pt"
    if not path.exists():
        torch.save({"weights": torch.ones(4)}, path)
    monkeypatch.setenv("TEMPLATE", str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def argv(url: str, folder: Path, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [CKPTSYNC, "run", url, "--dir", str(folder), "--notices", "signal", *options, "--", *command]


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def ended(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False, **settings)


@pytest.fixture
def begun() -> Iterator[Any]:
    """Start a program; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(command: list[str], **settings: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def steps(url: str) -> list[int]:
    with open_run(url) as run:
        return [listed.id.step for listed in run.catalog.listed()]


@pytest.mark.parametrize("code", [0, 9])
def test_what_it_wrote_is_committed_and_its_code_is_ours(url: str, folder: Path, code: int) -> None:
    done = ended(argv(url, folder, *python(WRITE_ONE, str(code))))
    assert (done.returncode, steps(url)) == (code, [5]), done.stderr
    assert "committed" in done.stderr


def test_the_next_one_resumes_on_an_empty_disk(url: str, folder: Path, tmp_path: Path) -> None:
    ended(argv(url, folder, *python(WRITE_ONE, "0")))
    done = ended(argv(url, tmp_path / "other", *python("import os; print(os.listdir(os.environ['CKPTSYNC_DIR']))")))
    assert done.stdout == "['step-5.pt']\n"
    assert "restored step 5" in done.stderr
    assert steps(url) == [5]


def test_events_are_json_and_nothing_else_is_on_stdout(folder: Path, tmp_path: Path) -> None:
    done = ended(argv(str(tmp_path / "run"), folder, *python(WRITE_ONE, "0"), options=("--json",)))
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "committed"] == [5]


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (("/no/such/command",), 127, "there is no such command"),
        (("/",), 126, "Permission denied"),
        (("sh", "-c", "kill -KILL $$"), 137, ""),
        (("sh", "-c", "kill -TERM $$"), 143, ""),
    ],
)
def test_codes_are_those_of_a_shell(
    folder: Path, tmp_path: Path, command: tuple[str, ...], code: int, says: str
) -> None:
    done = ended(argv(str(tmp_path / "run"), folder, *command))
    assert done.returncode == code
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "x", "--dir", "y", "python", "train.py"], "behind --"),
        (["run", "x", "--dir", "y", "--"], "the command is missing"),
        (["run", "x", "--", "true"], "'--dir'"),
        (["run", "--dir", "y", "--", "true"], "RUN is missing, and CKPTSYNC_RUN is not set"),
        (["run", "x", "--dir", "y", "--ask", "mail", "--", "true"], "ask is 'mail'"),
        (["run", "x", "--dir", "y", "--notices", "azure", "--", "true"], "notices has 'azure'"),
        (["run", "x", "--dir", "y", "--ready", "jax", "--", "true"], "'jax'"),
        (["run", "memory://x", "--dir", "y", "--", "true"], "ends with this process"),
        (["run", "../x", "--dir", ".", "--", "true"], "holds more than checkpoints"),
        (["run", "y/x", "--dir", "y", "--", "true"], "lie in each other"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = ended([CKPTSYNC, *arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


TELLS = f"""{WRITE}
import signal, time
def told(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        write(8); sys.exit(3)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
    signal.signal(number, told)
print("here", flush=True)
while True: time.sleep(0.1)
"""


@pytest.mark.req(5, 37)
def test_signals_are_passed_on_and_what_it_writes_at_last_is_committed(
    folder: Path, tmp_path: Path, begun: Any
) -> None:
    url = str(tmp_path / "run")
    process = begun(argv(url, folder, *python(TELLS)), stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == "here\n"
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:  # who started us ignores it, and so do we all
            continue
        process.send_signal(number)
        assert process.stdout.readline() == f"{signal.Signals(number).name}\n"
    assert process.wait(LONG_S) == 3
    assert steps(url) == [8]


def test_who_does_not_end_is_killed_before_the_time_is_over(folder: Path, tmp_path: Path, begun: Any) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
    )
    options = ("--drain-timeout", "2s", "--margin", "1s")
    process = begun(argv(str(tmp_path / "run"), folder, *python(deaf), options=options), stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == "here\n"
    begun_s = time.monotonic()
    process.terminate()
    assert process.wait(LONG_S) == 137
    assert time.monotonic() - begun_s < 10
    assert "has not ended in time" in process.stderr.read()


def test_killed_without_a_word_it_takes_the_command_along(folder: Path, tmp_path: Path, begun: Any) -> None:
    process = begun(
        argv(str(tmp_path / "run"), folder, *python("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    )
    pid = int(process.stdout.readline())
    process.kill()
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    )


def test_what_is_not_durable_in_time_is_75_and_continues(folder: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "run"
    breaks = f"import os; os.makedirs({str(bucket)!r}, exist_ok=True); open({str(bucket / 'data')!r}, 'w').close()\n"
    done = ended(argv(str(bucket), folder, *python(breaks + WRITE_ONE, "0"), options=("--drain-timeout", "2s")))
    assert done.returncode == 75, done.stderr
    (bucket / "data").unlink()
    done = ended(argv(str(bucket), folder, *python(breaks + WRITE_ONE, "9"), options=("--drain-timeout", "2s")))
    assert done.returncode == 9, done.stderr
    (bucket / "data").unlink()
    done = ended(argv(str(bucket), folder, "true"))
    assert (done.returncode, steps(str(bucket))) == (0, [5]), done.stderr


def test_asked_to_end_again_it_waits_no_longer(folder: Path, tmp_path: Path, begun: Any) -> None:
    bucket = tmp_path / "run"
    breaks = f"import os; os.makedirs({str(bucket)!r}, exist_ok=True); open({str(bucket / 'data')!r}, 'w').close()\n"
    process = begun(argv(str(bucket), folder, *python(breaks + WRITE_ONE, "0")), stdin=subprocess.DEVNULL)
    for line in process.stderr:
        if str(bucket) in line and "no snapshot" not in line:
            break
    wait_until(lambda: not children(process.pid))
    process.terminate()
    process.terminate()
    while process.poll() is None:
        time.sleep(0.1)
        process.terminate()
    assert process.returncode == 75


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.req(8)
def test_a_newer_writer_ends_it(folder: Path, tmp_path: Path, begun: Any) -> None:
    url = str(tmp_path / "run")
    loop = f"{WRITE}import time, itertools\nfor step in itertools.count(1): write(step); time.sleep(0.2)"
    process = begun(argv(url, folder, *python(loop)))
    wait_until(lambda: steps(url))
    with open_run(url) as run:
        source = tmp_path / "other"
        source.write_text("x")
        save(run, source, step=1000)
    assert process.wait(LONG_S) == 5
    said = process.stderr.read()
    assert said.count("is newer than ours") == 1, said
    assert "the command is ended" in said


def test_with_a_terminal_ctrl_c_reaches_the_command_once(folder: Path, tmp_path: Path) -> None:
    counts = (
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('here', flush=True)\n"
        "while not seen: time.sleep(0.05)\n"
        "time.sleep(0.5); sys.exit(10 + len(seen))\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(CKPTSYNC, argv(str(tmp_path / "run"), folder, *python(counts)))  # noqa: S606
    printed = b""
    while b"here" not in printed:
        printed += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(waited(pid, terminal)) == 11
    os.close(terminal)


def waited(pid: int, terminal: int) -> int:
    """Wait for a process, and read what it prints meanwhile."""
    while True:
        try:
            os.read(terminal, 1000)
        except OSError:
            return os.waitpid(pid, 0)[1]


def test_with_a_terminal_ctrl_z_stops_both_and_fg_goes_on(folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"import time; print('here', flush=True); open({str(told)!r}, 'w').close(); time.sleep(1.5)"
    pid, terminal = pty.fork()
    if pid == 0:  # a shell with job control would do as this one does
        os.execvp(  # noqa: S606
            "bash",
            [
                "bash",
                "-m",
                "-c",
                " ".join(map(quoted, argv(str(tmp_path / "run"), folder, *python(code))))
                + "; echo stopped $?; fg; echo code $?",
            ],
        )
    printed = b""
    wait_until(told.exists)
    os.write(terminal, b"\x1a")
    while b"code 0" not in printed:
        printed += os.read(terminal, 1000)
    assert b"stopped 148" in printed
    waited(pid, terminal)
    os.close(terminal)


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def can_unshare() -> bool:
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.req(5)
@pytest.mark.skipif(not can_unshare(), reason="no right to make a process namespace")
def test_as_the_first_process_it_buries_orphans(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, subprocess, time\n"
        "subprocess.run(['sh', '-c', 'sleep 0.1 & exec sleep 0.05'])\n"
        "time.sleep(1)\n"
        "states = subprocess.run(['ps', '-A', '-o', 'stat='], capture_output=True, text=True).stdout.split()\n"
        "print(os.getppid() != 1, any(state.startswith('Z') for state in states))\n"
        "raise SystemExit(4)\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", *argv(str(tmp_path / "run"), folder, *python(code))]
    done = ended(command)
    assert (done.returncode, done.stdout) == (4, "True False\n"), done.stderr


@pytest.mark.req(6)
def test_a_notice_asks_a_library_for_a_last_checkpoint(folder: Path, tmp_path: Path, begun: Any) -> None:
    hook, url, own = tmp_path / "hook", str(tmp_path / "run"), tmp_path / "own"
    code = (
        "import os, time; from ckptsync import CheckpointManager, EveryNSeconds\n"
        f"with CheckpointManager({str(own)!r}, save=EveryNSeconds(10000)) as manager:\n"
        "    print('here', flush=True); step = 0\n"
        "    while not manager.should_save(step): step += 1; time.sleep(0.01)\n"
        "    manager.save(step, value=step)\n"
    )
    process = begun(argv(url, folder, *python(code), options=("--notice-file", str(hook))), stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == "here\n"
    time.sleep(0.3)
    hook.write_text("60")
    assert process.wait(LONG_S) == 0, process.stderr.read()
    assert len(steps(str(own))) == 1


@pytest.mark.req(6)
def test_a_notice_asks_a_plain_loop_by_a_signal(folder: Path, tmp_path: Path, begun: Any) -> None:
    hook, url = tmp_path / "hook", str(tmp_path / "run")
    code = (
        f"{WRITE}\nimport signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: write(77)); print('here', flush=True); time.sleep(600)\n"
    )
    options = ("--notice-file", str(hook), "--ask", "signal:USR1")
    process = begun(argv(url, folder, *python(code), options=options), stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == "here\n"
    hook.write_text("60")
    wait_until(lambda: steps(url) == [77])
    process.kill()


def test_what_is_written_at_once_was_not_there_at_the_start(folder: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    for step in (9, 3):
        done = ended(argv(url, folder, *python(f"{WRITE}write({step})")))
        assert done.returncode == 0, done.stderr
    assert steps(url) == [3, 9]


RANK = f"""{WRITE}
import signal, time
def told(*_):
    time.sleep(2)
    if os.environ['RANK'] == '0':
        write(6)
    os._exit(0)
signal.signal(signal.SIGTERM, told)
print('here', flush=True)
time.sleep(600)
"""


@pytest.mark.req(5)
def test_torchrun_has_time_to_end_its_workers(folder: Path, tmp_path: Path, begun: Any) -> None:
    url, script = str(tmp_path / "run"), tmp_path / "rank.py"
    script.write_text(RANK)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script))
    process = begun(argv(url, folder, sys.executable, *launcher), stdin=subprocess.DEVNULL)
    said = process.stdout.readline() + process.stdout.readline()  # of two workers, whose lines may run into each other
    assert said.split("\n") in (["here", "here", ""], ["herehere", "", ""])
    process.terminate()
    process.communicate(timeout=LONG_S)
    assert steps(url) == [6]
    assert process.returncode not in {0, 5, 75, 137}  # torchrun's own code of a job that was told to end
