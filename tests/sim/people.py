"""Simulate the users of a switch: containers, systemd's units, and clients over the real wire protocol.

A unit does what SONiC's do: its script creates the local container where there is none and asks for `start`, its
main process is `wait`, and it ends with `stop`. None of them reads the daemon's memory.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubesyncd.api.messages import Role
from kubesyncd.api.peer import Peer
from kubesyncd.core import protocol
from kubesyncd.core.feature_unit import UnitLook, UnitPhase
from kubesyncd.core.model import Owner
from tests.sim.chance import Fault
from tests.sim.row_pods import VERSION, let_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sim.engine import Box
    from tests.sim.switch import Life, World

FIRST_CONTACT_S = 2.0
VERB_S = 90.0
STATE_S = 10.0
RESTART_SEC = 30.0
SIGNALS = ("KILL", "KILL", "TERM", "INT", "QUIT", "ABRT")
# Within how long every verb but `wait` is answered.
ANSWERED_S = 86.0
# Closed for ever: a poll reports that the peer is gone.
GONE_FD = 1 << 20


class Writer:
    """The daemon's end of one connection: an asyncio.StreamWriter as far as the server needs one."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sent = b""
        self.closed = False
        self.changed = asyncio.Event()

    def get_extra_info(self, name: str) -> Writer:
        assert name == "socket"
        return self

    def fileno(self) -> int:
        return GONE_FD

    @property
    def transport(self) -> Writer:
        return self

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, *, high: int) -> None:
        assert high == 0, "drain waits until all is sent, as this one does"

    def write(self, data: bytes) -> None:
        self.sent += data
        self.changed.set()

    async def drain(self) -> None:
        return

    def close(self) -> None:
        self.closed = True
        self.changed.set()


@dataclass(eq=False, slots=True)
class Unit:
    """One feature's systemd unit."""

    feature: str
    wanted: bool = False
    life: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    last_verb: str = ""
    asked_at: float = 0.0
    unheard: bool = False
    restarts: int = 0
    ended_at: float | None = None


class People:
    """All actors except the daemon and the engines."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.units = {feature: Unit(feature) for feature in world.features}

    # ---- the client -----------------------------------------------------------------------------

    async def ask(
        self,
        *request: str,
        box: Box | None = None,
        unit: str = "",
        bound_s: float | None = None,
        sent: Callable[[], object] = lambda: None,
    ) -> int | None:
        """What clients/client.py does: ask, and ask again where the daemon went away. None: no daemon listens.

        `unit`: of the asking process. `sent` is told each time that the request is on its way.
        """
        met = False
        with suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                while True:
                    reply = await self._ask_once(request, box, unit, sent)
                    if reply is not None:
                        code, answered = reply
                        met = met or answered
                        if code is not None:
                            return code
                    elif not met:
                        await asyncio.sleep(FIRST_CONTACT_S)
                        if self._world.life is None:
                            return None
                    await asyncio.sleep(self._world.chance.between(0.2, 1.0))
        return protocol.EXIT_TIMED_OUT

    async def _ask_once(
        self, request: tuple[str, ...], box: Box | None, unit: str, sent: Callable[[], object]
    ) -> tuple[int | None, bool] | None:
        """One connection: the code, if it came; None where no daemon listens."""
        life = self._world.life
        if life is None or life.server is None:
            return None
        writer = Writer(Peer(1, 0, 0, box.id if box is not None else None, unit))
        reader = asyncio.StreamReader()
        role = Role.CONTAINER if box is not None else Role.HOST
        life.serve(role, reader, writer)
        gone = self._world.chance.strikes(Fault.CLIENT_GONE, request[0])
        try:
            await self._send(reader, protocol.encode_request(list(request)))
            sent()
            if gone:
                await asyncio.sleep(self._world.chance.between(0.0, 5.0))
                return None, True
            with self._patience(request, life, writer):
                code = await self._receive(writer)
            if not writer.sent and self._world.life is life and not life.dead:
                self._world.fail(f"verb: {' '.join(request)} is closed without a word by a daemon that runs")
            return code, True
        finally:
            reader.feed_eof()

    @contextmanager
    def _patience(self, request: tuple[str, ...], life: Life, writer: Writer) -> Iterator[None]:
        """Every verb is answered in time, but those that wait for something to happen."""

        def overdue() -> None:
            if self._world.life is life and not life.dead and not writer.closed:
                self._world.fail(f"verb: {' '.join(request)} is not answered within {ANSWERED_S:g} s")

        handle = None
        if request[0] != "wait" and request[2:] != ("up", "kube"):
            handle = asyncio.get_running_loop().call_later(ANSWERED_S, overdue)
        try:
            yield
        finally:
            if handle is not None:
                handle.cancel()

    async def _send(self, reader: asyncio.StreamReader, data: bytes) -> None:
        if self._world.chance.strikes(Fault.SHORT_READ):
            cut = self._world.chance.rng.randrange(len(data))
            reader.feed_data(data[:cut])
            await asyncio.sleep(self._world.chance.between(0.0, 4.0))
            data = data[cut:]
        reader.feed_data(data)

    async def _receive(self, writer: Writer) -> int | None:
        while True:
            lines, code = protocol.decode_reply(writer.sent)
            if code is not None or writer.closed:
                self._world.promises.replied(lines, code)
                return code
            writer.changed.clear()
            await writer.changed.wait()

    # ---- containers -----------------------------------------------------------------------------

    async def live(self, box: Box) -> None:
        """What the process in a container does until it ends by itself."""
        chance = self._world.chance
        doing = asyncio.create_task(self._work(box), name=f"work-{box.id[:9]}")
        try:
            await box.term.wait()
            doing.cancel()
            if chance.strikes(Fault.STOP_SLOW, box.feature):
                await asyncio.Event().wait()
            if box.owner is Owner.LOCAL and chance.rng.random() < 0.5:
                await self.ask("state", box.feature, "down", box=box, bound_s=STATE_S)
            await asyncio.sleep(chance.between(0.01, 2.0))
        finally:
            doing.cancel()
        self._world.engine.die(box, chance.one_of((0, 143)))

    async def _work(self, box: Box) -> None:
        chance = self._world.chance
        await asyncio.sleep(chance.between(0.0, 0.5))
        if box.owner is Owner.KUBE:
            await self._forge(box)
            box.silent = chance.drawn(Fault.SILENT_POD, 0.25, box.feature)
            if box.silent:
                self._world.promises.ungated.add(box.feature)
                await asyncio.Event().wait()
            if chance.drawn(Fault.ROW_POD, 0.7, box.feature):
                code = await self._by_row(box)
            else:
                code = await self.ask("state", box.feature, "up", "kube", box=box)
            if code != protocol.EXIT_DONE:
                # `up kube` fails where there is no daemon: the container's script gives up.
                self._world.engine.die(box, 1)
                return
            self._world.promises.past_up(box)
            if chance.drawn(Fault.SLOW_CRASH, 0.5, box.feature):
                await self._crash_slowly(box)
            if chance.strikes(Fault.SAYS_UNHEALTHY, box.feature):
                await self._complain(box)
        elif chance.rng.random() < 0.5:
            await self.ask("state", box.feature, "up", "local", box=box, bound_s=STATE_S)
        fault = Fault.KUBE_CRASH if box.owner is Owner.KUBE else Fault.LOCAL_CRASH
        if chance.strikes(fault, box.feature):
            await asyncio.sleep(chance.one_of((0.0, 1.0, 20.0, 59.9, 90.0)) * chance.between(0.9, 1.1))
            self._world.engine.die(box, chance.one_of((0, 1, 139)))

    async def _by_row(self, box: Box) -> int:
        """Ask by STATE_DB's row; one that nothing has admitted runs all the same."""
        box.version = VERSION
        if not await let_through(self._world, box):
            box.silent = True
            self._world.promises.ungated.add(box.feature)
            await asyncio.Event().wait()
        return protocol.EXIT_DONE

    async def _crash_slowly(self, box: Box) -> None:
        """End by itself, once it counts as one that has stayed up."""
        draw = self._world.chance.streams[Fault.SLOW_CRASH]
        await asyncio.sleep(self._world.timing.kube_stable_s + draw.uniform(0.1, 30.0))
        self._world.engine.die(box, draw.choice((0, 1, 137)))

    async def _complain(self, box: Box) -> None:
        """Say that all is not well, perhaps take it back; perhaps the operator has enough of it."""
        chance = self._world.chance
        await asyncio.sleep(chance.one_of((0.0, 1.0, 59.9, 90.0)) * chance.between(0.9, 1.1))
        await self.ask("state", box.feature, "unhealthy", "sick", box=box, bound_s=STATE_S)
        await asyncio.sleep(chance.one_of((0.0, 10.0, 90.0)))
        if chance.rng.random() < 0.5:
            await self.ask("state", box.feature, "healthy", box=box, bound_s=STATE_S)

    async def _forge(self, box: Box) -> None:
        """S9: say something about another feature, and be refused."""
        others = [f for f in self._world.features if f != box.feature]
        if others and self._world.chance.strikes(Fault.CLIENT_FORGES, box.feature):
            victim = self._world.chance.one_of(others)
            word = self._world.chance.one_of((("up", "kube"), ("up", "local"), ("down", "")))
            code = await self.ask("state", victim, *word, box=box, bound_s=STATE_S)
            self._world.promises.forged(box, victim, code)

    # ---- units ----------------------------------------------------------------------------------

    def has_unit(self, feature: str) -> bool:
        """Whether systemd has a unit of the feature."""
        return feature in self.units

    def look(self, feature: str) -> UnitLook:
        """What systemd does with the feature's unit."""
        unit = self.units.get(feature)
        if unit is None:
            return UnitLook(UnitPhase.UNTOLD)
        if unit.ending is not None and not unit.ending.done():
            return UnitLook(UnitPhase.ENDING)
        if unit.life is None or unit.life.done():
            return UnitLook(UnitPhase.ENDED, unit.ended_at)
        return UnitLook(UnitPhase.RUNS)

    def start_unit(self, feature: str) -> None:
        """systemctl start."""
        unit = self.units[feature]
        unit.wanted = True
        if unit.life is None or unit.life.done():
            unit.life = self._world.spawn(self._unit(unit))

    def follow(self, feature: str, box: Box) -> None:
        """The unit is up, and its main process is another program's, which waits for this container."""
        unit = self.units[feature]
        unit.wanted = True
        unit.life = self._world.spawn(self._follow(unit, box))

    async def _follow(self, unit: Unit, box: Box) -> None:
        await box.over.wait()
        await self._verb(unit, "stop")
        await asyncio.sleep(RESTART_SEC)
        unit.restarts += 1
        await self._unit(unit)

    def stop_unit(self, feature: str, verb: str = "stop") -> None:
        """systemctl stop; `verb` kill: what reboot scripts do besides."""
        unit = self.units[feature]
        unit.wanted = False
        self._end(unit, verb)

    def restart_unit(self, feature: str) -> None:
        """systemctl restart --no-block."""
        self._world.chance.tell("systemd", f"restart {feature}")
        unit = self.units[feature]
        unit.wanted = True
        self._end(unit, "stop")
        unit.life = self._world.spawn(self._unit(unit))

    def power_off(self) -> None:
        """Every unit's processes are gone."""
        for unit in self.units.values():
            for task in (unit.life, unit.ending):
                if task is not None:
                    task.cancel()
            unit.life = unit.ending = unit.ended_at = None
            unit.last_verb, unit.unheard = "", False

    def _end(self, unit: Unit, verb: str) -> None:
        if unit.life is not None:
            unit.life.cancel()
        before, unit.life = unit.ending, None
        unit.ending = self._world.spawn(self._ended(unit, verb, before))

    async def _ended(self, unit: Unit, verb: str, before: asyncio.Task[None] | None) -> None:
        """One job at a time."""
        if before is not None and not before.done():
            await asyncio.wait([before])
        started = unit.last_verb == "start" and not unit.unheard
        if verb == "stop" and started and self._world.chance.drawn(Fault.SCRIPT_SILENT, 0.4, unit.feature):
            await self._ended_silently(unit)
        else:
            await self._verb(unit, verb)
        unit.ended_at = self._world.boottime()

    async def _ended_silently(self, unit: Unit) -> None:
        """The script has found no container by docker ps; only the unit's ExecStopPost says that it ends.

        Where no daemon hears that, the next one asks systemd; which unit it is stands in the ledger alone.
        """
        self._world.promises.asked(unit, "stop")
        life = self._world.life
        code = await self._ask_once(
            ("unit-ended", unit.feature), None, f"{unit.feature}.service", lambda: None
        )
        heard = code is not None and self._world.life is life
        forgets = (Fault.LEDGER_LOST, Fault.FILE_UNWRITABLE, Fault.DISK_FULL, Fault.LEDGER_SLOW)
        unit.unheard = not heard and any(fault in self._world.chance.armed for fault in forgets)

    async def _unit(self, unit: Unit) -> None:
        """Start, wait, and again: Restart=always."""
        if unit.ending is not None and not unit.ending.done():
            await asyncio.wait([unit.ending])
        while unit.wanted:
            if self._world.engine.local(unit.feature) is None:
                await asyncio.sleep(0.3)
                if unit.feature in self._world.engine.pruned:
                    # Its script fails, so its ExecStart does not run.
                    await asyncio.sleep(RESTART_SEC)
                    unit.restarts += 1
                    continue
                if self._world.engine.local(unit.feature) is None and unit.feature in self._world.creates:
                    self._world.engine.create(unit.feature, Owner.LOCAL)
            code = await self._verb(unit, "start")
            if code == protocol.EXIT_DONE:
                code = await self._wait(unit)
                self._world.chance.tell("systemd", f"{unit.feature}: wait returned {code}")
                if code == protocol.EXIT_DONE:
                    await self._verb(unit, "stop")
            await asyncio.sleep(RESTART_SEC)
            unit.restarts += 1

    async def _verb(self, unit: Unit, verb: str) -> int:
        name = unit.feature
        request = {"start": (), "stop": ("",), "kill": ()}[verb]
        if verb == "kill":
            request = (self._world.chance.one_of(SIGNALS), self._world.chance.one_of(("", "1")))
        self._world.promises.asked(unit, verb)
        self._world.chance.tell("systemd", f"{name}: container {verb} {' '.join(request)}".rstrip())
        code = await self.ask(verb, name, *request, unit=f"{name}.service", bound_s=VERB_S)
        unit.unheard = code is None
        if code is None:
            code = await self._without_daemon(unit, verb)
        self._world.chance.tell("systemd", f"{name}: container {verb} returns {code}")
        self._world.promises.done(unit, verb, code)
        return code

    async def _wait(self, unit: Unit) -> int:
        since = asyncio.get_running_loop().time()
        while True:
            code = await self.ask("wait", unit.feature)
            if code is not None:
                self._world.promises.wait_returned(unit, code, since)
                return code
            if not self._kube_knows(unit.feature):
                box = self._world.engine.local(unit.feature)
                if box is None or not box.runs:
                    return 1
                await box.over.wait()
                return box.code or 0

    async def _without_daemon(self, unit: Unit, verb: str) -> int:
        """Plain docker on the name, where the ledger names no kube container (spec section 4)."""
        if self._kube_knows(unit.feature):
            return protocol.EXIT_UNAVAILABLE
        box = self._world.engine.local(unit.feature)
        if not self._world.engine.up or box is None:
            return protocol.EXIT_FAILED
        self._world.chance.tell("systemd", f"{unit.feature}: no daemon: docker {verb}")
        if verb == "start":
            self._world.engine.start(box)
        else:
            await self._world.engine.stop(box, 10.0 if verb == "stop" else 0.0)
        return protocol.EXIT_DONE

    def _kube_knows(self, feature: str) -> bool:
        """Whether the ledger has a part of Kubernetes in this feature, as clients/client.py reads it."""
        try:
            entry: dict[str, Any] = json.loads(self._world.ledger_file.data or b"")["features"][feature]
        except (ValueError, LookupError):
            return False
        config, record = entry.get("config", {}), entry.get("record", {})
        local_only = config.get("always_local") or config.get("local_only")
        return bool(record.get("grant")) or (config.get("set_owner") == "kube" and not local_only)
