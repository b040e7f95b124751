"""Writes the tables of inputs and outputs in the README of every Terraform module and example: `python tests/terraform/readme.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.terraform import OURS, folders

_BEGIN = "## Inputs\n"


def main() -> None:
    """Bring all of them up to date."""
    for folder in folders():
        path = OURS / folder / "README.md"
        path.write_text(updated(path))


def updated(path: Path) -> str:
    """A README as it should be: what somebody wrote, and below that the tables."""
    return path.read_text().partition(_BEGIN)[0] + _BEGIN + "\n" + "\n".join(_lines(path.parent)) + "\n"


def _lines(folder: Path) -> Iterator[str]:
    """The tables, and the heading between them."""
    yield from ("| name | is | type | default |", "|---|---|---|---|")
    for name, found in _blocks(folder / "variables.tf", "variable"):
        default = f"`{_written(found['default'])}`" if "default" in found else "required"
        kind = " ".join(str(found["type"]).removeprefix("${").removesuffix("}").split())
        yield f"| `{name}` | {_text(found['description'])} | `{kind}` | {default} |"
    yield from ("", "## Outputs", "", "| name | is |", "|---|---|")
    for name, found in _blocks(folder / "outputs.tf", "output"):
        yield f"| `{name}` | {_text(found['description'])} |"


def _blocks(path: Path, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Blocks of a file, in its order."""
    for block in hcl2.loads(path.read_text()).get(kind, ()):
        for name, found in block.items():
            yield name.strip('"'), found


def _text(value: str) -> str:
    """A string of Terraform's, for a cell."""
    text: str = json.loads(value)
    return text.replace("|", "\\|")


def _written(value: Any) -> str:
    """A default, as Terraform writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(value)


if __name__ == "__main__":
    main()
