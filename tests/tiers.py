"""Assign each test to a tier: fast, system or deep.

fast: no engine needed, seconds. system: real engines, the installed switch, whole switches on the stand-ins. deep:
what takes long, or shows on the stand-ins what the system tier shows on real engines. `tests/README.md` has the table.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_FOLDER = Path(__file__).parent / "system"
TIERS = ("fast", "system", "deep")
# Costly engines, and how many workers start one each. The kubelet's health port is written into kubeadm: one at a time.
GROUPS = {"kubeadm": 1, "kubelet": 2, "installed": 2, "kube": 1}
# A test above its tier's limit says why: `@pytest.mark.slow("why")`.
SLOW_S = {"fast": 5.0, "system": 60.0}
FLAKY_MAX, FLAKY_TRIES = 5, 3


def tier_of(item: pytest.Item) -> str:
    """The tier of a test, by its marks and its folder."""
    marked = {mark.name for mark in item.iter_markers()}
    if "deep" in marked:
        return "deep"
    if "real" in marked:
        return "system"
    if "story" in marked:
        return "fast"
    # Another variant of the same test runs on real engines.
    if "twin" in marked:
        return "deep"
    return "system" if "system" in marked or item.path.is_relative_to(SYSTEM_FOLDER) else "fast"


def assign(items: list[pytest.Item]) -> None:
    """Mark each test with its tier alone, and with the group of those that take turns on one worker.

    Groups come first, the longest of them at the head: single tests fill up what remains of each worker.
    """
    counted: Counter[str] = Counter()
    assigned = [tier_of(item) for item in items]
    for item in items:
        # A file's mark must not select its stories for a second tier.
        for node in item.listchain():
            node.own_markers[:] = [mark for mark in node.own_markers if mark.name not in TIERS]
    for item, tier in zip(items, assigned, strict=True):
        item.add_marker(tier)
        if kind := _engine(item):
            item.add_marker(pytest.mark.xdist_group(f"{kind}-{counted[kind] % GROUPS[kind]}"))
            counted[kind] += 1
    items.sort(key=lambda item: [*GROUPS, ""].index(_engine(item)))


def _engine(item: pytest.Item) -> str:
    """Which costly engine a test shares with others; empty where it shares none."""
    engines = {engine for mark in item.iter_markers("real") for engine in mark.args}
    shares = {name for name in ("kubeadm", "kubelet", "kube") if name in engines}
    if "installed" in getattr(item, "fixturenames", ()):
        shares.add("installed")
    return next((kind for kind in GROUPS if kind in shares), "")


def refuse_stale_flakes(items: Sequence[pytest.Item], today: date | None = None) -> None:
    """Raise UsageError where a `flaky` mark is past its date, has no link, or is one too many."""
    flaky = {item.nodeid.partition("[")[0]: m for item in items if (m := item.get_closest_marker("flaky"))}
    today = today or datetime.now(UTC).date()
    for test, mark in flaky.items():
        if not mark.args or "until" not in mark.kwargs:
            raise pytest.UsageError(f'{test}: write @pytest.mark.flaky("LINK", until="YYYY-MM-DD")')
        if date.fromisoformat(mark.kwargs["until"]) < today:
            raise pytest.UsageError(
                f"{test}: flaky until {mark.kwargs['until']}; find the cause, see {mark.args[0]}"
            )
    if len(flaky) > FLAKY_MAX:
        raise pytest.UsageError(f"{len(flaky)} tests are marked flaky; {FLAKY_MAX} are allowed")
