"""Write docs/reference/cli.md from the command line's own help: `make reference`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
WIDTH = 100
HEAD = """\
<!-- Written by tests/docs/generate_cli.py; `make reference` writes it anew. -->

# Command line
"""


def root() -> click.Group:
    """The group that the `ckptsync` script runs."""
    module = importlib.import_module("ckptsync.cli.main")
    (found,) = {id(value): value for value in vars(module).values() if isinstance(value, click.Group)}.values()
    return found


def sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A command's section, then those of its subcommands, in the order in which help lists them."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)  # click keeps the help option it makes
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"## {context.command_path}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            if (found := command.get_command(context, child)) and not found.hidden:
                yield from sections(found, child, context)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *sections(root(), "ckptsync", None)])


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
