"""Check that no input breaks a reader, or the daemon behind its sockets."""

from __future__ import annotations

import asyncio
import resource
import subprocess
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from kubesyncd.api.connections import CONNECTIONS_MAX
from kubesyncd.api.messages import Role
from kubesyncd.api.peer import Peer
from kubesyncd.api.server import REQUEST_S_MAX
from kubesyncd.core import protocol
from kubesyncd.core.model import Owner, Timing
from kubesyncd.core.protocol import REQUEST_BYTES_MAX
from tests.sim.chance import Chance
from tests.sim.switch import World
from tests.tools import fuzz, fuzz_guided
from tests.unit.core.given import FALLBACK
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any


INPUTS, MANY_INPUTS = 10_000, 100_000
PATIENCE_S = 180.0
IDLE = 2000


@pytest.mark.parametrize(
    "inputs",
    [
        INPUTS,
        pytest.param(MANY_INPUTS, marks=pytest.mark.deep),
    ],
)
def test_every_reader_accepts_or_refuses_every_input(inputs: int) -> None:
    assert sum(count for _, count in fuzz.fuzz(inputs, seed=1)) >= inputs * 0.99


@pytest.mark.parametrize(
    "deep", [b"- " * 5000, b"[" * 100_000, b'{"a":' * 20_000, b"[" * 20_000 + b"]" * 20_000]
)
def test_every_reader_accepts_or_refuses_nested_brackets(tmp_path: Path, deep: bytes) -> None:
    for target in fuzz.targets(tmp_path):
        fuzz.tried(target, deep)
        for seed in target.seeds:
            fuzz.tried(target, seed.replace(b'"snmp"', deep).replace(b"snmp", deep))


def test_a_reader_with_an_undocumented_error_is_found() -> None:
    fragile = fuzz.Target("a fragile one", (b"1\n",), int, (OverflowError,))
    with pytest.raises(fuzz.Finding, match=r"a fragile one raises ValueError\("):
        fuzz.tried(fragile, b"one")


def test_a_reader_that_keeps_what_it_reads_is_found() -> None:
    kept: list[bytes] = []
    hoarder = fuzz.Target("a hoarder", (b"x",), lambda data: kept.append(data * (1 << 14)))
    with pytest.raises(fuzz.Finding, match="a hoarder has left"):
        fuzz._leaves_nothing(hoarder, (bytes([n % 256]) * 8 for n in range(1000)), 100)


def test_a_reader_that_needs_much_for_a_moment_is_found() -> None:
    glutton = fuzz.Target("a glutton", (b"x",), lambda data: len(bytearray(fuzz.PEAK_BYTES_MAX + (8 << 20))))
    frugal = fuzz.Target("a frugal one", (b"x",), len)
    with pytest.raises(fuzz.Finding, match="a glutton has needed 7"), fuzz.peak_watched(glutton):
        fuzz._leaves_nothing(glutton, iter([b"x", b"x"]), 1)
    with fuzz.peak_watched(frugal):
        fuzz._leaves_nothing(frugal, iter([b"x", b"x"]), 1)


@pytest.mark.parametrize(
    ("code", "said", "good"),
    [
        (0, "Done 12 runs in 1 second(s)", True),
        (0, "stat::number_of_executed_units: 12", True),
        (0, "nothing of the kind", False),
        (0, "Done 0 runs in 1 second(s)", False),
        (77, "Done 12 runs in 1 second(s)", False),
        (-9, "", False),
    ],
)
def test_a_guided_run_that_ends_badly_or_tried_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, good: bool
) -> None:
    ended = subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(fuzz_guided.subprocess, "run", lambda *_, **__: ended)
    assert fuzz_guided.main(["--keep", str(tmp_path)]) == (0 if good else 1)


# ---- the daemon behind its sockets ---------------------------------------------------------------


@dataclass
class Listening:
    """The real server on real sockets, over simulated engines."""

    world: World
    peers: dict[Role, Peer]
    paths: dict[Role, Path]
    open: list[asyncio.Task[Any]]

    async def ask(self, *request: str, role: Role = Role.HOST) -> int | None:
        """An honest client's exit code."""
        return await self.send([protocol.encode_request(list(request))], role)

    async def send(self, pieces: list[bytes], role: Role = Role.HOST) -> int | None:
        """What the daemon answers to these pieces: a code, or None where it just closes."""
        reader, writer = await asyncio.open_unix_connection(self.paths[role])
        try:
            with suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if len(pieces) > 1:
                        await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE_S):
                with suppress(ConnectionError):
                    return protocol.decode_reply(await reader.read())[1]
                return None
        finally:
            writer.close()


@asynccontextmanager
async def listening(folder: Path, timing: Timing) -> AsyncIterator[Listening]:
    loop = asyncio.get_running_loop()
    chance = Chance(Random(1), loop.time)
    chance.calm = True
    world = World(1, chance, {"snmp": FALLBACK, "lldp": None}, timing)
    box = world.engine.create("snmp", Owner.LOCAL)
    # `id` is the honest client's question, and has an answer only where something runs.
    world.engine.start(box)
    world.start_daemon()
    await until_async(lambda: world.life is not None and world.life.server is not None)
    served: list[asyncio.Task[Any]] = []
    server = world.life.server
    peers = {Role.HOST: Peer(1, 0, 0, None), Role.CONTAINER: Peer(1, 0, 0, box.id)}
    paths = {role: folder / f"{role.value}.sock" for role in Role}
    listeners = []
    for role in Role:

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: Role = role
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            served.append(task)
            task.add_done_callback(served.remove)
            server._identify = lambda _: peers[role]
            await server.serve(role, reader, writer)

        path = str(paths[role])
        listeners.append(await asyncio.start_unix_server(serve, path, limit=REQUEST_BYTES_MAX, backlog=1024))
    try:
        yield Listening(world, peers, paths, served)
    finally:
        for listener in listeners:
            listener.close()
        world.kill_daemon()
        left = [*world.tasks, *served]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


GARBAGE = {
    "nothing but a newline": b"\n",
    "no version": b"id\0snmp\n",
    "an unknown version": b"9\0id\0snmp\n",
    "an unknown verb": b"1\0explode\0snmp\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL only": b"\0" * 100 + b"\n",
    "bad UTF-8": b"1\0id\0\xff\xfe\n",
    "too long": b"1\0id\0" + b"x" * 5000 + b"\n",
    "one MiB without a newline": b"x" * (1 << 20),
    "too many arguments": b"1\0id" + b"\0a" * 70 + b"\n",
    "a name that is a path": b"1\0start\0../../etc/passwd\n",
    "a name with a bar": b"1\0start\0a|b\n",
    "a huge number": b"1\0stop\0snmp\0" + b"9" * 1000 + b"\n",
    "a terminal's escape": b"1\0start\0\x1b[2J\n",
}


@pytest.mark.parametrize("role", Role)
async def test_garbage_is_answered_or_closed_and_other_clients_are_not_affected(
    tmp_path: Path, role: Role
) -> None:
    async with listening(tmp_path, Timing()) as daemon:
        for what, data in GARBAGE.items():
            code = await daemon.send([data], role)
            assert code in (None, protocol.EXIT_USAGE, protocol.EXIT_NOT_ALLOWED), what
            assert await daemon.ask("id", "snmp") == protocol.EXIT_DONE, what
            assert daemon.world.failures == [], what


async def test_a_user_of_the_host_can_call_no_container_unhealthy(tmp_path: Path) -> None:
    async with listening(tmp_path, Timing()) as daemon:
        said = ("state", "snmp", "unhealthy", "x")
        assert await daemon.ask(*said, role=Role.CONTAINER) == protocol.EXIT_DONE, "the container itself may"
        daemon.peers[Role.CONTAINER] = Peer(1, 1000, 1000, None)
        assert await daemon.ask(*said, role=Role.CONTAINER) == protocol.EXIT_NOT_ALLOWED


async def test_a_request_split_at_every_byte_is_one_request(tmp_path: Path) -> None:
    request = protocol.encode_request(["id", "snmp"])
    async with listening(tmp_path, Timing()) as daemon:
        for cut in range(1, len(request)):
            assert await daemon.send([request[:cut], request[cut:]]) == protocol.EXIT_DONE
        assert await daemon.send([bytes([byte]) for byte in request]) == protocol.EXIT_DONE


@pytest.mark.slow("waits for a deadline of the product")
async def test_mutated_requests_are_answered_or_closed(tmp_path: Path) -> None:
    rng = Random(3)
    seeds = tuple(
        protocol.encode_request(w)
        for w in (["id", "snmp"], ["state", "snmp"], ["show"], ["cluster"], ["label", "a=b"])
    )
    async with listening(tmp_path, Timing()) as daemon:
        for _ in range(500):
            data = fuzz.mutated(rng, seeds)
            # What ends without a newline is waited for; that is the next test's.
            await daemon.send(
                [data if b"\n" in data else data + b"\n"],
                Role.HOST if rng.random() < 0.95 else Role.CONTAINER,
            )
        assert await daemon.ask("id", "snmp") == protocol.EXIT_DONE
        assert daemon.world.failures == []


@pytest.mark.slow("waits for a deadline of the product")
async def test_two_thousand_silent_connections_on_one_socket_do_not_block_the_other(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} files may be open here, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    grown = []
    async with listening(tmp_path, Timing()) as daemon:
        for _ in range(3):
            idle = [await asyncio.open_unix_connection(daemon.paths[Role.CONTAINER]) for _ in range(IDLE)]
            assert len(daemon.open) <= CONNECTIONS_MAX + 1
            assert await daemon.ask("id", "snmp") == protocol.EXIT_DONE
            async with asyncio.timeout(PATIENCE_S + REQUEST_S_MAX):
                # Each of them is asked to say something within REQUEST_S_MAX, or is let go.
                for reader, writer in idle:
                    await reader.read()
                    writer.close()
            await until_async(lambda: not daemon.open)
            assert await daemon.ask("state", "snmp", "up", "local", role=Role.CONTAINER) == protocol.EXIT_DONE
            grown.append(fuzz.resident_bytes())
        assert daemon.world.failures == []
    # Each flood finds the memory that the first one needed; what a process has by chance comes but once.
    assert min(after - before for before, after in pairwise(grown)) < fuzz.LEFT_BYTES_MAX
