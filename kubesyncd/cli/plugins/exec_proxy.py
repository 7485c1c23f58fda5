"""Run `kubesync` in place of a command in a process with other library versions.

sonic-utilities pin their own versions of click and redis, and a process can load only one of each. So they load only
the command definitions, which work with any click; `kubesync` then runs the command with its own libraries. Knows
click; must not know any command by name.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Failure
from kubesyncd.core import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAM = "kubesync"
TYPED = "kubesyncd.typed"
TABLE_S_MAX = 20.0


def become(words: Sequence[str]) -> None:
    """Replace this process with `kubesync <words>`, on the same terminal and with its exit code. Raises Failure."""
    sys.stdout.flush()
    try:
        os.execvp(PROGRAM, [PROGRAM, *words])  # noqa: S606 - no shell is wanted
    except OSError as error:
        text = f"{PROGRAM} cannot be run ({error.strerror}); install the package kubesyncd again"
        raise Failure(text, protocol.EXIT_UNAVAILABLE) from error


def stand_in(ours: Any, words: Sequence[str], run: Callable[[Sequence[str]], None]) -> Any:
    """Copy our command for parsing only; pass the words typed to `run`, after `words`, its own path.

    For a group, copy all its commands.
    """
    made = copy.copy(ours)
    if isinstance(ours, click.Group):
        made.commands = {name: stand_in(each, [*words, name], run) for name, each in ours.commands.items()}
        if getattr(ours, "each", None) is not None:
            made.each = stand_in(made.each, words, run)
        return made

    def parse_args(ctx: click.Context, args: list[str]) -> Any:
        # Usage errors are reported here, with the words that were typed.
        ctx.meta[TYPED] = [*words, *args]
        return type(ours).parse_args(made, ctx, args)

    made.parse_args = parse_args
    made.invoke = lambda ctx: run(ctx.meta[TYPED])
    return made


@contextmanager
def kept() -> Iterator[None]:
    """Save FEATURE before CONFIG_DB is rebuilt, and restore it afterwards.

    Errors here are only reported: they must not stop the operator's command.
    """
    armed = _table("save")
    try:
        yield
    except BaseException:
        if armed:
            _table("forget")
        raise
    if armed:
        _table("restore")


def _table(verb: str) -> bool:
    try:
        ended = subprocess.run(
            [PROGRAM, "feature-table", verb], capture_output=True, text=True, timeout=TABLE_S_MAX, check=False
        )
        # Warnings about settings come before the error.
        said = ended.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        problem = said[0].removeprefix(f"{PROGRAM}: ") if ended.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"{PROGRAM} cannot be run ({error})"
    if problem:
        click.echo(f"{PROGRAM}: cannot {verb} the FEATURE table: {problem}", err=True)
    return not problem
