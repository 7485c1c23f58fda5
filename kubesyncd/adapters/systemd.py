"""Control units by a few systemctl calls, each with a deadline.

Does not know the features' states.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.core.feature_unit import UnitLook, UnitPhase
from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.text import number_in
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime.processes import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.settings import SystemdSettings

SERVICE = "systemd"
# How services/templates/unit.service.j2 begins.
_OURS = b"# Written by kubesync"

LOOK_S = 10.0
CHANGE_S = 30.0

_NO_UNIT = frozenset({"not-found", "masked"})
_INACTIVE = (3, 4)  # systemctl(1): the unit is not active, the unit does not exist
# A unit that waits for its restart starts its containers by itself: it counts as running.
_RUNNING_WORDS = frozenset({"active", "activating", "reloading", "refreshing"})
_ENDED_WORDS = frozenset({"inactive", "failed"})
_LOOK = "LoadState,ActiveState,Job,InactiveEnterTimestampMonotonic,DropInPaths"
# kubesyncd-features writes it for each unit that runs a feature.
_DROP_IN = "/20-kubesyncd.conf"
# How many units one call describes.
_UNITS_MAX = 64
# A unit that systemd has restarted, and that has not run for this long since, may fail again.
SETTLED_S = 60.0


class SystemdUnits:
    """ports.Units through systemctl. `look_s` and `change_s`: deadlines in seconds, shortened by tests."""

    def __init__(
        self, systemd: SystemdSettings, *, look_s: float = LOOK_S, change_s: float = CHANGE_S
    ) -> None:
        self._systemctl = systemd.systemctl
        self._kubelet = systemd.kubelet_unit
        self._look_s = look_s
        self._change_s = change_s

    async def kubelet_running(self) -> bool:
        """See ports.Units. A kubelet between two restarts counts as running. Raises Unavailable."""
        ended = await run((*self._systemctl, "is-active", self._kubelet), self._look_s, SERVICE)
        if ended.code == 0:
            return True
        if ended.code in _INACTIVE:
            return ended.out.strip() in _RUNNING_WORDS
        raise Unavailable(SERVICE, f"is-active {self._kubelet}: {ended.reason or f'exit code {ended.code}'}")

    async def kubelet_trouble(self) -> str:
        """See ports.Units. Raises Unavailable."""
        said = await self._properties(self._kubelet, "LoadState", "ActiveState", "SubState", "NRestarts",
                                      "ActiveEnterTimestampMonotonic", "Result")  # fmt: skip
        return _trouble(self._kubelet, said, time.monotonic())

    async def start_kubelet(self) -> None:
        """See ports.Units. Raises Refused, Unavailable."""
        await self._change("enable", "--now", self._kubelet)

    async def stop_kubelet(self) -> None:
        """See ports.Units. Raises Refused, Unavailable."""
        await self._change("disable", "--now", self._kubelet)

    async def restart_kubelet(self) -> None:
        """See ports.Units; returns once the job is queued. Raises Refused, Unavailable."""
        await self._change("restart", "--no-block", self._kubelet)

    async def restart(self, feature: str) -> None:
        """See ports.Units; returns once the job is queued. Raises Refused, Unavailable."""
        if not valid_feature_name(feature):
            raise Refused(SERVICE, f"{feature[:80]!a}: invalid feature name")
        # A unit that used up its start limit would refuse; one that never failed needs no reset.
        with suppress(Refused):
            await self._change("reset-failed", f"{feature}.service")
        await self._change("restart", "--no-block", f"{feature}.service")

    async def unit_exists(self, feature: str) -> bool:
        """See ports.Units. SONiC's `featured` masks the unit of a disabled feature, also of a removed one."""
        return bool(await self._loaded(feature))

    async def makes_local(self, feature: str) -> bool:
        """See ports.Units. Raises Unavailable."""
        said = await self._loaded(feature, "FragmentPath")
        return bool(said) and not await asyncio.to_thread(_written_by_us, Path(said.get("FragmentPath", "")))

    async def phases(self, units: Sequence[str]) -> tuple[UnitLook, ...]:
        """See ports.Units. Raises Unavailable."""
        found: list[UnitLook] = []
        for begin in range(0, len(units), _UNITS_MAX):
            some = units[begin : begin + _UNITS_MAX]
            command = (*self._systemctl, "show", f"--property={_LOOK}", *some)
            ended = await run(command, self._look_s, SERVICE)
            told = [_read_properties(each) for each in ended.out.strip().split("\n\n")]
            if ended.code != 0 or len(told) != len(some) or not all(said.get("ActiveState") for said in told):
                text = ended.reason or f"exit code {ended.code}, {len(told)} of {len(some)} units described"
                raise Unavailable(SERVICE, f"show {some[0]}: {text}")
            # systemd counts without the time that the switch was suspended.
            since = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
            found += [_look(said, since) for said in told]
        return tuple(found)

    async def _loaded(self, feature: str, *names: str) -> dict[str, str]:
        """Return the unit's LoadState and the properties `names`; empty where no unit can run. Raises Unavailable."""
        if not valid_feature_name(feature):
            return {}
        said = await self._properties(f"{feature}.service", "LoadState", *names)
        if not said.get("LoadState"):
            raise Unavailable(SERVICE, f"show {feature}.service: no answer")
        return {} if said["LoadState"] in _NO_UNIT else said

    async def begin(self, unit: str) -> None:
        """Start one of kubesyncd's oneshot units; return once the job is queued. Raises Refused, Unavailable."""
        with suppress(Refused):
            await self._change("reset-failed", unit)
        await self._change("start", "--no-block", unit)

    async def end(self, unit: str) -> None:
        """Stop one of kubesyncd's units and wait until it has ended. Raises Refused, Unavailable."""
        await self._change("stop", unit)

    async def pending(self, unit: str) -> bool:
        """Return whether one of kubesyncd's oneshot units is queued, starting or running. Raises Unavailable."""
        said = await self._properties(unit, "ActiveState", "Job")
        return _has_job(said) or said.get("ActiveState", "") in _RUNNING_WORDS

    async def active(self, feature: str) -> bool:
        """Return whether the feature's unit runs. Raises Unavailable."""
        ended = await run((*self._systemctl, "is-active", f"{feature}.service"), self._look_s, SERVICE)
        return ended.code == 0

    async def reload(self) -> None:
        """Make systemd read all unit files again. Raises Refused, Unavailable."""
        await self._change("daemon-reload")

    async def enable(self, feature: str) -> None:
        """Enable the feature's unit by its current file, replacing earlier links. Raises Refused, Unavailable."""
        await self._change("reenable", f"{feature}.service")

    async def disable(self, feature: str) -> None:
        """Disable the feature's unit; it continues to run. Raises Refused, Unavailable."""
        await self._change("disable", f"{feature}.service")

    async def stop(self, feature: str) -> None:
        """Stop the feature's unit and wait until it has ended. Raises Refused, Unavailable."""
        await self._change("stop", f"{feature}.service")
        # A failed unit would stay in lists after its file is removed.
        with suppress(Refused):
            await self._change("reset-failed", f"{feature}.service")

    async def has_unit(self, feature: str) -> bool:
        """Return whether the feature has a service. Raises Unavailable."""
        if not valid_feature_name(feature):
            return False
        ended = await run((*self._systemctl, "cat", f"{feature}.service"), self._look_s, SERVICE)
        return ended.code == 0

    async def starts_at_boot(self, feature: str) -> bool:
        """Return whether the feature's unit is enabled. Raises Unavailable."""
        ended = await run((*self._systemctl, "is-enabled", f"{feature}.service"), self._look_s, SERVICE)
        return ended.code == 0

    async def in_use(self, unit: str) -> bool:
        """Return whether a unit is enabled, or is active or about to be. Raises Unavailable."""
        said = await self._properties(unit, "ActiveState", "UnitFileState")
        idle = said.get("ActiveState", "") in ("", "inactive", "failed")
        return not idle or said.get("UnitFileState", "") in ("enabled", "enabled-runtime")

    async def _properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of the unit; those that systemd does not know are missing. Raises Unavailable."""
        command = (*self._systemctl, "show", f"--property={','.join(names)}", unit)
        ended = await run(command, self._look_s, SERVICE)
        if ended.code != 0:
            raise Unavailable(SERVICE, f"show {unit}: {ended.reason or f'exit code {ended.code}'}")
        return _read_properties(ended.out)

    async def _change(self, *arguments: str) -> None:
        ended = await run((*self._systemctl, *arguments), self._change_s, SERVICE)
        if ended.code != 0:
            reason = ended.reason or f"exit code {ended.code}"
            raise Refused(SERVICE, f"{' '.join(arguments)}: {reason}")


def _read_properties(printed: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in printed.splitlines())


def _has_job(said: Mapping[str, str]) -> bool:
    # Without a queued job, systemd prints nothing after Job=, or 0.
    return said.get("Job", "") not in ("", "0")


def _look(said: Mapping[str, str], offset: float) -> UnitLook:
    """Return what systemd does with a unit, by its properties. One that waits for its restart is activating.

    `offset`: from CLOCK_MONOTONIC to BOOTTIME seconds.
    """
    ours = any(path.endswith(_DROP_IN) for path in said.get("DropInPaths", "").split())
    if said.get("LoadState") not in ("loaded", "masked") or not ours:
        return UnitLook(UnitPhase.UNTOLD)
    if said["ActiveState"] in _ENDED_WORDS:
        if _has_job(said):
            return UnitLook(UnitPhase.RUNS)
        at = number_in(said.get("InactiveEnterTimestampMonotonic", ""))
        return UnitLook(UnitPhase.ENDED, at / 1e6 + offset if at else None)
    return UnitLook(UnitPhase.ENDING if said["ActiveState"] == "deactivating" else UnitPhase.RUNS)


def _trouble(unit: str, said: Mapping[str, str], now: float) -> str:
    """Return why a unit that should run does not run well, by its properties; empty where it does.

    `now`: CLOCK_MONOTONIC seconds, as systemd counts them.
    """
    load, result = said.get("LoadState", ""), said.get("Result", "")
    if load == "masked":
        return f"{unit} is masked, so it cannot start; run: systemctl unmask {unit}"
    if load == "not-found":
        return f"{unit} does not exist; install the kubelet, or set [systemd] kubelet_unit"
    because = f" ({result})" if result not in ("", "success") else ""
    fix = f"see: journalctl -u {unit}"
    restarts, entered = (
        number_in(said.get(name, "")) for name in ("NRestarts", "ActiveEnterTimestampMonotonic")
    )
    if said.get("SubState") == "auto-restart" or (restarts and now - entered / 1e6 < SETTLED_S):
        again = f", restarted {restarts} times" if restarts else ""
        return f"{unit} ends by itself{because}{again}; {fix}"
    if said.get("ActiveState") == "failed":
        return f"{unit} has failed{because}; {fix}"
    return ""


def _written_by_us(unit_file: Path) -> bool:
    """Return whether kubesync has written this unit file."""
    try:
        with unit_file.open("rb") as file:
            return file.read(len(_OURS)) == _OURS
    except OSError:
        return False
