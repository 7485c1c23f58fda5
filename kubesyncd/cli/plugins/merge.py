"""Add our commands to sonic-utilities' groups without changing their other commands.

Knows click; must not know sonic-utilities or any command by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import takes_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def add_missing(group: click.Group, ours: click.Group) -> None:
    """Add our commands whose names are free; keep existing commands."""
    for name, command in ours.commands.items():
        if name not in group.commands:
            group.add_command(command, name)


def take_over(group: click.Group, ours: click.Group) -> None:
    """Add our commands, and replace those of the same name; keep all others, in subgroups too.

    If ours is a command and theirs a group, the group runs ours when it is typed alone.
    """
    for name, command in ours.commands.items():
        there = group.commands.get(name)
        if not isinstance(there, click.Group):
            group.add_command(command, name)
        elif isinstance(command, click.Group):
            take_over(there, command)
        else:
            accept_nothing(there, command)


def answer_to(root: click.Group, name: str, command: click.Command) -> None:
    """Make `name` mean `command` without listing it, so that no abbreviation of another command becomes ambiguous."""
    if name in root.commands:
        return
    theirs: Any = root
    find = theirs.get_command

    def get_command(ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command if cmd_name == name else find(ctx, cmd_name)

    theirs.get_command = get_command


def around(command: click.Command | None, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Run another package's command within `context`; do nothing if it is None."""
    before = command.callback if command is not None else None
    if command is None or before is None:
        return
    run: Callable[..., Any] = before

    def callback(*args: Any, **kwargs: Any) -> Any:
        with context():
            return run(*args, **kwargs)

    command.callback = callback


def accept_names(
    group: click.Group, each: click.Command, is_name: Callable[[click.Group, list[str]], bool]
) -> None:
    """Make another package's group accept `NAME …` besides its commands; modify the group in place."""
    theirs: Any = group
    resolve = theirs.resolve_command

    def resolve_command(ctx: click.Context, args: list[str]) -> Any:
        if takes_name(group, is_name, args):
            # Empty instead of None: None would mean to click that no subcommand was typed.
            return "", each, args
        return resolve(ctx, args)

    theirs.resolve_command = resolve_command


def accept_nothing(group: click.Group, alone: click.Command) -> None:
    """Make another package's group run our command `alone` if nothing, or only --json, follows it."""
    theirs: Any = group
    before = theirs.callback

    def callback(*args: Any, as_json: bool = False, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is not None:
            return before(*args, **kwargs) if before is not None else None
        with alone.make_context("", ["--json"] if as_json else [], parent=ctx) as inner:
            return alone.invoke(inner)

    theirs.invoke_without_command = True
    theirs.no_args_is_help = False
    theirs.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for scripts."))
    theirs.callback = callback
