"""Completion scripts for shells."""

from __future__ import annotations

import click

from ckptsync.cli.options import Options, speech, verb


@verb(click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"])), speech)
def completion(options: Options, shell: str) -> None:
    """Print the completion script for a shell: bash, zsh or fish.

    \b
      bash   eval "$(ckptsync completion bash)"      in ~/.bashrc
      zsh    eval "$(ckptsync completion zsh)"       in ~/.zshrc
      fish   ckptsync completion fish | source       in ~/.config/fish/config.fish
    """  # noqa: D301  \b is click's mark for lines that are not to be wrapped
    from click.shell_completion import get_completion_class

    from ckptsync.cli.main import cli

    made_by = get_completion_class(shell)
    if made_by is None:
        raise click.UsageError(f"this version of click knows no completion for {shell}")
    script = made_by(cli, {}, "ckptsync", "_CKPTSYNC_COMPLETE").source()
    if options.as_json:
        options.answer({"shell": shell, "script": script})
    else:
        click.echo(script)
