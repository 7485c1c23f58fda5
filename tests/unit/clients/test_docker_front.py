"""Check that the front for docker replaces the names of features that Kubernetes runs, and changes nothing else.

The daemon is the stub of test_client.py, docker a stand-in that notes its arguments.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core import protocol
from tests.paths import CLIENTS
from tests.unit.clients.test_client import CLIENT, DONE, HOLD, ID, LIMIT_S, Switch, ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN_BY_KUBE = {"snmp": ID, "lldp": "1" * 64}


def load_front() -> Any:
    """The module beside client.py, which imports it by this name."""
    spec = importlib.util.spec_from_file_location("docker_front", CLIENTS / "docker_front.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("client")
    sys.modules["client"] = CLIENT
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules["client"]
        else:
            sys.modules["client"] = before
    return module


FRONT = load_front()


def changed(line: str) -> str:
    """What docker is given for these words."""
    return " ".join(FRONT.replaced(line.split(), lambda name: RUN_BY_KUBE.get(name, "")))


# %: snmp, which is replaced; @: lldp. What stays as it is has neither.
CHANGED = [
    "exec % id",
    "exec -it % bash",
    "exec -ti % snmp",
    "exec -itu root % id",
    "exec -uroot % id",
    "exec -u root -w / % id",
    "exec -w / % id",
    "exec --workdir / --user root % id",
    "exec --workdir=snmp % id",
    "exec -e snmp % id",
    "exec -e A=1 --env snmp --env-file snmp % env",
    "exec --detach-keys snmp % id",
    "exec -d --privileged --interactive --tty % id",
    "exec -- % id -u",
    "exec % snmp -e snmp --user snmp snmp:x",
    "inspect %",
    "inspect -f snmp %",
    "inspect --format=snmp % @",
    "inspect % -f snmp @",
    "inspect -sf snmp % pmon",
    "inspect -s -- % -f @",
    "cp %:/etc/snmp/snmpd.conf .",
    "cp -a /tmp/snmp %:/tmp/",
    "cp -L %:/snmp:1 snmp",
    "cp - %:/tmp",
    "cp -aq ./snmp:1 %:/tmp",
    "cp %:/x @:/x",
    "logs %",
    "logs -f --tail 5 %",
    "logs -n snmp % --since snmp",
    "logs --until=snmp -ft %",
    "top % -o pid,snmp",
    "stats --no-stream % @",
    "stats --format snmp % pmon @",
    "stats -a --no-trunc %",
    "port % 161/udp",
    "diff %",
    "export -o snmp %",
    "export --output=snmp %",
    "attach --detach-keys snmp --no-stdin %",
    "container exec -it % bash",
    "container inspect -f snmp %",
    "container cp %:/x .",
    "container logs %",
    "-D exec % id",
    "--debug -l snmp exec % id",
    "--log-level=debug container top %",
    "-lsnmp logs %",
]
UNCHANGED = [
    "",
    "snmp",
    "exec",
    "exec -it",
    "exec pmon snmp",
    "exec 0123456789ab id",
    f"exec {'2' * 64} snmp",
    "inspect --type container snmp",
    "inspect --type=image snmp",
    "inspect snmp --type container",
    "cp snmp pmon",
    "cp ./snmp:x /snmp:y",
    "create --name snmp snmp",
    "run --name snmp --net container:snmp snmp",
    "rm -f snmp",
    "start snmp",
    "stop -t 5 snmp",
    "restart snmp",
    "kill snmp",
    "pause snmp",
    "wait snmp",
    "rename snmp lldp",
    "update --restart=no snmp",
    "ps --filter name=snmp",
    "images snmp",
    "tag snmp lldp",
    "container rm -f snmp",
    "container start snmp",
    "container ls",
    "container",
    "image inspect snmp",
    "network inspect snmp",
    "-H tcp://192.0.2.1 exec snmp id",
    "-Htcp://192.0.2.1 exec snmp id",
    "--host=tcp://192.0.2.1 exec snmp id",
    "-c other logs snmp",
    "--context other logs snmp",
    "--config /etc/docker logs snmp",
    "--tls inspect snmp",
    "-D",
    "-l",
    "--version",
]


@pytest.mark.parametrize("line", CHANGED)
def test_the_name_is_replaced_wherever_docker_expects_a_container(line: str) -> None:
    typed = line.replace("%", "snmp").replace("@", "lldp")
    assert changed(typed) == line.replace("%", RUN_BY_KUBE["snmp"]).replace("@", RUN_BY_KUBE["lldp"])


@pytest.mark.parametrize("line", UNCHANGED)
def test_everything_else_is_docker_s_own(line: str) -> None:
    assert changed(line) == line


@pytest.mark.parametrize(
    ("variable", "value", "here"),
    [
        ("DOCKER_HOST", "tcp://192.0.2.1:2375", False),
        ("DOCKER_HOST", "unix:///var/run/docker.sock", True),
        ("DOCKER_HOST", "", True),
        ("DOCKER_CONTEXT", "other", False),
        ("DOCKER_CONTEXT", "default", True),
    ],
)
def test_another_engine_is_left_alone(
    variable: str, value: str, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FRONT.posix.environ, variable.encode(), value.encode())
    assert changed("exec snmp id") == (f"exec {ID} id" if here else "exec snmp id")


@pytest.mark.parametrize(
    ("config", "environ", "here"),
    [
        ('{"auths": {}, "currentContext": "remote"}', {}, False),
        ('{"currentContext": "remote"}', {"DOCKER_HOST": "unix:///var/run/docker.sock"}, True),
        ('{"currentContext": "remote"}', {"DOCKER_CONTEXT": "default"}, True),
        ('{"currentContext": "default"}', {}, True),
        ('{"currentContext": ""}', {}, True),
        ('{"auths": {}}', {}, True),
        ('{"currentContext"', {}, False),
        (None, {}, True),
    ],
)
@pytest.mark.parametrize("home", [True, False])
def test_the_context_that_docker_uses_by_itself_is_left_alone(
    front: Switch, tmp_path: Path, config: str | None, environ: dict[str, str], here: bool, home: bool
) -> None:
    folder = tmp_path / (".docker" if home else "docker-config")
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    front.env |= environ | ({"HOME": str(tmp_path)} if home else {"DOCKER_CONFIG": str(folder)})
    front.host.start(protocol.out(ID) + DONE)
    assert run(front, "exec", "snmp", "id") == (0, "", "")
    assert front.said_to("docker") == ["exec", ID if here else "snmp", "id"]


@pytest.mark.parametrize("words", ["ps", "exec snmp ls", "exec pmon ls", "start snmp"])
def test_without_docker_every_command_has_the_code_of_a_missing_one(front: Switch, words: str) -> None:
    front.host.start(protocol.out(ID) + DONE)
    front.env["KUBESYNCD_DOCKER"] = "/nonexistent"
    assert run(front, *words.split()) == (127, "", "docker: /nonexistent cannot be run; reinstall docker\n")


WORDS = st.sampled_from(
    ["exec", "inspect", "cp", "container", "snmp", "snmp:/x", "-it", "-e", "--", "-", "--x=", "-l"]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=5)), max_size=8))
def test_no_command_line_loses_or_gains_a_word(args: list[str]) -> None:
    found = FRONT.replaced(list(args), lambda name: "7" * 64 if name == "snmp" else "")
    assert [word.replace("7" * 64, "snmp") for word in found] == args
    assert FRONT.replaced(list(args), lambda _name: "") == args


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Switch]:
    """A place where the front stands before docker, and is as patient as a busy machine needs."""
    place = Switch(tmp_path, sys.executable)
    place.env["KUBESYNCD_DOCKER"] = str(place.bin / "docker")
    patient = tmp_path / "patient"
    patient.mkdir()
    for name in ("client.py", "docker_front"):
        shutil.copy(CLIENTS / name, patient)
    code, line = (CLIENTS / "docker_front.py").read_text(), f"\nANSWER_S = {FRONT.ANSWER_S} "
    assert code.count(line) == 1
    (patient / "docker_front.py").write_text(code.replace(line, f"\nANSWER_S = {LIMIT_S} "))
    place.env["KUBESYNCD_CLIENTS"] = str(patient)
    yield place
    place.host.stop()


def run(place: Switch, *args: str, program: Path = CLIENTS / "docker") -> tuple[int, str, str]:
    ended = subprocess.run(
        [str(program), *args], env=place.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_docker_gets_the_id_and_its_code_is_returned(front: Switch) -> None:
    front.host.start(protocol.out(ID) + DONE, protocol.out(ID) + DONE, DONE)
    front.env["DOCKER_RC"] = "42"
    assert run(front, "exec", "-it", "snmp", "sh", "-c", "a  b; $c") == (42, "", "")
    assert front.said_to("docker") == ["exec", "-it", ID, "sh", "-c", "a  b; $c"]
    assert run(front, "inspect", "snmp", "pmon", "snmp:latest") == (42, "", "")
    assert front.said_to("docker") == ["inspect", ID, "pmon", "snmp:latest"]
    assert front.host.requests == [["resolve", name, "kube"] for name in ("snmp", "snmp", "pmon")]


def test_through_a_link_standard_input_and_odd_bytes_reach_docker(front: Switch, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(CLIENTS / "docker")
    front.host.start(protocol.out(ID) + DONE)
    front.stand_in("docker", 'printf "%s|" "$@"; cat')
    ended = subprocess.run(
        [os.fsencode(link), b"exec", b"-i", b"snmp", b"\xff", b""],
        env=front.env, input=b"typed", capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ended.stdout == b"exec|-i|" + ID.encode() + b"|\xff||typed"


@pytest.mark.parametrize(
    "reply",
    [
        protocol.err("container: snmp: busy") + protocol.result(75),
        DONE,
        b"A 1\n",
        b"",
        b"O " + b"x" * 9000,
        b"O ../x\nR 0\n",
        b"\xff\xfe\nR 0\n",
        HOLD,
    ],
    ids=["refused", "local", "busy", "ended", "endless", "no ID", "nonsense", "silent"],
)
def test_whatever_the_daemon_says_docker_is_run(front: Switch, reply: bytes) -> None:
    front.host.start(reply)
    front.env["KUBESYNCD_CLIENTS"] = str(CLIENTS)
    assert run(front, "exec", "snmp", "id") == (0, "", "")
    assert front.said_to("docker") == ["exec", "snmp", "id"]


def test_a_daemon_that_hangs_delays_all_names_of_a_command_by_one_deadline(
    front: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(front.host.path))
        frozen.listen(1)
        monkeypatch.setattr(CLIENT, "HOST_SOCK", str(front.host.path).encode())
        names = FRONT.Names()
        assert [names(name) for name in ("snmp", "lldp", "pmon")] == ["", "", ""]
        assert names.left_s() == 0.001


@pytest.mark.parametrize("left", ["no socket", "no listener", "no client"])
def test_without_the_daemon_or_its_client_docker_is_run_as_typed(front: Switch, left: str) -> None:
    if left == "no listener":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(front.host.path))
    if left == "no client":
        front.host.start(protocol.out(ID) + DONE)
        front.env["KUBESYNCD_CLIENTS"] = "/nonexistent"
    assert run(front, "exec", "snmp", "id") == (0, "", "")
    assert front.said_to("docker") == ["exec", "snmp", "id"]


def test_other_commands_ask_nothing(front: Switch) -> None:
    front.host.start()
    for args in (
        ["rm", "-f", "snmp"],
        ["start", "snmp"],
        ["ps"],
        ["create", "--name", "snmp", "x"],
        ["exec"],
    ):
        assert run(front, *args) == (0, "", "")
        assert front.said_to("docker") == args
    assert front.host.requests == []


def test_a_front_in_docker_s_place_is_an_error_and_no_loop(front: Switch) -> None:
    front.env["KUBESYNCD_DOCKER"] = str(CLIENTS / "docker")
    code, _, err = run(front, "exec", "snmp", "id")
    assert (code, "is this front itself" in err) == (69, True)


def test_container_exec_passes_the_front_by(front: Switch) -> None:
    real = front.root / "real"
    real.mkdir()
    (front.bin / "docker").rename(real / "docker")
    (front.bin / "docker").symlink_to(CLIENTS / "docker")
    front.env.update(PATH=f"{front.bin}:{real}:/usr/bin:/bin", KUBESYNCD_DOCKER="/nonexistent")
    front.host.start(protocol.out(ID) + DONE)
    assert front.run("container", "exec", "snmp", "id") == (0, "", "")
    assert (real / "docker.args").read_text().split() == ["exec", ID, "id"]
    assert front.host.requests == [["resolve", "snmp"]]


@pytest.mark.parametrize("verb", ["wait", "stop"])
def test_a_shell_that_goes_on_with_docker_passes_the_front_by(front: Switch, verb: str) -> None:
    """The removal of the package takes the front away while the shells of waiters begin docker."""
    real = front.root / "real"
    real.mkdir()
    (front.bin / "docker").rename(real / "docker")
    (front.bin / "docker").symlink_to(CLIENTS / "docker")
    front.env.update(PATH=f"{front.bin}:{real}:/usr/bin:/bin", KUBESYNCD_DOCKER="/nonexistent")
    front.ledger.write_text(ledger({"snmp": {"record": {"grant": ID}, "config": {}}}))
    (front.root / "removed").touch()
    assert front.run("container", verb, "snmp")[0] == (3 if verb == "wait" else 0)
    assert (real / "docker.args").read_text().split()[0] == ("wait" if verb == "wait" else "ps")
