"""Show features: `show feature [NAME]`.

Stored fields come from Redis, states and reasons from the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command
from kubesyncd.cli.output import (
    FeatureName,
    ago,
    brief,
    colour,
    json_option,
    on_off,
    print_json,
    put,
    stored_time,
    table,
    this_switch,
    unless,
)
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core.model import SHORT_ID
from kubesyncd.core.parse import unusable_names
from kubesyncd.core.text import escaped
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from kubesyncd.cli.switch import Switch
    from kubesyncd.cli.switch_redis import FeatureFields
    from kubesyncd.core.descriptions import FeatureDescription


NAME_SHOWN_MAX = 64


@click.command("feature", cls=Command, options_metavar="[--json]")
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
@json_option
def feature(name: str | None, as_json: bool) -> None:
    """Show each feature's configured owner, current owner, state and reason."""
    show_feature(name, as_json=as_json)


def show_feature(name: str | None, *, as_json: bool) -> None:
    """Print the list, or everything of one feature."""
    if name is None:
        _show_all(as_json=as_json)
    else:
        _show_one(name, as_json=as_json)


def _show_all(*, as_json: bool) -> None:
    switch = this_switch()
    known = {found["feature"]: found for found in switch.daemon.features()}
    names = sorted({*switch.redis.feature_names(), *known})
    rows = [(name, _stored(switch, name), known.get(name)) for name in names]
    rows += [
        (escaped(name, NAME_SHOWN_MAX), Refused("Redis", unusable_names([name])), None)
        for name in switch.redis.unusable_feature_names()
    ]
    if as_json:
        print_json([_as_json(*row) for row in rows])
        return
    if not rows:
        click.echo("no features; add one with: kubesync config feature NAME owner local")
        return
    put(feature_table(rows), "", reasons([found for _, _, found in rows if found]))
    for _, stored, _ in rows:
        if isinstance(stored, Refused):
            click.echo(f"problem: {stored.detail}", err=True)


def _stored(switch: Switch, name: str) -> FeatureFields | Refused:
    """Read one feature's rows; return the error of an unusable one, so that it hides no other."""
    try:
        return switch.redis.feature_rows(name)
    except Refused as error:
        return error


def feature_table(
    features: Sequence[tuple[str, FeatureFields | Refused, FeatureDescription | None]],
) -> Table:
    """Build one line per feature: its configuration, its record, and the resulting state."""
    from rich.text import Text

    made = table("Feature", "Owner", "Fallback", "Fail", "Runs", "Mode", "State", "Since")
    for name, stored, found in features:
        if isinstance(stored, Refused):
            made.add_row(Text(name, "bold"), *["-"] * 5, Text("unusable row", "red"))
            continue
        state = found["state"] if found else "-"
        made.add_row(
            Text(name, "bold"),
            stored.means.owner.value,
            on_off(stored.means.fallback),
            f"{stored.means.failure_minutes}m" if stored.means.failure_minutes else "-",
            stored.row.current_owner.value,
            stored.row.transition_mode.value,
            Text(state, colour(state)),
            brief(found["since"]) if found else "",
        )
    return made


def reasons(features: Sequence[FeatureDescription]) -> Table:
    """List the reason of each feature's state. Features with one reason share a line, with NAME for their names."""
    from rich.table import Table
    from rich.text import Text

    shared: dict[str, list[FeatureDescription]] = {}
    for found in features:
        shared.setdefault(found["why"].replace(f" {found['feature']}", " NAME"), []).append(found)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(max_width=24)
    grid.add_column(style="dim", overflow="fold")
    for why, alike in shared.items():
        names = ", ".join(found["feature"] for found in alike)
        grid.add_row(names, why if len(alike) > 1 else alike[0]["why"])
    for found in features:
        for condition in found.get("conditions", []):
            grid.add_row(found["feature"], Text(condition, "yellow"))
    return grid


def _show_one(name: str, *, as_json: bool) -> None:
    switch = this_switch()
    stored = switch.redis.feature_rows(name)
    try:
        found = switch.daemon.feature(name)
    except Declined:
        unless(stored.config or stored.state, f"{name}: unknown feature; see: kubesync show feature")
        found = None
    if as_json:
        print_json(_as_json(name, stored, found))
        return
    from rich.text import Text

    if found:
        put(
            Text.assemble(
                (name, "bold"), ": ", (found["state"], colour(found["state"])), f" for {ago(found['since'])}"
            ),
            Text(f"  {found['why']}", "dim"),
            *(Text(f"  {condition}", "yellow") for condition in found.get("conditions", [])),
            Text(""),
        )
    put(side_by_side(stored))
    for problem in stored.problems:
        click.echo(f"problem: {problem}", err=True)


def side_by_side(stored: FeatureFields) -> Table:
    """Build a table of both raw rows; IDs are shortened, and the daemon's own number left out. JSON has all."""
    config = sorted(stored.config.items())
    state = sorted((field, value) for field, value in stored.state.items() if field != "revision")
    if stored.state.get("remote_state") == "pending":
        waits = f"{stored.state.get('container_version', '')} (of the kube container that waits)"
        state = [(field, waits if field == "container_version" else value) for field, value in state]
    made = table("CONFIG_DB", "", "STATE_DB", "")
    made.columns[0].no_wrap = made.columns[2].no_wrap = True
    for at in range(max(len(config), len(state))):
        left = config[at] if at < len(config) else ("", "")
        right = state[at] if at < len(state) else ("", "")
        made.add_row(left[0], left[1], right[0], _value(*right))
    return made


def _value(field: str, value: str) -> str:
    if field.replace("-", "_") in ("docker_id", "container_id"):
        return value[:SHORT_ID]
    if field.endswith("_ts") and stored_time(value):
        return f"{ago(stored_time(value))} ago"
    return value


def _as_json(
    name: str, stored: FeatureFields | Refused, found: FeatureDescription | None
) -> dict[str, object]:
    if isinstance(stored, Refused):
        return {"feature": name, "problems": [str(stored)]}
    return {
        "feature": name,
        "state": found["state"] if found else None,
        "since": found["since"] if found else None,
        "why": found["why"] if found else None,
        "config": dict(stored.config),
        "state_db": dict(stored.state),
        "problems": list(stored.problems),
    }
