"""Judge growth: samples in, findings out.

Knows no process and no clock. A *life* is one process of the daemon; a reload by SIGHUP stays in it. Only samples at
rest are compared, each at the end of a quiet time after a storm: what a storm holds is its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GROWTH_MIB_MAX = 3.0
# Caches and connection pools fill during the first storm of a life; the second one shows what stays.
WARM_UP_STORMS = 2
# What is held after each of the last storms stays. A container that just then waits for its turn does not.
LAST_STORMS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon holds at one moment, `at_s` after the soak began; `storm`: at rest after this one, or None.

    `own_mib`: its anonymous memory, which no other process shares. It is what a leak fills. PSS and RSS are told,
    not judged: both change when a neighbour that runs the same Python comes or goes.
    """

    at_s: float
    life: int
    storm: int | None
    pss_mib: float
    rss_mib: float
    own_mib: float
    fds: int
    threads: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Storm:
    """One storm and what came of it. `left`: who did not settle, one sentence each."""

    number: int
    operations: int
    faults: int
    settled_s: float
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What the daemon's log has said: lines by event, and each sign of something unforeseen."""

    lines: dict[str, int]
    tracebacks: tuple[str, ...]


def findings(
    samples: Sequence[Sample], storms: Sequence[Storm], told: Told, twice: Sequence[str]
) -> list[str]:
    """Everything that must not be, one sentence each. `twice`: who broke promise S1."""
    return [
        *_of_lives(samples),
        *(f"storm {s.number}: {sentence}" for s in storms for sentence in s.left),
        *(f"traceback: {text}" for text in told.tracebacks),
        *(f"two containers of a feature at once (S1): {text}" for text in twice),
    ]


def least(seen: Sequence[Sample], storm: int) -> Sample:
    """What the daemon holds at rest after `storm`: the least of several samples. Released objects are no leak."""
    return replace(
        seen[-1],
        storm=storm,
        own_mib=min(sample.own_mib for sample in seen),
        fds=min(sample.fds for sample in seen),
        tasks=min(sample.tasks for sample in seen),
    )


def judged(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Per life that lasted: the sample it is measured against, and what it held in the end."""
    lives = [
        list(life) for _, life in groupby((s for s in samples if s.storm is not None), key=lambda s: s.life)
    ]
    return [
        (life[WARM_UP_STORMS - 1], _in_the_end(life[WARM_UP_STORMS - 1], life[-LAST_STORMS:]))
        for life in lives
        if len(life) >= WARM_UP_STORMS + LAST_STORMS
    ]


def _in_the_end(first: Sample, last: Sequence[Sample]) -> Sample:
    """The last sample, with more or fewer files and tasks than at first only where all of the `last` have."""
    fds, tasks = ({getattr(sample, what) for sample in last} for what in ("fds", "tasks"))
    return replace(
        last[-1],
        fds=min(max(first.fds, min(fds)), max(fds)),
        tasks=min(max(first.tasks, min(tasks)), max(tasks)),
    )


def _of_lives(samples: Sequence[Sample]) -> Iterator[str]:
    pairs = judged(samples)
    if not pairs:
        storms = WARM_UP_STORMS + LAST_STORMS
        yield f"no daemon lived through {storms} storms, so nothing can be said; give it more HOURS"
    for first, last in pairs:
        minutes = (last.at_s - first.at_s) / 60
        grown = last.own_mib - first.own_mib
        if grown > GROWTH_MIB_MAX:
            yield (
                f"life {first.life} grew by {grown:.1f} MiB in {minutes:.0f} minutes, "
                f"from {first.own_mib:.1f} to {last.own_mib:.1f}; {GROWTH_MIB_MAX:g} are allowed"
            )
        for what, before, after in (
            ("open files", first.fds, last.fds),
            ("tasks", first.tasks, last.tasks),
        ):
            if after != before:
                yield f"life {first.life} had {before} {what} and has {after} after {minutes:.0f} minutes"
