"""Keep FEATURE across `config load_minigraph`: `feature-table save|restore`, run by the sonic-utilities plugin.

The daemon restores the table from the copy of `save` as soon as the load has ended; `restore` is for the case that
the daemon does not run.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Failure, Group
from kubesyncd.cli.output import count, json_option, print_json, this_switch

if TYPE_CHECKING:
    from kubesyncd.cli.switch import Switch
    from kubesyncd.core.saved_features import Saved
    from kubesyncd.runtime.state_files import StateFile


@click.group("feature-table", cls=Group)
def feature_table() -> None:
    """Keep FEATURE fields that `config load_minigraph` would lose."""


@feature_table.command(cls=Command)
@json_option
def save(as_json: bool) -> None:
    """Save the table; fields lost in the next CONFIG_DB load within an hour are restored."""
    saved = _save(this_switch())
    if as_json:
        print_json(saved.rows)
        return
    kept = count(len(saved.rows), "feature")
    click.echo(f"saved: {kept}; fields lost in the next CONFIG_DB load within an hour are restored")


@feature_table.command(cls=Command)
@json_option
def restore(as_json: bool) -> None:
    """Restore now the fields lost since the table was saved."""
    switch = this_switch()
    if _load(switch) is None:
        raise Failure("no saved table; before the next load, run: kubesync feature-table save")
    fields = _restore(switch)
    if as_json:
        print_json(fields)
        return
    for name, given in fields.items():
        click.echo(f"{name}: {', '.join(f'{field}={value}' for field, value in given.items())}")
    if not fields:
        click.echo("nothing is missing")


@feature_table.command(cls=Command, hidden=True)
def forget() -> None:
    """Disarm the copy: its load of CONFIG_DB was cancelled."""
    _disarm(this_switch())


def _file(switch: Switch) -> StateFile:
    from kubesyncd.runtime.feature_table_file import FILE
    from kubesyncd.runtime.state_files import state_file

    return state_file(Path(switch.settings.paths.state_dir) / FILE)


def _load(switch: Switch) -> Saved | None:
    from kubesyncd.runtime.codec import Undecodable
    from kubesyncd.runtime.feature_table_file import decode

    data = _file(switch).load()
    try:
        return decode(data) if data is not None else None
    except Undecodable as error:
        raise Failure(f"{error}; save it again") from error


def _save(switch: Switch) -> Saved:
    from kubesyncd.core.saved_features import Saved
    from kubesyncd.runtime.feature_table_file import encode

    rows = {name: dict(switch.redis.feature_rows(name).config) for name in switch.redis.feature_names()}
    if not rows:
        raise Failure("FEATURE is empty, so there is nothing to save")
    saved = Saved(rows, time.time())
    _file(switch).save(encode(saved))
    return saved


def _restore(switch: Switch) -> dict[str, dict[str, str]]:
    """Write and return the missing fields. A missing row is restored only if the feature has a service."""
    saved = _load(switch)
    if saved is None:
        return {}
    now = {name: switch.redis.feature_rows(name).config for name in switch.redis.feature_names()}
    fields = switch.redis.lost_fields(saved.rows, now)
    given = {name: row for name, row in fields.items() if name in now or switch.has_unit(name)}
    for name, row in given.items():
        switch.redis.write_feature(name, row)
    _disarm(switch)
    return given


def _disarm(switch: Switch) -> None:
    """Keep the copy for inspection, but never restore from it again."""
    from kubesyncd.runtime.feature_table_file import encode

    saved = _load(switch)
    if saved is not None and saved.armed:
        _file(switch).save(encode(replace(saved, armed=False)))
