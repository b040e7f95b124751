"""The start-up examples, taken apart: units, environment files and scripts, as the machine would find them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parents[2] / "docs" / "examples"
USER_DATA = _FOLDER / "spot-aws" / "user-data.yaml"
SCRIPT = _FOLDER / "spot-gcp" / "startup.sh"
UNIT, ENVIRONMENT = "/etc/systemd/system/train.service", "/etc/train.env"
_HERE_DOCUMENT = re.compile(r"^cat >(?P<path>\S+) <<'(?P<end>\w+)'\n(?P<text>.*?)^(?P=end)$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of systemd.

    Attributes:
        text: of its file.
        settings: of each section, every value of a name in its order.
    """

    text: str
    settings: Mapping[str, Mapping[str, Sequence[str]]]

    def one(self, section: str, name: str) -> str:
        """The only value of a name."""
        (value,) = self.settings[section][name]
        return value

    def command(self, environ: Mapping[str, str]) -> list[str]:
        """The words of its command line, as systemd makes them: a `$NAME` that is a word of its own becomes several."""
        words: list[str] = []
        for word in shlex.split(self.one("Service", "ExecStart")):
            variable = _VARIABLE.fullmatch(word)
            words += shlex.split(environ.get(variable[1], "")) if variable else [word]
        return words


def said(*command: str | Path) -> str:
    """What a checker says of a file; without the checker this fails."""
    assert shutil.which(str(command[0])), f"{command[0]} is not there; install cloud-init, shellcheck and systemd"
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout if done.stdout or not done.returncode else f"it ended with {done.returncode}"


def unit(text: str) -> Unit:
    """Take a unit apart."""
    settings: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(section, {}).setdefault(name, []).append(value)
    return Unit(text, settings)


def environment(text: str) -> dict[str, str]:
    """What an environment file sets, as systemd reads it."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: " ".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


def files(example: Path) -> dict[str, str]:
    """What an example writes, by path."""
    text = example.read_text()
    if example.suffix == ".yaml":
        return {file["path"]: file["content"] for file in yaml.safe_load(text)["write_files"]}
    return {found["path"]: found["text"] for found in _HERE_DOCUMENT.finditer(text)}
