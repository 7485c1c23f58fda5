"""Check that the docker command and other programs can use the lab's Docker engine as they use Docker.

`tests/contract/test_containers.py` compares its answers with the real engine's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.test_containers import PATIENCE_S, SLOW, Api
from tests.lab.docker_engine import LabDocker
from tests.lab.docker_programs import container_of
from tests.lab.processes import alive
from tests.paths import ROOT
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DOCKER = shutil.which("docker")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LabDocker]:
    async with LabDocker(tmp_path) as lab:
        yield lab


@pytest.fixture
def api(lab: LabDocker) -> Api:
    return Api(lab.socket)


async def docker(lab: LabDocker, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """The docker command's exit code, output and errors."""
    assert DOCKER is not None
    pipe = asyncio.subprocess.PIPE
    command = await asyncio.create_subprocess_exec(
        *(DOCKER, "-H", lab.url, *arguments), stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await asyncio.wait_for(command.communicate(stdin), PATIENCE_S)
    assert command.returncode is not None
    return command.returncode, out.decode().strip(), err.decode().strip()


@pytest.mark.skipif(DOCKER is None, reason="there is no docker command")
class TestTheDockerCommand:
    async def test_it_creates_starts_lists_and_inspects(self, lab: LabDocker) -> None:
        options = ("--name", "snmp", "-l", "a=b", "busybox:lab")
        code, made, _ = await docker(lab, "create", *options, "sleep", "600")
        assert code == 0
        assert await docker(lab, "start", "snmp") == (0, "snmp", "")
        assert await docker(lab, "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}") == (
            0,
            f"{made} snmp",
            "",
        )
        shown = await docker(lab, "inspect", "-f", "{{.Id}} {{.State.Running}} {{.Config.Labels.a}}", "snmp")
        assert shown == (0, f"{made} true b", "")

    async def test_it_stops_kills_and_waits_with_the_containers_code(self, lab: LabDocker, api: Api) -> None:
        snmp = await api.run("snmp", SLOW)
        await api.marked(snmp)
        waiter = asyncio.create_task(docker(lab, "wait", "snmp"))
        stop = asyncio.create_task(docker(lab, "stop", "-t", "300", "snmp"))
        await api.marked(snmp, "$MARK.term")
        await api.mark(snmp, "$MARK.go")
        assert await stop == (0, "snmp", "")
        assert await waiter == (0, "6", "")
        await docker(lab, "start", "snmp")
        assert await docker(lab, "kill", "snmp") == (0, "snmp", "")
        assert await docker(lab, "wait", "snmp") == (0, "137", "")

    async def test_exec_passes_input_output_and_exit_code(self, lab: LabDocker, api: Api) -> None:
        await api.run("snmp")
        program = "cat; echo $MARK; echo oops >&2; exit 7"
        done = await docker(lab, "exec", "-i", "snmp", "sh", "-c", program, stdin=b"hello\n")
        assert done == (7, "hello\nmark-snmp", "oops")

    async def test_its_errors_are_dockers(self, lab: LabDocker) -> None:
        code, _, error = await docker(lab, "stop", "nosuch")
        assert (code, error.splitlines()[0].endswith("No such container: nosuch")) == (1, True)


async def test_every_process_of_a_container_is_known_as_its_own(lab: LabDocker, api: Api) -> None:
    # A program, its child, and a grandchild in a session of its own.
    snmp = await api.run("snmp", ("sh", "-c", "sh -c 'setsid sleep 600 & : >$MARK; wait'; true"))
    await api.marked(snmp)
    first = lab.boxes[snmp].pid
    family = [first, *descendants(first)]

    assert len(family) >= 3
    assert {container_of(lab.folder, pid) for pid in family} == {snmp}
    assert container_of(lab.folder, os.getpid()) is None


async def test_a_program_is_registered_before_it_runs(lab: LabDocker, api: Api) -> None:
    look = "import os, pathlib; print(pathlib.Path('sessions', str(os.getpid())).exists())"
    snmp = await api.run("snmp", (sys.executable, "-IS", "-c", look))
    await api.wait(snmp)

    assert (lab.folder / f"{snmp[:12]}.log").read_text() == "True\n"


async def test_what_a_program_leaves_behind_ends_with_it(lab: LabDocker, api: Api) -> None:
    snmp = await api.run("snmp", ("sh", "-c", "sleep 600 & echo $!; exit 3"))
    await api.wait(snmp)
    left = int((lab.folder / f"{snmp[:12]}.log").read_text())

    await until_async(lambda: not alive(left))
    assert not list((lab.folder / "sessions").iterdir())


async def test_it_runs_as_a_process_of_its_own_until_told_to_end(tmp_path: Path) -> None:
    socket = tmp_path / "docker.sock"
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.lab.docker_engine", str(socket)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert engine.stdout is not None
    assert await asyncio.wait_for(engine.stdout.readline(), PATIENCE_S) == f"{socket}\n".encode()
    api = Api(socket)
    snmp = await api.run("snmp")
    _, shown = await api.ask("GET", f"/containers/{snmp}/json")

    engine.terminate()

    assert await asyncio.wait_for(engine.wait(), PATIENCE_S) == 0
    assert not Path(f"/proc/{shown['State']['Pid']}").exists()
    assert not socket.exists()


def descendants(pid: int) -> list[int]:
    """Children and their children, by /proc."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [found for child in children for found in (child, *descendants(child))]
