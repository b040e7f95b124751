"""What is built can be installed alone and does the main job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str, cwd: Path, environ: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; what it prints."""
    done = subprocess.run(command, cwd=cwd, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exits with {done.returncode}:\n{done.stderr}"
    return done.stdout


def build(target: str, folder: Path) -> Path:
    """Build a distribution of the working tree, offline, with the hatchling that is installed."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder), cwd=ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def needed(requirement: str, seen: set[str]) -> set[str]:
    """Names of a requirement's distributions and of all they need, as they are installed here."""
    wanted = Requirement(requirement)
    name = re.sub(r"[-_.]+", "-", wanted.name).lower()
    if name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
        return seen
    installed = distribution(name)
    assert wanted.specifier.contains(installed.version, prereleases=True), f"{requirement}: {installed.version} is here"
    seen.add(name)
    for inner in installed.requires or []:
        needed(inner, seen)
    return seen


def lend(names: set[str], site_packages: Path) -> None:
    """Let another environment have some of this one's distributions, and none other."""
    for name in names:
        installed = distribution(name)
        tops = {path.parts[0] for path in installed.files or [] if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            (site_packages / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "ckptsync/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ckptsync"}
    assert not [name for name in names if "tests/" in name or "__pycache__" in name]


def test_sdist_can_be_tested_and_built(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "ckptsync/py.typed"} <= names
    assert {"tests/unit/test_packaging.py", "tests/constraints.txt", "docs/index.md"} <= names


def test_all_is_every_extra_that_users_install() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    frameworks = {
        "lightning",
        "transformers",
        "tensorflow",
        "ray",
    }  # who trains with one has it, and no wish for the others
    assert Requirement(everything).extras == set(extras) - {"testing"} - frameworks


@pytest.mark.slow
def test_the_core_alone_saves_and_restores(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (site_packages,) = (home / "lib").glob("python3.*/site-packages")
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    core: set[str] = set()
    for requirement in requirements:
        needed(requirement, core)
    lend(core, site_packages)
    run(sys.executable, *f"-m pip --python {home} install -q --no-deps --no-index {wheel}".split(), cwd=tmp_path)

    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "weights.bin").write_bytes(bytes(range(256)) * 4096)
    (source / "deep" / "empty").touch()
    environ = {"HOME": str(tmp_path), "PATH": f"{home / 'bin'}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

    def ckptsync(*arguments: str) -> dict[str, object]:
        program = str(home / "bin" / "ckptsync")
        return dict(json.loads(run(program, *arguments, "--json", cwd=tmp_path, environ=environ)))

    saved = ckptsync("save", "source", "run", "--step", "7")
    assert saved["committed"] is True
    assert ckptsync("restore", "run", "target")["step"] == 7
    assert (tmp_path / "target" / "weights.bin").read_bytes() == (source / "weights.bin").read_bytes()
    assert (tmp_path / "target" / "deep" / "empty").read_bytes() == b""

    refused = subprocess.run(
        [home / "bin" / "ckptsync", "ls", "s3://bucket/run"], env=environ, check=False, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "ckptsync[s3]" in refused.stderr
