"""What gcp-spot tells a machine is the example of the documentation, and what systemd and a shell take."""

from __future__ import annotations

import difflib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.mocked import made
from support.startup import ENVIRONMENT, SCRIPT, UNIT, environment, files, said, unit
from support.terraform import Terraform

from ckptsync.config import resolve

# Which makes of the module what docs/examples/spot-gcp/startup.sh shows.
EXAMPLE: Mapping[str, object] = {
    "project": "a-project",
    "region": "europe-west4",
    "name": "train",
    "url": "gs://your-bucket",
    "run_name": "your-run",
    "service_account_email": "ckptsync-trainer@a-project.iam.gserviceaccount.com",
    "machine_types": ["g2-standard-8"],
    "subnetwork": "projects/a-project/regions/europe-west4/subnetworks/default",
    "repository": "https://git.example.org/you/training.git",
}
# Everything that can be set, as far from the example as is allowed.
OTHER: Mapping[str, object] = {
    **EXAMPLE,
    "url": "gs://your-bucket/team-a/runs",
    "run_name": "llama/7b_v1.2",
    "repository": "https://git.example.org:8443/you/a%20b.git",
    "train_options": "--data=/srv/data,/srv/more --lr 1e-4 --tag you@example:~x+y --output-dir /var/lib/train/run-1/saved",
    "checkpoint_dir": "/var/lib/train/run-1/saved",
    "command": "/srv/train/venv/bin/torchrun --nproc-per-node=gpu train.py $TRAIN_OPTIONS",
    "ask": "signal:USR1",
    "environment": {"CKPTSYNC_AGENT_PORT": "9464", "OMP_NUM_THREADS": "4", "SOME_WORDS": "one two  three"},
    "ckptsync_requirement": "ckptsync[gcs,agent,zstd]>=1.0,<2",
    "drain_timeout_s": 90,
}
VARIANTS = pytest.mark.parametrize("variables", [EXAMPLE, OTHER], ids=["example", "other"])
Rendered = Callable[[Mapping[str, object]], Mapping[str, Path]]


@pytest.fixture(scope="module")
def rendered(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Makes files of the two scripts that the module gives a machine for some variables."""
    known: dict[str, Mapping[str, Path]] = {}

    def render(variables: Mapping[str, object]) -> Mapping[str, Path]:
        key = json.dumps(variables)
        if key not in known:
            folder = tmp_path_factory.mktemp("scripts")
            resources = made(terraform, folder, "gcp-spot", variables)
            (template,) = (one for one in resources if one["type"] == "google_compute_region_instance_template")
            known[key] = {name: folder / f"{name}.sh" for name in ("startup-script", "shutdown-script")}
            for name, path in known[key].items():
                path.write_text(template["values"]["metadata"][name])
        return known[key]

    return render


def test_the_example_of_the_documentation_is_what_the_module_makes(rendered: Rendered) -> None:
    example, script = SCRIPT.read_text(), rendered(EXAMPLE)["startup-script"].read_text()
    lines = difflib.unified_diff(
        example.splitlines(keepends=True), script.splitlines(keepends=True), str(SCRIPT), "made"
    )
    difference = "".join(lines)
    assert not difference, f"change docs/examples and the module's startup.sh.tftpl together:\n{difference}"


@VARIANTS
@pytest.mark.parametrize("script", ["startup-script", "shutdown-script"])
@pytest.mark.parametrize("checker", [("shellcheck",), ("sh", "-n"), ("bash", "-n")], ids=" ".join)
def test_shells_take_the_scripts(
    rendered: Rendered, variables: Mapping[str, object], script: str, checker: tuple[str, ...]
) -> None:
    path = rendered(variables)[script]
    assert path.read_text().startswith("#!/bin/sh\n")
    assert said(*checker, path) == ""


@VARIANTS
def test_systemd_takes_the_unit(rendered: Rendered, variables: Mapping[str, object], tmp_path: Path) -> None:
    path = tmp_path / "train.service"
    path.write_text(files(rendered(variables)["startup-script"])[UNIT])
    lines = said("systemd-analyze", "--man=no", "--recursive-errors=no", "verify", path).splitlines()
    installed_later = "train.service: Command /srv/train/venv/bin/ckptsync is not executable: No such file or directory"
    assert [line for line in lines if line != installed_later] == []


def test_the_shutdown_script_stops_the_unit_that_the_startup_script_writes(rendered: Rendered) -> None:
    scripts = rendered(EXAMPLE)
    assert f"systemctl stop {Path(UNIT).name}\n" in scripts["shutdown-script"].read_text()
    assert UNIT in files(scripts["startup-script"])


@VARIANTS
def test_systemd_and_a_shell_read_the_same_environment(
    rendered: Rendered, variables: Mapping[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "train.env"
    path.write_text(files(rendered(variables)["startup-script"])[ENVIRONMENT])
    by_systemd = environment(path.read_text())
    shell = f"set -a; . {path}; env --null"
    done = subprocess.run(["sh", "-c", shell], env={}, capture_output=True, text=True, check=True)
    by_shell = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    assert {name: by_shell.get(name) for name in by_systemd} == by_systemd
    assert by_systemd["CKPTSYNC_RUN"] == f"{variables['url']}/{variables['run_name']}"


def test_what_was_asked_for_arrives(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    script = rendered(OTHER)["startup-script"]
    found = files(script)
    settings, service = environment(found[ENVIRONMENT]), unit(found[UNIT])
    words = service.command(settings)
    assert words[words.index("--") + 1 :] == [
        "/srv/train/venv/bin/torchrun",
        "--nproc-per-node=gpu",
        "train.py",
        *str(OTHER["train_options"]).split(),
    ]
    assert words[words.index("--dir") + 1] == OTHER["checkpoint_dir"]
    assert words[words.index("--drain-timeout") + 1] == "90s"
    assert float(service.one("Service", "TimeoutStopSec")) == 100
    assert settings["SOME_WORDS"] == "one two  three"
    assert f"'{OTHER['ckptsync_requirement']}'" in script.read_text()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    options = resolve({})
    assert (options.agent.ask, options.agent.port) == ("signal:USR1", 9464)
