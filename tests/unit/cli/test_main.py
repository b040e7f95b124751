"""The program: its verbs, where options may stand, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import ckptsync
from ckptsync import errors
from ckptsync.cli import main
from ckptsync.cli.main import cli

CONTRACT = "save restore export ls show diff verify promote pin unpin rm gc adopt status doctor bench completion report agent run"
ENTRY = "from ckptsync.cli.main import main; main()"

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def program(*arguments: str, code: str = ENTRY) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def every_error() -> list[type[errors.CkptsyncError]]:
    found = [errors.CkptsyncError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_python_m_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "ckptsync", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ckptsync ")


def test_the_verbs_are_those_of_the_contract() -> None:
    assert set(cli.list_commands(click.Context(cli))) == set(CONTRACT.split())


@pytest.mark.parametrize("name", CONTRACT.split())
def test_help_says_the_same_about_a_verb_in_both_places(name: str, call: Call) -> None:
    first_line = (command(name).help or "").splitlines()[0]
    assert first_line == main._PLACES[name][1]
    assert first_line in " ".join(call("--help").stdout.split())


@pytest.mark.parametrize("name", CONTRACT.split())
def test_every_verb_takes_the_same_words(name: str) -> None:
    options = {option for param in command(name).params for option in param.opts}
    assert {"--json", "-q", "-v", "--config"} <= options
    if name != "completion":
        assert {"--single-writer", "--endpoint-url", "--set"} <= options


def test_help_loads_click_alone() -> None:
    code = (
        "import sys\nfrom ckptsync.cli.main import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, *(name for name in sys.modules if 'ckptsync' in name))"
    )
    loaded = set(program(code=code).stdout.splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & {
        "rich",
        "msgspec",
        "blake3",
        "tenacity",
        "ckptsync.config",
        "ckptsync.options",
        "ckptsync.cli.transfer",
    }


def test_help_of_a_verb_loads_no_verb() -> None:
    code = (
        "import sys\nfrom ckptsync.cli.main import cli\ntry: cli.main(['save', '--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules)"
    )
    loaded = set(program(code=code).stdout.splitlines()[-1].split())
    assert "ckptsync.cli.transfer" in loaded
    assert not loaded & {"rich", "msgspec", "blake3", "tenacity", "ckptsync.verbs"}


def test_no_arguments_mean_help(call: Call) -> None:
    assert call().stdout == call("--help").stdout == call("-h").stdout


def test_version(call: Call) -> None:
    assert call("--version").stdout == f"ckptsync {ckptsync.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("sve", "there is no verb 'sve' (did you mean 'save'?); `ckptsync --help`"),
        ("xyzzy", "there is no verb 'xyzzy';"),
        ("--nonsense", "no such option '--nonsense'; `ckptsync --help`"),
        ("save source run", "missing option '--step'; `ckptsync save --help`"),
        ("save source run --step one", "'--step'"),
        ("save source run --step -1", "'--step'"),
        ("save source run --step 1 --stepp 2", "no such option"),
        ("save source run extra --step 1", "unexpected extra argument"),
        ("save source --step 1", "RUN is missing, and CKPTSYNC_RUN is not set"),
        ("save --step 1", "PATH is missing, and CKPTSYNC_DIR is not set"),
        ("save source run --step 1 --metric loss", "'loss' is not like NAME=VALUE"),
        ("save source run --step 1 --metric loss=low", "'low' in 'loss=low' is not a number"),
        ("save source run --step 1 --metric a:b=1", "metric name 'a:b'"),
        ("save source run --step 1 --part-size big", "'big' is not a size"),
        ("save source run --step 1 --part-size 1MiB", "part_bytes"),
        ("save source run --step 1 --workers 0", "'--workers'"),
        ("save source run --step 1 --alias 7", "cannot be an alias"),
        ("save nowhere run --step 1", "there is nothing to save at nowhere"),
        ("save source xyz://bucket --step 1", "unknown scheme 'xyz'"),
        ("ls run --config nowhere.toml", "nowhere.toml"),
        ("ls run --set nonsense=1", "nonsense"),
        ("ls run --set retry.attempts", "'retry.attempts' is not like NAME=VALUE"),
        ("ls run --set retry.attempts=0", "attempts"),
        ("ls run --set retry=0 --set retry.attempts=1", "'retry' is a group"),
        ("verify run --percent 0", "'--percent'"),
        ("gc run --keep-last 0", "'--keep-last'"),
        ("gc run --keep-best loss", "'loss' is not like METRIC:min"),
        ("gc run --keep-best loss:min:0", "'loss:min:0'"),
        ("gc run --keep-within soon", "'soon' is not a duration"),
        ("gc run --grace soon", "'soon' is not a duration"),
        ("bench run --size much", "'much' is not a size"),
        ("completion tcsh", "'tcsh' is not one of"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_touch_nothing(
    arguments: str, said: str, call: Call, source: Path
) -> None:
    result = call(*arguments.split(), exit_code=2)
    assert said in result.stderr
    assert result.stdout == ""
    assert not Path("run").exists()
    assert source.exists()


@pytest.mark.req(3)
@pytest.mark.parametrize("kind", every_error())
def test_every_error_is_a_sentence_and_its_exit_code(
    kind: type[errors.CkptsyncError], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("the first line\nand \x1b[31mthe second")

    monkeypatch.setattr("ckptsync.verbs.save.save", fail)
    result = call("save", "source", "run", "--step", 1, "--json", exit_code=kind.exit_code)
    assert result.stderr == "ckptsync: the first line and \\x1b[31mthe second\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (RuntimeError("boom"), 1, "unexpected RuntimeError: boom; please report it"),
        (MemoryError(), 1, "unexpected MemoryError"),
        (OSError(28, "No space left on device", "some/file"), 8, "No space left on device: some/file"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; what was transferred is kept, run the same command again"),
    ],
)
def test_other_ends(
    error: BaseException, exit_code: int, said: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ckptsync.verbs.save.save", fail)
    assert said in call("save", "source", "run", "--step", 1, exit_code=exit_code).stderr


def test_a_traceback_only_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors.StoreError("refused")

    monkeypatch.setattr("ckptsync.verbs.save.save", fail)
    for arguments, shown in (("-vv save", True), ("-v save -v", True), ("-v save", False)):
        result = CliRunner().invoke(cli, [*arguments.split(), "source", "run", "--step", "1"])
        assert result.exit_code == 3
        assert ("Traceback" in result.stderr) is shown
        assert result.stderr.endswith("ckptsync: refused\n")


def test_options_may_stand_before_the_verb_and_behind_it(call: Call, saved: Path) -> None:
    Path("options.toml").write_text("[retry]\nattempts = 0\n")
    assert call("--json", "status", saved).stdout.startswith("{")
    assert call("status", saved, "--json").stdout.startswith("{")
    assert "attempts" in call("--config", "options.toml", "ls", saved, exit_code=2).stderr
    assert "attempts" in call("ls", saved, "--config", "options.toml", exit_code=2).stderr
    assert call("-q", "pin", saved, 100).output == ""
    assert call("pin", saved, 100, "-q").output == ""


def test_quiet_leaves_what_was_asked_for(call: Call, saved: Path) -> None:
    assert "committed" in call("ls", saved, "-q").stdout
    assert json.loads(call("pin", saved, 100, "-q", "--json").stdout)["pinned"] is True


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_in_order(number: signal.Signals, exit_code: int) -> None:
    code = f"""
import signal
import threading
from contextlib import suppress
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background hands it on ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import ckptsync.verbs.save as verb

def save(*arguments, **options):
    threading.Thread(target=threading.Event().wait).start()  # a request that lasts
    try:
        print("ready", flush=True)
        threading.Event().wait()
    finally:
        print("released", flush=True)

verb.save = save
{ENTRY}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "save", "source", "run", "--step", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        try:
            assert process.wait(30) == exit_code
        finally:
            process.kill()
        assert process.stdout.read() == "released\n"
        assert process.stderr.read().startswith(f"ckptsync: stopped by {number.name}; what was transferred is kept")


def test_a_hangup_that_the_caller_ignores_stays_ignored() -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ckptsync.cli.ending import stop_on_signals\nstop_on_signals()\nprint(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    assert program(code=code).stdout == "True\n"


@pytest.mark.parametrize("closed", [(2,), (1,), (1, 2), (0, 1, 2)])
def test_closed_streams_stop_nothing(source: Path, ask: Ask, closed: tuple[int, ...]) -> None:
    """Neither is what is written to them taken for a part of a file of ours."""
    shut = " ".join(f"{number}>&-" if number else "<&-" for number in closed)
    arguments = [sys.executable, "-c", ENTRY, "save", str(source), "run", "--step", "1", "-v"]
    subprocess.run(["sh", "-c", f'exec "$@" {shut}', "sh", *arguments], check=True, capture_output=True, timeout=60)
    assert ask("verify", "run")[0]["bad"] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_full_streams_are_told_from_what_was_done(source: Path) -> None:
    arguments = [sys.executable, "-c", ENTRY, "save", str(source), "run", "--step"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*arguments, "1"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        assert done.returncode == errors.DiskError.exit_code
        said = (
            "ckptsync: printing the result failed (No space left on device), but the work is done: committed 00000001-"
        )
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1
        subprocess.run([*arguments, "2", "-v"], stderr=full, check=True, capture_output=False, timeout=60)
        failed = subprocess.run([*arguments, "x"], stderr=full, check=False, timeout=60)
        assert failed.returncode == errors.ConfigError.exit_code


def test_nobody_reading_is_no_error(saved: Path) -> None:
    code = f"""
import os, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.argv[1:] = ["ls", {str(saved)!r}]
{ENTRY}
"""
    done = program(code=code)
    assert done.stderr == ""
    assert done.returncode != 0
