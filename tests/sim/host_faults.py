"""Do to the switch itself what happens to one: killed daemons, full disks, lost files, clocks, reboots."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.model import Row
from tests.sim.cast import MISSPELT
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from tests.sim.chance import Act, Strike
    from tests.sim.switch import World


class HostFaults:
    """The faults of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance

    def acts(self) -> dict[Fault, Act]:
        """Return each kind that draws from the storm's own random stream."""
        return {
            Fault.RESUBSCRIBED: self._resubscribe,
            Fault.HOLD: self._hold,
            Fault.WALL_JUMP: self._wall_jump,
            Fault.DAEMON_KILLED: self._kill_daemon,
            Fault.DAEMON_RESTARTED: self._restart_daemon,
            Fault.EARLY_WAKE: self._early_wake,
            Fault.DISK_FULL: self._disk_full,
            Fault.SWIZZLE: self._swizzle,
            Fault.REBOOT: self._reboot,
        }

    def streams(self) -> dict[Fault, Strike]:
        """Return each kind with a random stream of its own."""
        return {
            Fault.UNKNOWN_NAME: self._misspell,
            Fault.LEDGER_LOST: self._lose_ledger,
            Fault.FILE_UNWRITABLE: self._unwritable,
            Fault.MARK_LOST: self._lose_mark,
        }

    def heal(self) -> None:
        """End every fault."""
        self._world.disk_full = self._world.hold = False
        for file in self._world.files:
            file.unwritable = False

    async def _resubscribe(self) -> None:
        self._chance.strike(Fault.RESUBSCRIBED)
        self._chance.one_of((self._world.redis.cut, self._world.engine.cut, self._world.api.cut))()

    async def _hold(self) -> None:
        self._chance.strike(Fault.HOLD)
        self._world.hold = True
        await asyncio.sleep(self._chance.lasts_s() * 2)
        self._world.hold = False

    async def _wall_jump(self) -> None:
        self._chance.strike(Fault.WALL_JUMP)
        self._world.skew_s += self._chance.one_of((-3600.0, 3600.0))

    async def _kill_daemon(self) -> None:
        if not self._knows_after_restart():
            return
        self._chance.strike(Fault.DAEMON_KILLED)
        self._world.kill_daemon()
        await asyncio.sleep(self._chance.one_of((0.1, 1.0, 30.0)))
        self._world.start_daemon()

    async def _restart_daemon(self) -> None:
        if not self._knows_after_restart():
            return
        self._chance.strike(Fault.DAEMON_RESTARTED)
        await self._world.stop_daemon()
        await asyncio.sleep(self._chance.one_of((0.1, 1.0)))
        self._world.start_daemon()

    async def _early_wake(self) -> None:
        self._chance.strike(Fault.EARLY_WAKE)
        for stream in (*self._world.redis.streams, *self._world.engine.streams):
            stream.put(self._chance.one_of(self._world.features))

    async def _disk_full(self) -> None:
        self._chance.strike(Fault.DISK_FULL)
        self._world.disk_full = True
        await asyncio.sleep(self._chance.lasts_s())
        self._world.disk_full = False

    async def _swizzle(self) -> None:
        """FoundationDB's swizzle-clogging: one by one, and back in another order."""
        self._chance.strike(Fault.SWIZZLE)
        lasts = {name: self._chance.between(1.0, 40.0) for name in ("redis", "docker", "api")}
        for name in self._chance.rng.sample(sorted(lasts), 3):
            self._world.spawn(self._clog(name, lasts[name]))
            await asyncio.sleep(self._chance.between(0.0, 5.0))

    async def _clog(self, name: str, seconds: float) -> None:
        part = {"redis": self._world.redis, "docker": self._world.engine, "api": self._world.api}[name]
        part.up = False
        part.cut()
        await asyncio.sleep(seconds)
        part.up = True

    async def _reboot(self) -> None:
        self._world.reboot()

    async def _misspell(self, rng: Random) -> None:
        """A name without FEATURE row, container and unit: every verb fails."""
        verb = rng.choice(("start", "stop", "kill", "wait", "id", "resolve"))
        code = await self._world.people.ask(verb, MISSPELT, bound_s=90.0)
        if code == protocol.EXIT_DONE:
            self._world.fail(f"container {verb} {MISSPELT} succeeds, and there is no such feature")

    async def _lose_ledger(self, rng: Random) -> None:
        """The ledger is damaged or an older copy when the daemon comes back, and STATE_DB has what it said."""
        world, boots, copy = self._world, self._world.boots, self._world.ledger_file.data
        how = rng.choice(("removed", "cut", "of another version", "of other features", "an older copy"))
        if how == "an older copy":
            await asyncio.sleep(rng.choice((1.0, 30.0, 200.0)))
        data = world.ledger_file.data or b""
        same = world.life is not None and world.boots == boots and not world.ledger_file.stale
        if not same or not data.endswith(b"\n") or not self._rows_tell(_told(data)):
            return
        world.kill_daemon()
        lost = {
            "removed": lambda: None,
            "cut": lambda: data[:40],
            "of another version": lambda: json.dumps({**json.loads(data), "version": 99}).encode(),
            "of other features": lambda: json.dumps({**json.loads(data), "features": {}}).encode(),
            "an older copy": lambda: copy,
        }
        world.ledger_file.data = lost[how]()
        self._chance.tell("ledger", f"is {how}")
        world.promises.ledger_lost()
        await asyncio.sleep(rng.choice((0.0, 0.1)))
        world.start_daemon()

    def _knows_after_restart(self) -> bool:
        """Whether the daemon would know after a restart what it knows now; it tells the promises what it goes by."""
        if not self._world.ledger_file.stale:
            return True
        if not self._rows_suffice():
            return False
        self._world.promises.ledger_lost()
        return True

    def _rows_suffice(self) -> bool:
        """Whether STATE_DB's rows tell what the ledger could not store: the daemon's alert says that they decide."""
        ledger = None if self._world.life is None else self._world.life.ledger
        return ledger is not None and self._rows_tell(
            {name: (record.system_state, record.revision.number) for name, record in ledger.records.items()}
        )

    def _rows_tell(self, records: Mapping[str, tuple[str, int]]) -> bool:
        """Whether every feature's row tells its unit's last request, as its record does, and is as new."""
        redis = self._world.redis
        if not redis.up or not redis.writable:
            return False
        rows = {name: redis.rows.get(name, Row()) for name in records}
        return all(
            (rows[name].system_state, rows[name].revision) == record for name, record in records.items()
        )

    async def _lose_mark(self, rng: Random) -> None:
        """No file tells that the boot is not new, as where the mark could not be written since its begin."""
        mark = self._world.mark_file
        mark.data, mark.unwritable = None, True
        await asyncio.sleep(rng.choice((30.0, 300.0, 900.0)))
        mark.unwritable = False

    async def _unwritable(self, rng: Random) -> None:
        """A file is read-only, over quota or without rights for a while."""
        file = rng.choice(self._world.files)
        file.unwritable = True
        await asyncio.sleep(rng.choice((1.0, 30.0, 120.0)))
        file.unwritable = False


def _told(ledger: bytes) -> dict[str, tuple[str, int]]:
    """Each feature's state and number of its last change, by the ledger's file."""
    records = {name: entry["record"] for name, entry in json.loads(ledger)["features"].items()}
    return {name: (r["system_state"], r["revision"]["number"]) for name, r in records.items()}
