"""Print the completion script of a shell."""

from __future__ import annotations

import click

from kubesyncd.cli.click_groups import Command

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", metavar="|".join(SHELLS), type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script for kubesync.

    In bash: eval "$(kubesync completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, f"click completes {', '.join(SHELLS)}"
    click.echo(kind(ctx.find_root().command, {}, "kubesync", "_KUBESYNC_COMPLETE").source())
