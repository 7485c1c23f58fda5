"""Check that the script checker finds docker calls that bypass kubesyncd, and reports no others."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.cli.rules.scripts import LINE_CHARS_MAX, REPLACED, check_script
from tests.paths import ROOT

GUIDE = ROOT / "docs/sonic.md"

LEFT = [
    ("docker start snmp", "container start ..."),
    ('    docker stop "$DOCKERNAME"', "container stop ..."),
    ("/usr/bin/docker kill pmon &>/dev/null", "container kill ..."),
    ("sudo docker exec -i swss supervisorctl status", "container exec ..."),
    ("sudo -E /usr/local/bin/docker wait lldp", "container wait ..."),
    ("docker container inspect snmp", "container inspect ..."),
    ("PID=$(docker inspect -f '{{.State.Pid}}' \"${DOCKERNAME}\")", "container inspect ..."),
    ("[ -f x ] && docker exec teamd rm -f /ready", "container exec ..."),
    ("docker -H unix:///run/docker.sock kill bgp", "container kill ..."),
    ("docker-rs wait snmp", "container wait NAME"),
    ("docker-wait-any -s swss -d syncd", "container wait NAME"),
    ("/usr/bin/docker-wait-any-rs -s swss", "container wait NAME"),
    ("docker restart telemetry", "container stop NAME && container start NAME, or systemctl restart NAME"),
    ("docker cp x.json swss:/", "docker cp with $(container id NAME)"),
    (
        'if docker ps -q --filter "name=snmp" | grep -q .; then',
        "container id NAME (fails where there is none)",
    ),
    ('if [ "$(docker ps -f name=snmp)" ]; then', "container id NAME (fails where there is none)"),
    ("id=$(/bin/docker ps -aqf 'name=^snmp$')", "container id NAME (fails where there is none)"),
    ("/usr/bin/docker ps -q -f=name=snmp", "container id NAME (fails where there is none)"),
    ('docker container ls -qf "name=$DEV"', "container id NAME (fails where there is none)"),
    ("/bin/docker exec -i bgp vtysh", "container exec ..."),
    ("sudo /bin/docker stop snmp", "container stop ..."),
    ('subprocess.run(["docker", "exec", name, "ls"])', "container exec ..."),
    ("proc = Popen(['docker','inspect',name])", "container inspect ..."),
    ("client = docker.from_env()", "ask for the container by the ID"),
    ("container = client.containers.get(name)", "ask for the container by the ID"),
]
FINE = [
    "# docker start snmp",
    "docker start snmp  # docker is meant",
    "docker create --name snmp docker-snmp:latest",
    "docker inspect --type image docker-snmp:latest",
    "docker inspect --type container snmp >/dev/null 2>&1 || docker create --name snmp x",
    "docker network inspect bridge",
    "docker images -q",
    "docker tag a b",
    "systemctl stop docker",
    "systemctl restart docker.service",
    "container exec snmp ls",
    "my-docker start snmp",
    "echo docker_start",
    "docker info",
    "docker ps",
    "docker ps -f status=running",
    "docker ps -q --format '{{.Names}}' | grep -f name=snmp",
    "/opt/bin/docker-exec name",
    "docker system prune",
    "/usr/bin/dockerd start",
]


@pytest.mark.parametrize(("line", "instead"), LEFT, ids=[line for line, _ in LEFT])
def test_a_call_that_is_left_is_found_with_what_to_write(line: str, instead: str) -> None:
    found = list(check_script(f"#!/bin/bash\n{line}\n"))
    (call,) = found
    assert call.line == 2
    assert call.text == line.strip()
    assert call.instead.startswith(instead)


@pytest.mark.parametrize("line", FINE)
def test_what_is_fine_is_passed_over(line: str) -> None:
    assert list(check_script(line)) == []


def test_the_guide_replaces_every_call_and_leaves_none() -> None:
    diffs = re.findall(r"```diff\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    lines = [line for diff in diffs for line in diff.splitlines()]
    before = "\n".join(line[1:] for line in lines if line.startswith(("-", " ")))
    after = "\n".join(line[1:] for line in lines if line.startswith(("+", " ")))
    found = {
        call.instead.split()[1] for call in check_script(before) if call.instead.startswith("container ")
    }
    assert found >= set(REPLACED)
    assert list(check_script(after)) == []


def test_calls_come_in_order() -> None:
    script = "start() {\n docker start x\n}\nwait() {\n docker wait x\n}\n"
    assert [call.line for call in check_script(script)] == [2, 5]


@given(st.text())
def test_any_text_is_read_to_its_end(text: str) -> None:
    for call in check_script(text):
        assert call.line >= 1
        assert call.instead


def test_a_hostile_line_takes_no_time() -> None:
    begun = time.process_time()
    for line in (
        "docker " + "-x " * 10_000,
        "sudo " * 10_000 + "docker",
        "docker " + "-c " * 10_000,
        "docker ps " * 10_000,
        "docker ps" + " -f" * 10_000,
        "docker ps -" + "q" * 10_000,
        " " * 100_000 + "docker start",
    ):
        list(check_script(line[: 4 * LINE_CHARS_MAX]))
    assert time.process_time() - begun < 5
