"""Write docs/reference/configuration.md from the options' own definitions: `make reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ckptsync import options

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
HEAD = """\
<!-- Written by tests/docs/generate_configuration.py; `make reference` writes it anew. -->

# Options

An option `name` of group `[group]` is `--set group.name=VALUE` as an argument, `CKPTSYNC_GROUP_NAME` in the environment, and `name` below
`[group]` in a TOML file. [Configure](../how-to/configure.md) says which of them wins. Sizes may be written `64MiB`.
"""


def explained(group: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstring says of each attribute, on one line."""
    text = inspect.cleandoc(group.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(words.split()) for name, words in found}


def shown(value: object) -> str:
    """A default as TOML has it."""
    if value is None or value == ():
        return "not set"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`".replace("'", '"')


def table(group: type[msgspec.Struct], skipped: set[str]) -> Iterator[str]:
    """Rows of one group."""
    yield "| option | default | what it does |\n|---|---|---|"
    words = explained(group)
    for found in msgspec.structs.fields(group):
        if found.name not in skipped:
            yield f"| `{found.name}` | {shown(found.default)} | {words[found.name]} |"


def page() -> str:
    """The whole page."""
    groups = {
        found.name: type(found.default)
        for found in msgspec.structs.fields(options.Config)
        if isinstance(found.default, msgspec.Struct)
    }
    lines = [HEAD, "## Without a group\n", *table(options.Config, set(groups))]
    for name, group in groups.items():
        summary = (group.__doc__ or "").splitlines()[0]
        lines += [f"\n## [{name}]\n\n{summary}\n", *table(group, set())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
