"""Share what all commands need: their reader, the console they print on, `--json`, a feature's name.

Knows click and rich; knows no command.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubesyncd import settings
from kubesyncd.cli.click_groups import Failure
from kubesyncd.cli.switch import Declined, Reader
from kubesyncd.core import protocol
from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.state import State
from kubesyncd.ports import PortError
from kubesyncd.settings import SettingsError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

SETTINGS_FILE = "kubesyncd.settings_file"
_READER = "kubesyncd.reader"
SETTINGS_VARIABLE = "KUBESYNCD_CONFIG"
PAPER_WIDTH = 80
PAPER_WIDTH_MAX = 120
NAME_FORM = "a name has lower-case letters, digits, - and _, begins with a letter and has at most 63"

# The same colours everywhere: who runs it. Each is also said in words, for those who see none.
COLOURS = {
    State.UNKNOWN: "dim",
    State.INIT: "dim",
    State.STARTING: "yellow",
    State.LOCAL: "green",
    State.LOCAL_EXITED: "red",
    State.LOCAL_TO_KUBE: "yellow",
    State.KUBE_PENDING: "yellow",
    State.KUBE_READY: "magenta",
    State.KUBE_RUNNING: "bright_blue",
    State.KUBE_STOPPED: "yellow",
    State.DRIFT: "red",
}


def reader() -> Reader:
    """The running command's reader. Raises SettingsError."""
    meta = click.get_current_context().meta
    if _READER not in meta:
        chosen = meta.get(SETTINGS_FILE) or os.environ.get(SETTINGS_VARIABLE)
        meta[_READER] = Reader(
            settings.load(Path(chosen or settings.DEFAULT_FILE), required=bool(chosen)), os.environ
        )
    found: Reader = meta[_READER]
    return found


class FeatureName(click.ParamType):  # type: ignore[type-arg]
    """A feature's name: checked before it reaches anything, offered when a shell completes."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click."""
        if not valid_feature_name(str(value)):
            self.fail(f"{str(value)[:64]!a} is no feature's name: {NAME_FORM}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Names the daemon knows; none where it does not answer, for nobody reads an error under TAB."""
        del ctx, param
        from click.shell_completion import CompletionItem

        try:
            known = Reader(settings.load(settings_file()), os.environ).ask("show", within_s=0.5)
        except (PortError, SettingsError, Declined):
            return []
        found = [str(json.loads(line)["feature"]) for line in known if line]
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]


def settings_file() -> Path:
    """The settings file where no option names one."""
    return Path(os.environ.get(SETTINGS_VARIABLE) or settings.DEFAULT_FILE)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """`value` on standard output."""
    click.echo(json.dumps(value, indent=2, default=str))


def paper() -> Console:
    """Standard output: colours and the terminal's width on a terminal, else 80 plain columns."""
    from rich.console import Console

    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A console that has no such letter shows a question mark; it must not end the command.
        out.reconfigure(errors="replace")
    console = Console(file=out, highlight=False, emoji=False, markup=False)
    width = min(console.width, PAPER_WIDTH_MAX) if console.is_terminal else PAPER_WIDTH
    return Console(file=out, highlight=False, emoji=False, markup=False, width=width)


def put(*things: RenderableType) -> None:
    """Print on paper, without trailing blanks."""
    console = paper()
    with console.capture() as capture:
        for thing in things:
            console.print(thing)
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=True)


def table(*columns: str, **options: Any) -> Table:
    """A table of our look: heads, a thin line, nothing else."""
    from rich import box
    from rich.table import Table

    look = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    made = Table(header_style="bold", **{**look, **options})
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def ago(then: float, now: float | None = None) -> str:
    """How long ago, as one reads it: `3 min`; empty where it is not known."""
    return span((time.time() if now is None else now) - then) if then else ""


def brief(then: float, now: float | None = None) -> str:
    """`ago` for a narrow column: `3min`."""
    return "".join(ago(then, now).split()[:2])


def span(seconds: float) -> str:
    """A time's length in at most two units: `12 s`, `3 min`, `2 h 5 min`, `4 d 1 h`."""
    left = max(0, round(seconds))
    minutes, hours, days = left // 60, left // 3600, left // 86400
    if days:
        return f"{days} d" + (f" {hours % 24} h" if hours % 24 else "")
    if hours:
        return f"{hours} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if minutes:
        return f"{minutes} min" + (f" {left % 60} s" if left % 60 and minutes < 10 else "")
    return f"{left} s"


def clock(at: float, *, date: bool = True) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(at)) if at else ""


def when(at: float, now: float) -> str:
    """A moment, as short as it can be read: today's by the clock, another day's with its date."""
    today = time.localtime(at)[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%m-%d %H:%M", time.localtime(at))


def count(number: int, noun: str) -> str:
    """So many: `1 label`, `2 labels`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def on_off(value: object) -> str:
    """A setting as an operator types it."""
    return "on" if value else "off"


def yes_no(value: object) -> str:
    """A fact."""
    return "yes" if value else "no"


def colour(state: str) -> str:
    """The style of a state's name."""
    return COLOURS.get(State(state), "") if state in State.__members__ else ""


def unless(condition: object, text: str, code: int = protocol.EXIT_FAILED) -> None:
    """End the command with one line unless `condition` holds."""
    if not condition:
        raise Failure(text, code)


def ask_first(sentence: str, question: str, *, sure: bool) -> None:
    """Say what will happen and ask whether to go on. Raises Failure where the answer is no, or nobody answers."""
    click.echo(sentence)
    if sure:
        return
    answer = ""
    # Not click's prompt: readline misses a Ctrl-C that comes just before it listens.
    with suppress(KeyboardInterrupt):
        click.echo(f"{question} [y/N]: ", nl=False)
        answer = sys.stdin.readline()
    if not answer:
        click.echo()
        raise Failure("nobody has confirmed it; add -y to go on without being asked", protocol.EXIT_USAGE)
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed; answer y, or add -y, to go on")
