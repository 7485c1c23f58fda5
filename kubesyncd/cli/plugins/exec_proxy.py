"""Run `kubesync` in place of a command whose Python has other libraries than ours.

sonic-utilities pin click and redis in versions of their own, and one process has one of each. So what they load of
ours is how a command is typed, for which any click will do; what was typed is then carried out by `kubesync`, which
has our own libraries. Knows click; knows no command by name.
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
    """Go on as `kubesync <words>`, on the same terminal and with its exit code. Raises Failure."""
    sys.stdout.flush()
    try:
        os.execvp(PROGRAM, [PROGRAM, *words])  # noqa: S606 - no shell is wanted
    except OSError as error:
        text = f"{PROGRAM} cannot be run ({error.strerror}); install the package kubesyncd again"
        raise Failure(text, protocol.EXIT_UNAVAILABLE) from error


def stand_in(ours: Any, words: Sequence[str], run: Callable[[Sequence[str]], None]) -> Any:
    """Our command as it is typed; what was typed goes to `run`, behind `words`, its own path.

    Of a group all commands are stood in for.
    """
    made = copy.copy(ours)
    if isinstance(ours, click.Group):
        made.commands = {name: stand_in(each, [*words, name], run) for name, each in ours.commands.items()}
        if getattr(ours, "each", None) is not None:
            made.each = stand_in(made.each, words, run)
        return made

    def parse_args(ctx: click.Context, args: list[str]) -> Any:
        # What is not understood is said here, in the words that were typed.
        ctx.meta[TYPED] = [*words, *args]
        return type(ours).parse_args(made, ctx, args)

    made.parse_args = parse_args
    made.invoke = lambda ctx: run(ctx.meta[TYPED])
    return made


@contextmanager
def kept() -> Iterator[None]:
    """For what makes CONFIG_DB anew: FEATURE is saved before and mended afterwards. Whatever fails here is only
    said: the operator wants his minigraph.
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
        problem = ended.stderr.strip().removeprefix(f"{PROGRAM}: ") if ended.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"{PROGRAM} cannot be run ({error})"
    if problem:
        click.echo(f"{PROGRAM}: cannot {verb} the FEATURE table: {problem}", err=True)
    return not problem
