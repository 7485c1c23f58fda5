"""Guide a migration from ctrmgrd: `doctor --migrate` prints what to do and does nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Failure
from kubesyncd.cli.output import print_json
from kubesyncd.cli.rules.ctrmgrd import LEFTOVERS, SETTINGS_FILE, Advice, Old, Way, advise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.cli.switch import Switch

FILE_BYTES_MAX = 1 << 20


def migrate(switch: Switch, *, as_json: bool, file: Path = Path(SETTINGS_FILE)) -> None:
    """Print the migration steps of a switch that ctrmgrd has managed."""
    old = Old(
        settings=_settings(file),
        labels=switch.redis.labels_of_ctrmgrd(),
        features=switch.redis.config_rows(),
        master=switch.redis.master()[0],
        there=frozenset(path for path in LEFTOVERS if _is_ctrmgrds(Path(path))),
    )
    advice = list(advise(old))
    if as_json:
        print_json([asdict(one) for one in advice])
    else:
        click.echo("\n".join(_formatted(advice)))


def _is_ctrmgrds(path: Path) -> bool:
    """Return whether the path exists and is not ours: after the migration it is a link to our file."""
    return path.exists() and "kubesyncd" not in path.resolve().parts


def _settings(file: Path) -> dict[str, Any]:
    """Read ctrmgrd's own settings; empty if it has no file. Raises Failure."""
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{file} cannot be read: {error}; correct it, or move it away") from error
    if not isinstance(found, dict):
        raise Failure(f"invalid settings in {file}; correct it, or move it away")
    return found


def _formatted(advice: list[Advice]) -> Iterator[str]:
    """Format the advice: settings by section, then commands, then information."""
    lines = sorted((one for one in advice if one.way is Way.SET), key=lambda one: one.section)
    yield "# /etc/kubesyncd/kubesyncd.toml: replace its tables of these names, then systemctl restart kubesyncd"
    for section, those in groupby(lines, lambda one: one.section):
        yield f"[{section}]"
        yield from (f"{one.text}  # {one.because}" for one in those)
    commands = [one for one in advice if one.way is Way.RUN]
    if commands:
        yield "\n# to run"
        yield from (f"{one.text}  # {one.because}" for one in commands)
    known = [one for one in advice if one.way is Way.KNOW]
    if known:
        yield "\n# to know"
        yield from (f"# {one.text} ({one.because})" for one in known)
