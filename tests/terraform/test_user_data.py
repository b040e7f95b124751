"""What aws-spot tells a machine is the example of the documentation, and what cloud-init, systemd and a shell take."""

from __future__ import annotations

import base64
import difflib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.startup import ENVIRONMENT, UNIT, USER_DATA, environment, files, said, unit
from support.terraform import Terraform

from ckptsync.config import resolve

INSTALL = "/usr/local/sbin/install-training"
# Which makes of the module what docs/examples/spot-aws/user-data.yaml shows.
EXAMPLE = {
    "name": "train",
    "url": "s3://your-bucket",
    "run_name": "your-run",
    "instance_profile_name": "your-bucket-trainer",
    "ami_id": "ami-0123456789abcdef0",
    "root_device_name": "/dev/xvda",
    "instance_types": ["g6.xlarge"],
    "subnet_ids": ["subnet-0aaa"],
    "security_group_ids": ["sg-0bbb"],
    "repository": "https://git.example.org/you/training.git",
}
# Everything that can be set, as far from the example as is allowed.
OTHER = EXAMPLE | {
    "url": "s3://your-bucket/team-a/runs",
    "run_name": "llama/7b_v1.2",
    "repository": "https://git.example.org:8443/you/a%20b.git",
    "train_options": "--data=/srv/data,/srv/more --lr 1e-4 --tag you@example:~x+y --output-dir /var/lib/train/run-1/saved",
    "checkpoint_dir": "/var/lib/train/run-1/saved",
    "command": "/srv/train/venv/bin/torchrun --nproc-per-node=gpu train.py $TRAIN_OPTIONS",
    "ask": "signal:USR1",
    "environment": {"CKPTSYNC_AGENT_PORT": "9464", "OMP_NUM_THREADS": "4", "SOME_WORDS": "one two  three"},
    "ckptsync_requirement": "ckptsync[s3,agent,zstd]>=1.0,<2",
    "drain_timeout_s": 90,
}
VARIANTS = pytest.mark.parametrize("variables", [EXAMPLE, OTHER], ids=["example", "other"])
Rendered = Callable[[dict[str, object]], Path]


@pytest.fixture(scope="module")
def rendered(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Makes a file of the user data that the module plans for some variables; AWS is not asked."""
    known: dict[str, Path] = {}

    def render(variables: dict[str, object]) -> Path:
        key = json.dumps(variables)
        if key not in known:
            folder = tmp_path_factory.mktemp("user-data")
            known[key] = folder / "user-data.yaml"
            known[key].write_text(planned(terraform, folder, variables))
        return known[key]

    return render


def planned(terraform: Terraform, folder: Path, variables: dict[str, object]) -> str:
    """The user data of the launch template that is planned."""
    skipped = ("skip_credentials_validation", "skip_metadata_api_check", "skip_requesting_account_id")
    root = {
        "provider": {"aws": {"region": "eu-central-1", **dict.fromkeys(skipped, True)}},
        "module": {"machine": {"source": str(terraform.tree / "modules/aws-spot"), **variables}},
    }
    (folder / "main.tf.json").write_text(json.dumps(root))
    (folder / "versions.tf").write_text((terraform.tree / "modules/aws-spot/versions.tf").read_text())
    environ = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    terraform(folder, "plan", "-out=plan", environ=environ)
    plan = json.loads(terraform(folder, "show", "-json", "plan").stdout)
    (module,) = plan["planned_values"]["root_module"]["child_modules"]
    (found,) = (made["values"]["user_data"] for made in module["resources"] if made["type"] == "aws_launch_template")
    return base64.b64decode(found).decode()


def test_the_example_of_the_documentation_is_what_the_module_makes(rendered: Rendered) -> None:
    example, made = USER_DATA.read_text(), rendered(EXAMPLE).read_text()
    difference = "".join(difflib.unified_diff(example.splitlines(True), made.splitlines(True), str(USER_DATA), "made"))
    assert not difference, f"change docs/examples and the module's user-data.yaml.tftpl together:\n{difference}"


@VARIANTS
def test_cloud_init_takes_it(rendered: Rendered, variables: dict[str, object]) -> None:
    path = rendered(variables)
    assert path.read_text().startswith("#cloud-config\n")
    assert said("cloud-init", "schema", "--config-file", path).startswith("Valid")


@VARIANTS
def test_systemd_takes_the_unit(rendered: Rendered, variables: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "train.service"
    path.write_text(files(rendered(variables))[UNIT])
    lines = said("systemd-analyze", "--man=no", "--recursive-errors=no", "verify", path).splitlines()
    installed_later = "train.service: Command /srv/train/venv/bin/ckptsync is not executable: No such file or directory"
    assert [line for line in lines if line != installed_later] == []


@VARIANTS
@pytest.mark.parametrize("checker", [("shellcheck",), ("sh", "-n"), ("bash", "-n")], ids=" ".join)
def test_shells_take_the_script(
    rendered: Rendered, variables: dict[str, object], checker: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "script.sh"
    path.write_text(files(rendered(variables))[INSTALL])
    assert said(*checker, path) == ""


@VARIANTS
def test_systemd_and_a_shell_read_the_same_environment(
    rendered: Rendered, variables: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "train.env"
    path.write_text(files(rendered(variables))[ENVIRONMENT])
    by_systemd = environment(path.read_text())
    shell = f"set -a; . {path}; env --null"
    done = subprocess.run(["sh", "-c", shell], env={}, capture_output=True, text=True, check=True)
    by_shell = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    assert {name: by_shell.get(name) for name in by_systemd} == by_systemd
    assert by_systemd["CKPTSYNC_RUN"] == f"{variables['url']}/{variables['run_name']}"


def test_what_was_asked_for_arrives(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    found = files(rendered(OTHER))
    settings, service = environment(found[ENVIRONMENT]), unit(found[UNIT])
    words = service.command(settings)
    assert words[words.index("--") + 1 :] == [
        "/srv/train/venv/bin/torchrun", "--nproc-per-node=gpu", "train.py", *str(OTHER["train_options"]).split(),
    ]  # fmt: skip
    assert words[words.index("--dir") + 1] == OTHER["checkpoint_dir"]
    assert words[words.index("--drain-timeout") + 1] == "90s"
    assert float(service.one("Service", "TimeoutStopSec")) == 100
    assert settings["SOME_WORDS"] == "one two  three"
    assert f"'{OTHER['ckptsync_requirement']}'" in found[INSTALL]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    options = resolve({})
    assert (options.agent.ask, options.agent.port) == ("signal:USR1", 9464)


# Programs of a machine on which apt fails once, and python3 and git come by it.
PROGRAMS = {
    "apt-get": '''echo "$*" >>"$LOG"
[ -e "$BIN/reached" ] || { : >"$BIN/reached"; exit 100; }
[ "$1" = update ] || ln -s "$BIN/cloned" "$BIN/git"''',
    "cloned": 'for last; do :; done; mkdir -p "$last"',
    "python3": '''[ "$1" = -m ] || exec test -e "$BIN/git"
mkdir -p "$3/bin" && ln -s "$BIN/true" "$3/bin/pip" && ln -s "$BIN/true" "$3/bin/ckptsync"''',
    "systemctl": 'echo "systemctl $*" >>"$LOG"',
}


@pytest.mark.parametrize("packages", ["lacking", "there"])
def test_packages_that_did_not_come_are_asked_for_until_they_do(
    rendered: Rendered, packages: str, tmp_path: Path
) -> None:
    programs, log, script = tmp_path / "bin", tmp_path / "log", tmp_path / "install-training"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\nset -eu\n{text}\n")
        (programs / name).chmod(0o755)
    for name in ("sh", "mkdir", "rm", "mv", "ln", "true", "test"):
        (programs / name).symlink_to(shutil.which(name) or "")
    if packages == "there":
        (programs / "git").symlink_to(programs / "cloned")
    found = files(rendered(EXAMPLE))
    (tmp_path / "train.env").write_text(found[ENVIRONMENT])
    script.write_text(found[INSTALL].replace("/srv/train", f"{tmp_path}/train").replace("/etc/", f"{tmp_path}/"))
    environ = {"PATH": str(programs), "BIN": str(programs), "LOG": str(log)}
    codes = [subprocess.run(["/bin/sh", script], env=environ, check=False).returncode for _ in range(2)]
    asked = ["update -q", "update -q", "install -qy --no-install-recommends git python3-venv"]
    started = ["systemctl daemon-reload", "systemctl enable --now train.service"]
    assert codes == ([0, 0] if packages == "there" else [100, 0])
    assert log.read_text().splitlines() == (started * 2 if packages == "there" else [*asked, *started])
    assert (tmp_path / "train" / "src").is_dir()
