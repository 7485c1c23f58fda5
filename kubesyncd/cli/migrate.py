"""Guide a migration from ctrmgrd: `doctor --migrate` and `doctor --scripts` print what to do and do nothing."""

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
from kubesyncd.cli.rules.scripts import check_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kubesyncd.cli.switch import Switch

FILE_BYTES_MAX = 1 << 20
SCRIPTS_MAX = 2_000


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


def check_scripts(paths: Iterable[Path], *, as_json: bool) -> bool:
    """Print the docker calls left in scripts, with replacements; return True if there are none. Raises Failure."""
    found = [(path, call) for path in _scripts(paths) for call in check_script(_text(path))]
    if as_json:
        print_json([{"file": str(path), **asdict(call)} for path, call in found])
        return not found
    for path, call in found:
        click.echo(f"{path}:{call.line}: {call.text}\n    write: {call.instead}")
    if not found:
        click.echo("no docker calls left")
    return not found


def _scripts(paths: Iterable[Path]) -> list[Path]:
    """Return the files; a folder stands for the scripts in it."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(entry for entry in path.iterdir() if entry.is_file() and _is_script(entry))
        else:
            files.append(path)
    if len(files) > SCRIPTS_MAX:
        raise Failure(f"{len(files)} scripts are more than {SCRIPTS_MAX}; name a smaller folder")
    return files


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return path.suffix in (".sh", ".py", ".j2") or opened.read(2) == b"#!"
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return opened.read(FILE_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise Failure(
            f"{path} cannot be read: {error.strerror}; run it with sudo, or name another"
        ) from error
