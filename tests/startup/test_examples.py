"""The start-up examples are what cloud-init, systemd and a shell take, and agree with ckptsync: `make test-startup`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.startup import ENVIRONMENT, SCRIPT, UNIT, USER_DATA, environment, files, unit

from ckptsync import errors
from ckptsync.agent.child import CommandError, CommandNotFoundError
from ckptsync.agent.startup import check_directory
from ckptsync.config import parse_duration, resolve

EXAMPLES = pytest.mark.parametrize("example", [USER_DATA, SCRIPT], ids=["aws", "gcp"])
CKPTSYNC = "/srv/train/venv/bin/ckptsync"


def checked(*command: str | Path) -> str:
    """What a checker says of a file."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not there; `make test-startup` installs it")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout if done.stdout or not done.returncode else f"it ended with {done.returncode}"


def test_cloud_init_takes_the_user_data() -> None:
    assert USER_DATA.read_text().startswith("#cloud-config\n")
    assert checked("cloud-init", "schema", "--config-file", USER_DATA).startswith("Valid")


@EXAMPLES
def test_systemd_takes_the_unit(example: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.service"
    path.write_text(files(example)[UNIT])
    said = checked("systemd-analyze", "--man=no", "--recursive-errors=no", "verify", path).splitlines()
    installed_later = f"train.service: Command {CKPTSYNC} is not executable: No such file or directory"
    assert [line for line in said if line != installed_later] == []


def test_it_is_the_same_unit_on_either_cloud() -> None:
    assert files(USER_DATA)[UNIT] == files(SCRIPT)[UNIT]


@pytest.mark.parametrize("checker", [("shellcheck",), ("sh", "-n"), ("bash", "-n")], ids=" ".join)
@pytest.mark.parametrize("script", ["user data", "start-up script", "what that installs by"])
def test_shells_take_the_scripts(script: str, checker: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_text(
        SCRIPT.read_text()
        if script == "start-up script"
        else files(USER_DATA if script == "user data" else SCRIPT)["/usr/local/sbin/install-training"]
    )
    assert checked(*checker, path) == ""


@EXAMPLES
def test_exit_codes_that_no_restart_mends_are_ours(example: Path) -> None:
    service = unit(files(example)[UNIT])
    assert service.one("Service", "Restart") == "on-failure"
    listed = {int(code) for code in service.one("Service", "RestartPreventExitStatus").split()}
    assert listed == {
        errors.ConfigError.exit_code,
        errors.FencedError.exit_code,
        CommandError.exit_code,
        CommandNotFoundError.exit_code,
    }
    assert not listed & {errors.StoreError.exit_code, errors.NotDurableError.exit_code}


@EXAMPLES
def test_what_the_training_says_can_be_read_from_outside(example: Path) -> None:
    service = unit(files(example)[UNIT])
    assert {service.one("Service", f"Standard{stream}") for stream in ("Output", "Error")} == {"journal+console"}


@EXAMPLES
def test_systemd_waits_longer_than_the_drain(example: Path) -> None:
    service = unit(files(example)[UNIT])
    words = service.command({})
    drain_s = parse_duration(words[words.index("--drain-timeout") + 1])
    assert drain_s < float(service.one("Service", "TimeoutStopSec")) <= drain_s + 60
    assert service.one("Service", "KillMode") == "mixed"
    assert service.one("Service", "Type") == "exec"


@EXAMPLES
def test_options_and_directories_are_such_that_ckptsync_takes_them(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = environment(files(example)[ENVIRONMENT])
    commented = {
        name: value
        for line in files(example)[ENVIRONMENT].splitlines()
        if line.startswith("# CKPTSYNC")
        for name, value in environment(line.removeprefix("# ")).items()
    }
    for name, value in {**settings, **commented}.items():
        monkeypatch.setenv(name, value)
    assert resolve({}).agent.ask == "signal:USR1"
    words = unit(files(example)[UNIT]).command(settings)
    directory = words[words.index("--dir") + 1]
    assert directory in settings["TRAIN_OPTIONS"].split()
    check_directory(Path(directory))
    assert settings["CKPTSYNC_RUN"].startswith("s3://" if example is USER_DATA else "gs://")


@EXAMPLES
def test_it_writes_where_the_unit_may_write_as_nobody_in_particular(example: Path) -> None:
    service = unit(files(example)[UNIT])
    state = Path("/var/lib") / service.one("Service", "StateDirectory")
    words = service.command({})
    for name in ("--dir", "--state-dir"):
        assert state in Path(words[words.index(name) + 1]).parents
    assert service.one("Service", "User") == "trainer"
    assert service.one("Service", "EnvironmentFile") == ENVIRONMENT


def test_only_root_reads_the_environment_file() -> None:
    (mode,) = (
        file["permissions"]
        for file in yaml.safe_load(USER_DATA.read_text())["write_files"]
        if file["path"] == ENVIRONMENT
    )
    assert mode == "0600"
    assert "umask 077\ncat >/etc/train.env" in SCRIPT.read_text()
