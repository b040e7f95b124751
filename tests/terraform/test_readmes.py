"""The README of every module and example has tables that are up to date, and an example that Terraform takes."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.terraform import OURS, Terraform, folders

_BLOCK = re.compile(r"^```hcl\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r'^variable "(\w+)" {\n(.*?)^}$', re.MULTILINE | re.DOTALL)
_HERE = "github.com/ckptsync/ckptsync//terraform/"
_PROVIDER = '\n  required_providers {{\n    {name} = {{\n      source = "hashicorp/{name}"\n    }}\n  }}\n'


def _loaded(name: str) -> ModuleType:
    """A script beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


readme = _loaded("readme")


@pytest.mark.parametrize("folder", folders())
def test_its_tables_are_up_to_date(folder: str) -> None:
    path = OURS / folder / "README.md"
    assert path.read_text() == readme.updated(path), "run `python tests/terraform/readme.py`"


@pytest.mark.parametrize("folder", [folder for folder in folders() if folder.startswith("modules/")])
def test_terraform_takes_its_example(folder: str, terraform: Terraform, tmp_path: Path) -> None:
    blocks = _BLOCK.findall((OURS / folder / "README.md").read_text())
    assert blocks
    text = "\n".join(blocks)
    assert f'source = "{_HERE}{folder}"' in text
    (tmp_path / "main.tf").write_text(text.replace(_HERE, f"{terraform.tree}/"))
    provider = "google" if "/gcp-" in folder else "aws"
    (tmp_path / "versions.tf").write_text(f"terraform {{{_PROVIDER.format(name=provider)}}}\n")
    terraform(tmp_path, "validate")
    formatted = terraform(tmp_path, "fmt", "-diff", "main.tf").stdout
    assert formatted == ""


GUIDE = OURS.parent / "docs" / "how-to" / "set-up-with-terraform.md"


def names_in(folder: str, file: str, kind: str) -> set[str]:
    """Variables or outputs of a folder."""
    return set(re.findall(rf'^{kind} "(\w+)" {{$', (OURS / folder / file).read_text(), re.MULTILINE))


@pytest.mark.parametrize("folder", ["examples/aws", "examples/gcp"])
def test_the_guide_and_the_readme_name_what_there_is(folder: str) -> None:
    text = GUIDE.read_text()
    section = text[text.index(f"terraform/{folder}\n") :]
    applied = section[: section.index("```")] + (OURS / folder / "README.md").read_text()
    asked = set(re.findall(r"-var '?(\w+)=", applied))
    required = {
        name for name, body in _VARIABLE.findall((OURS / folder / "variables.tf").read_text()) if "default" not in body
    }
    assert required <= asked <= names_in(folder, "variables.tf", "variable")
    later = set(re.findall(r"-var '?(\w+)=", text[text.index("## See it resume") :]))
    assert later - {"role_prefix"} <= names_in(folder, "variables.tf", "variable")


def test_the_guide_runs_commands_that_are_told() -> None:
    asked = set(re.findall(r"(?:^|&& |`)run (\w+)", GUIDE.read_text(), re.MULTILINE))
    assert len(asked) > 5
    for module, more in (("aws-spot", {"interrupt"}), ("gcp-spot", set[str]())):
        outputs = (OURS / "modules" / module / "outputs.tf").read_text()
        commands = (
            set(re.findall(r"^    (\w+) +=", outputs, re.MULTILINE)) | {"as_trainer", "as_reader", "as_gc"} | more
        )
        assert asked - commands <= {"interrupt"} - more


def test_what_is_out_of_date_is_told(tmp_path: Path) -> None:
    (tmp_path / "variables.tf").write_text(
        'variable "size" {\n  description = "How large | small it is."\n  type        = list(number)\n  default     = [1, 2]\n}\n'
    )
    (tmp_path / "outputs.tf").write_text('output "answer" {\n  description = "The answer."\n  value       = 42\n}\n')
    path = tmp_path / "README.md"
    path.write_text("# Of mine\n\nWords.\n\n## Inputs\n\nold\n")
    made = readme.updated(path)
    assert made.startswith("# Of mine\n\nWords.\n\n## Inputs\n")
    assert "| `size` | How large \\| small it is. | `list(number)` | `[1, 2]` |" in made
    assert "| `answer` | The answer. |" in made
    assert "old" not in made
    path.write_text(made)
    assert readme.updated(path) == made
