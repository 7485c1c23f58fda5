"""Provide what all commands share: access to the switch, the console, `--json`, a feature's name.

Knows click and rich; must not know any command.
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
from kubesyncd.cli.switch import Switch
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.state import State
from kubesyncd.ports import Forbidden, PortError
from kubesyncd.settings import SettingsError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

# Name of the parameter of `kubesync --config`.
SETTINGS_FILE = "settings_file"
_SWITCH = "kubesyncd.switch"
SETTINGS_VARIABLE = "KUBESYNCD_CONFIG"
COMPLETION_S = 0.5
WIDTH = 80
WIDTH_MAX = 120
# A clock without a battery begins in 1970 or 2000. A time from before that was written with a clock that was not set.
CLOCK_SET_S = 978_307_200.0
FUTURE_S_MAX = 60.0
TIME_DIGITS_MAX = 18
UNKNOWN_TIME = "an unknown time"
NAME_FORM = (
    "a name has lower-case letters, digits, - and _, begins with a letter and has at most 63 characters"
)

# One colour per state in all outputs. The state's name is always printed too, for output without colour.
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


def this_switch() -> Switch:
    """Return the running command's access to this switch; print which settings it cannot use. Raises SettingsError."""
    ctx = click.get_current_context()
    if _SWITCH not in ctx.meta:
        ctx.meta[_SWITCH] = switch = _chosen(ctx)
        for problem in switch.problems:
            click.echo(f"kubesync: warning: {problem}; its default is used", err=True)
    found: Switch = ctx.meta[_SWITCH]
    return found


def _chosen(ctx: click.Context) -> Switch:
    """Return the switch by the settings file that `--config` or the environment names, else by the default file."""
    # Not from `ctx.meta`: a completion reads the options, but runs no command that could store them.
    file = ctx.find_root().params.get(SETTINGS_FILE) or os.environ.get(SETTINGS_VARIABLE)
    found = settings.read(Path(file or settings.DEFAULT_FILE), required=bool(file))
    return Switch(found.settings, os.environ, found.problems)


class FeatureName(click.ParamType):  # type: ignore[type-arg]
    """A feature's name: checked on input, offered by shell completion."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click."""
        if not valid_feature_name(str(value)):
            self.fail(f"invalid feature name {str(value)[:64]!a}: {NAME_FORM}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Return the daemon's feature names; none if it does not answer: completion shows no errors."""
        del param
        from click.shell_completion import CompletionItem

        try:
            known = _chosen(ctx).daemon.features(within_s=COMPLETION_S)
        except (PortError, SettingsError, Declined):
            return []
        names = [found["feature"] for found in known]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """Print `value` as JSON on standard output."""
    click.echo(json.dumps(value, indent=2, default=str))


def console() -> Console:
    """Return a console on standard output: colours and full width on a terminal, else 80 plain columns."""
    from rich.console import Console

    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A character that the encoding lacks is printed as a question mark; it must not end the command.
        out.reconfigure(errors="replace")
    full = Console(file=out, highlight=False, emoji=False, markup=False)
    width = min(full.width, WIDTH_MAX) if full.is_terminal else WIDTH
    return Console(file=out, highlight=False, emoji=False, markup=False, width=width)


def put(*things: RenderableType) -> None:
    """Print on standard output, without trailing blanks."""
    out = console()
    with out.capture() as capture:
        for thing in things:
            out.print(thing)
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=True)


def table(*columns: str, **options: Any) -> Table:
    """Create a table in the common style: header, thin line, no borders."""
    from rich import box
    from rich.table import Table

    look = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    made = Table(header_style="bold", **{**look, **options})
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def ago(then: float, now: float | None = None) -> str:
    """Format the time since `then`: `3 min`; empty if `then` is unknown, UNKNOWN_TIME if it is impossible."""
    passed = _passed(then, now)
    return UNKNOWN_TIME if passed is None else span(passed) if then else ""


def stored_time(text: str) -> int:
    """Return a time as a database has it, in seconds since the epoch; 0 where it is not a number of seconds."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS_MAX else 0


def brief(then: float, now: float | None = None) -> str:
    """Format like `ago`, for a narrow column: `3min`; `?` for an impossible time."""
    passed = _passed(then, now)
    return "?" if passed is None else brief_span(passed) if then else ""


def brief_span(seconds: float) -> str:
    """Format a duration for a narrow column, in one unit: `3min`."""
    return "".join(span(seconds).split()[:2])


def _passed(then: float, now: float | None) -> float | None:
    """Return the seconds since `then`; None where a clock was wrong: then, it was not set yet, or it is not set now."""
    now = time.time() if now is None else now
    return None if then > now + FUTURE_S_MAX or (then < CLOCK_SET_S <= now and then) else now - then


def span(seconds: float) -> str:
    """Format a duration in at most two units: `12 s`, `3 min`, `2 h 5 min`, `4 d 1 h`."""
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
    """Format a moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(at)) if at else ""


def when(at: float, now: float) -> str:
    """Format a moment briefly: the time if it is today, else the date too."""
    today = time.localtime(at)[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%m-%d %H:%M", time.localtime(at))


def count(number: int, noun: str) -> str:
    """Format a number with its noun: `1 label`, `2 labels`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def on_off(value: object) -> str:
    """Format a setting as `on` or `off`."""
    return "on" if value else "off"


def yes_no(value: object) -> str:
    """Format a fact as `yes` or `no`."""
    return "yes" if value else "no"


def colour(state: str) -> str:
    """Return the style of a state's name."""
    return COLOURS.get(State(state), "") if state in State.__members__ else ""


def unless(condition: object, text: str, code: int = protocol.EXIT_FAILED) -> None:
    """End the command with one line unless `condition` holds."""
    if not condition:
        raise Failure(text, code)


def ask_first(sentence: str, question: str, *, sure: bool) -> None:
    """Print the effect and ask for confirmation. Raises Failure unless the answer is yes."""
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
        raise Failure("not confirmed; add -y to proceed without confirmation", protocol.EXIT_USAGE)
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed; answer y, or add -y, to proceed")


def note_if_daemon_absent(switch: Switch) -> None:
    """Print a note if kubesyncd does not answer: the change is stored but not applied yet."""
    try:
        switch.daemon.cluster()
    except Forbidden:
        return  # the daemon runs; this user may not use its socket
    except (PortError, Declined):
        text = "note: kubesyncd does not answer; it acts on this once it runs: systemctl start kubesyncd"
        click.echo(text, err=True)
