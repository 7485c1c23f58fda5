"""Check that the script checker finds the calls that miss a container of Kubernetes, and reports no others.

The scripts here are our own, in the shape of SONiC's: a control script per feature from one Jinja template, the
services' scripts around it, update-containers, the reboot scripts, and Python programs that ask Docker.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.cli.rules.script_text import LINE_CHARS_MAX
from kubesyncd.cli.rules.scripts import (
    ANY,
    ASKED,
    AT_START,
    LISTED,
    TAGGED,
    UNTAGGED,
    WAITED,
    Features,
    check_script,
)
from kubesyncd.cli.scripts import FOLDERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.operator import Operator

LEFT = [
    ("docker start snmp", "container start ..."),
    ('    docker stop "$DOCKERNAME"', "container stop ..."),
    ("/usr/bin/docker kill pmon &>/dev/null", "container kill ..."),
    ('docker kill ${SERVICE}$DEV &> /dev/null || debug "Docker is not running"', "container kill ..."),
    ("sudo docker exec -i swss supervisorctl status", "container exec ..."),
    ("sudo -E /usr/local/bin/docker wait lldp", "container wait ..."),
    ("docker container inspect snmp", "container inspect ..."),
    ("PID=$(docker inspect -f '{{.State.Pid}}' \"${DOCKERNAME}\")", "container inspect ..."),
    ("RUNNING=$(docker inspect -f '{{.State.Running}}' ${peer}$DEV)", "container inspect ..."),
    ("[ -f x ] && docker exec teamd rm -f /ready", "container exec ..."),
    ("while docker exec -i teamd$DEV pgrep teamd > /dev/null; do", "container exec ..."),
    ("[ -f x ] && \\\n  /usr/bin/docker exec -i syncd$DEV /bin/sync", "container exec ..."),
    ("docker -H unix:///run/docker.sock kill bgp", "container kill ..."),
    (
        'STATE=$(timeout 1s docker exec $name echo ok; if [[ $? == 124 ]]; then echo "late"; fi)',
        "container exec",
    ),
    ('echo "now: $(docker exec snmp date)"', "container exec ..."),
    ('save_cmd "docker exec syncd saidump" "saidump"', "container exec ..."),
    ('local cmd="docker exec syncd mrvlcmd -c \\"$1\\""', "container exec ..."),
    ("${CMD_PREFIX}docker exec $container_name mkdir -p /x", "container exec ..."),
    ("x=`docker exec -i pmon ls /usr/bin 2>/dev/null`", "container exec ..."),
    ("docker-rs wait snmp", "container wait NAME"),
    ("docker-wait-any -s swss -d syncd", WAITED),
    ("/usr/bin/docker-wait-any-rs -s ${SERVICE}$DEV -d ${PEER} ${ALL_DEPS}", WAITED),
    ("docker restart telemetry", "systemctl restart NAME"),
    ("docker rm -f snmp", "container stop NAME first"),
    ("docker cp x.json swss:/", "docker cp with $(container id NAME)"),
    ("docker cp $FILE ${DOCKERNAME}:/etc/rsyslog.conf", "docker cp with $(container id NAME)"),
    ("docker logs snmp > x", "docker logs $(container id NAME)"),
    ("docker top syncd$DEV | grep -q syncd", "docker top $(container id NAME)"),
    ("docker stats --no-stream snmp", "docker stats $(container id NAME)"),
    ("docker port gnmi", "docker port $(container id NAME)"),
    ("docker diff gnmi", "docker diff $(container id NAME)"),
    ("docker commit gnmi new:1", "docker commit $(container id NAME)"),
    ("docker update --memory 1g gnmi", "docker update $(container id NAME) ...; limits"),
    ("docker rename gnmi old", "nothing: kubesyncd knows a local container"),
    ("id=$(/bin/docker ps -aqf 'name=^snmp$')", LISTED),
    ('[ -n "$(docker ps -q --filter "name=^/${NAME}$" --filter "status=running")" ]', LISTED),
    ("/bin/docker exec -i bgp vtysh", "container exec ..."),
    ("docker --log-level error exec bgp vtysh", "container exec ..."),
    ("docker stop database snmp", "container stop ..."),
    ('x="$(docker exec -i bgp vtysh -c "show ip bgp")"', "container exec ..."),
    ('echo "x" && docker stop snmp', "container stop ..."),
    ('trap "docker stop $NAME" EXIT', "container stop ..."),
    ("nsenter -t $(docker inspect -f '{{.State.Pid}}' $name) -n", "container inspect ..."),
    ("if ! docker exec ${NAME:-snmp} true; then", "container exec ..."),
    ("cat > /usr/bin/x.sh <<EOF\ndocker stop snmp\nEOF", "container stop ..."),
    ("sudo bash <<'EOF'\ndocker stop snmp\nEOF", "container stop ..."),
    ("python3 -c \"subprocess.run(['docker', 'stop', 'snmp'])\"", "container stop ..."),
]
LEFT_IN_PYTHON = [
    ('subprocess.run(["docker", "exec", name, "ls"])', "container exec ..."),
    ('subprocess.run(("sudo", "/usr/bin/docker", "kill", "pmon"))', "container kill ..."),
    ("proc = Popen(['docker','inspect',name])", "container inspect ..."),
    ("os.system('docker stop snmp')", "container stop ..."),
    ('run(f"docker exec {name} ls")', "container exec ..."),
    ("COMMAND = 'docker inspect {} --format \"{{{{.State}}}}\"'", "container inspect ..."),
    ("container = client.containers.get(name)", ASKED),
    ('run(["/usr/local/bin/ctrmgr_tools.py", "tag-all"])', UNTAGGED),
    ("os.system('ctrmgr_tools.py tag -f snmp')", UNTAGGED),
]
FINE = [
    "# docker start snmp",
    "true  # docker start snmp",
    "docker start snmp  # docker is meant",
    "docker create --name snmp docker-snmp:latest",
    "docker inspect --type image docker-snmp:latest",
    "docker inspect docker-snmp:latest",
    'docker inspect --format "{{.Id}}" "$IMAGE"',
    "docker inspect --type container snmp >/dev/null 2>&1 || docker create --name snmp x",
    "docker rm -f snmp\ndocker create --name snmp x",
    "docker network inspect bridge",
    "docker images -q",
    "docker tag a b",
    "docker stats --no-stream",
    'save_cmd "docker ps -a" "docker.ps"',
    "systemctl stop docker",
    "systemctl restart docker.service",
    "container exec snmp ls",
    'docker exec "$(container id snmp)" ls',
    "id=$(container id snmp)\ndocker logs $id",
    "for each in $(docker ps -aq); do\ndocker exec -t $each true\ndone",
    "for each in $(docker ps --format '{{.Names}}'); do docker logs $each; done",
    "all=$(docker ps -q)\nfor each in $all; do\n docker exec ${each} true &\ndone",
    "my-docker start snmp",
    "echo docker_start",
    'echo "docker start failed"',
    'debug "Killing Docker ${SERVICE}: docker kill snmp"',
    'logger -p user.err "docker stop snmp failed" && true',
    "cat <<EOF\nusage: docker exec snmp\nEOF",
    "cat <<EOF >&2\nusage: docker exec snmp\nEOF",
    "x {# docker exec snmp #}",
    "docker stop database 2>/dev/null",
    'save_cmd "docker logs database" "docker.database.log"',
    "docker inspect $(docker ps -q)",
    'systemctl stop "$NAME"; docker kill "$NAME"',
    "alias down='docker-compose exec snmp true'",
    "docker info",
    "docker ps",
    "docker ps -f status=running",
    'if docker ps -q --filter "name=snmp" | grep -q .; then',
    "docker ps -q --format '{{.Names}}' | grep -f name=snmp",
    "/opt/bin/docker-exec name",
    "docker system prune",
    "/usr/bin/dockerd start",
    "docker exec -i database$DEV pgrep -x redis",
    "docker kill database-chassis",
    "docker cp dump.rdb database0:/var/lib/redis/",
    "docker-rs wait database",
    "systemctl stop pmon || true\ndocker kill pmon &> /dev/null || RC=$?",
    "DOCKERNAME=database\ndocker start ${DOCKERNAME}\ndocker wait $DOCKERNAME",
]
FINE_IN_PYTHON = [
    '"""How it differs from docker exec snmp."""',
    'print("docker exec snmp failed")',
    'logger.error("docker stop snmp: {}".format(1))',
    'parser.add_argument("--x", help="as docker exec snmp does")',
    "client = docker.from_env()",
    "docker.DockerClient(base_url='unix://var/run/docker.sock').images.get(image)",
    'client.containers.list(filters={"status": "running"})',
    'client.containers.get("database")',
    'run(["docker", "exec", "database", "true"])',
    'run(["docker", "images"])',
]
# The control script's template: Jinja decides what is `database`'s, which is never Kubernetes'.
TEMPLATE = """#!/bin/bash
{%- if docker_container_name == "database" %}
link() {
    PID="$(docker inspect -f {{"'{{.State.Pid}}'"}} "${DOCKERNAME}")"
}
{%- endif %}
function postStartAction()
{
{%- if docker_container_name == "database" %}
    until [[ $(docker exec -i ${DOCKERNAME} pgrep -c supervisord) -gt 0 ]]; do sleep 1; done
{%- elif docker_container_name == "swss" %}
    docker exec swss$DEV touch /ready # go
{%- else %}
    : # nothing
{%- endif %}
    /etc/resolvconf/update-libc.d/update-containers ${DOCKERNAME} &
}
start() {
    if docker inspect --type container ${DOCKERNAME} 2>/dev/null; then
        {%- if docker_container_name == "database" and platform == "vs" %}
        docker start ${DOCKERNAME}
        {%- else %}
        /usr/local/bin/container start ${DOCKERNAME}
        {%- endif %}
        docker rm -f ${DOCKERNAME}
    fi
    docker create --name=${DOCKERNAME} {{docker_image_name}}:latest
}
wait() {
    {%- if docker_container_name == "database" %}
    docker wait $DOCKERNAME
    {%- else %}
    docker wait $DOCKERNAME
    {%- endif %}
}
stop() {
    container_id=$(docker ps --filter "name=$DOCKERNAME" --quiet)
    if [ -z "$container_id" ]; then
        echo "container stop $DOCKERNAME - docker stop $DOCKERNAME finds none"
    else
        /usr/local/bin/container stop $DOCKERNAME
    fi
}
"""
UPDATE_CONTAINERS = """#!/bin/bash
container_id=$(docker ps -aq -f "name=^$1$")
docker start ${container_id}
docker exec -t $1 true
"""
FAST_REBOOT = """#!/bin/bash
# kexec into another image; warm-reboot is a link
TAG_LATEST=yes
case "$REBOOT_TYPE" in
    "warm-reboot") ;;
esac
if test -f /usr/local/bin/ctrmgr_tools.py
then
    if [[ x"${TAG_LATEST}" == x"yes" ]]; then
        /usr/local/bin/ctrmgr_tools.py tag-all
    fi
fi
container kill lldp
"""
# soft-reboot; upstream's words about an earlier warm one are in it.
SOFT_REBOOT = """#!/bin/bash
TAG_LATEST=yes
function tag_images()
{
    if test -f /usr/local/bin/ctrmgr_tools.py
    then
        if [[ x"${TAG_LATEST}" == x"yes" ]]; then
            /usr/local/bin/ctrmgr_tools.py tag-all
        fi
    fi
}
debug "Cancel warm-reboot: ${result}"
"""
VENDOR_REBOOT = "#!/bin/sh\nctrmgr_tools.py tag -f snmp\nctrmgr_tools.py kill-all\n"


def said(text: str, name: str = "", features: Features = ANY) -> list[tuple[int, str]]:
    return [(call.line, call.instead) for call in check_script(text, name, features)]


@pytest.mark.parametrize(("line", "instead"), LEFT, ids=[line for line, _ in LEFT])
def test_a_call_that_is_left_is_found_with_its_replacement(line: str, instead: str) -> None:
    (call,) = check_script(f"#!/bin/bash\n{line}\n")
    assert call.line in (2, 3)
    assert call.instead.startswith(instead)


@pytest.mark.parametrize(("line", "instead"), LEFT_IN_PYTHON, ids=[line for line, _ in LEFT_IN_PYTHON])
def test_a_call_in_python_is_found_with_its_replacement(line: str, instead: str) -> None:
    (call,) = check_script(f"#!/usr/bin/env python3\n{line}\n")
    assert (call.line, call.text) == (2, line)
    assert call.instead.startswith(instead)


@pytest.mark.parametrize("line", FINE)
def test_a_line_that_needs_no_change_is_passed_over(line: str) -> None:
    assert list(check_script(f"#!/bin/bash\n{line}\n")) == []


@pytest.mark.parametrize("line", FINE_IN_PYTHON)
def test_a_line_of_python_that_needs_no_change_is_passed_over(line: str) -> None:
    assert list(check_script(f"#!/usr/bin/python3\n{line}\n")) == []


def test_python_that_cannot_be_parsed_is_read_line_by_line() -> None:
    old = "#!/usr/bin/python\nprint 'x'\nrun(['docker', 'stop', 'snmp'])\nrun('docker kill snmp')\n"
    assert said(old) == [(3, "container stop ..."), (4, "container kill ...")]


def test_todays_template_needs_no_change_but_for_its_actions_after_the_start() -> None:
    found = said(TEMPLATE)
    assert found == [
        (1 + TEMPLATE[: TEMPLATE.index("docker exec swss")].count("\n"), AT_START),
        (1 + TEMPLATE[: TEMPLATE.rindex("docker wait")].count("\n"), "container wait ..."),
    ]


def test_a_script_that_stops_what_it_lists_needs_no_change() -> None:
    listing = '#!/bin/bash\nif [ -n "$(docker ps -q -f "name=^/${SERVICE}$")" ]; then\n'
    assert said(listing) == [(2, LISTED)]
    assert said(listing + "  /usr/bin/${SERVICE}.sh stop $DEV\nfi\n") == []


def test_update_containers_needs_no_change() -> None:
    assert said(UPDATE_CONTAINERS, "update-containers") == []
    assert said(UPDATE_CONTAINERS, "mine.sh") == [(2, LISTED), (4, "container exec ...")]


def test_each_call_of_ctrmgrds_tool_is_found_by_the_kind_of_reboot() -> None:
    """It removes stopped local containers. Only a warm or fast reboot has to be prepared."""
    assert said(FAST_REBOOT) == [(10, TAGGED)]
    assert said(SOFT_REBOOT) == [(8, UNTAGGED)]
    assert said(VENDOR_REBOOT) == [(2, UNTAGGED), (3, UNTAGGED)]
    assert said("#!/bin/sh\necho ctrmgr_tools.py tag-all\n") == []


def test_a_plain_reboot_that_never_tags_needs_no_change() -> None:
    assert said(SOFT_REBOOT.replace("TAG_LATEST=yes", "TAG_LATEST=no")) == []


def test_features_that_are_always_local_are_passed_over() -> None:
    script = "#!/bin/bash\ndocker exec -i syncd$DEV true\ndocker kill swss\n"
    assert len(said(script)) == 2
    assert said(script, features=Features(frozenset({"database", "swss", "syncd"}))) == []


def test_with_the_docker_front_calls_that_it_carries_need_no_change() -> None:
    script = "#!/bin/bash\ndocker exec snmp ls\n/usr/bin/docker exec snmp ls\ndocker cp x snmp:/\ndocker stop snmp\n"
    assert said(script, features=Features(front=True)) == [
        (3, "container exec ..."),
        (5, "container stop ..."),
    ]


@pytest.mark.parametrize(
    ("kube", "left"), [(None, 2), ((), 0), (("snmp",), 0), (("snmp", "syncd"), 2), (("bgp",), 1)]
)
def test_waiting_for_several_containers_matters_where_kubernetes_owns_one(
    kube: tuple[str, ...] | None, left: int
) -> None:
    script = (
        "#!/bin/bash\nSERVICE=swss\n"
        "docker-wait-any -s ${SERVICE}$DEV -d ${PEER} ${ALL}\ndocker-wait-any-rs -s bgp -d syncd\n"
    )
    owned = None if kube is None else frozenset(kube)
    assert [instead for _, instead in said(script, features=Features(kube=owned))] == [WAITED] * left


def test_calls_come_in_order() -> None:
    script = "start() {\n docker start x\n}\nwait() {\n docker wait x\n}\n"
    assert [call.line for call in check_script(script)] == [2, 5]


@given(st.text(), st.sampled_from(["", "x.py", "x.sh"]))
def test_any_text_is_read_to_its_end(text: str, name: str) -> None:
    for call in check_script(text, name):
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
        "docker start " * 10_000,
        "docker start " + "$(" * 5_000,
        "docker start " + "'\"`" * 5_000,
        "x=\\\n" * 10_000 + "docker start x",
        "a <<E\n" * 5_000,
        "{% if x %}" * 5_000,
    ):
        list(check_script(line))
        list(check_script(line[: 4 * LINE_CHARS_MAX], "x.py"))
    list(check_script("(" * 10_000, "x.py"))
    assert time.process_time() - begun < 10


def folder_of(tmp_path: Path, **scripts: str) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_the_command_prints_each_call_with_its_replacement(bare_terminal: Operator, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, snmp__sh="#!/bin/bash\ndocker stop snmp\n", notes="docker stop snmp\n")
    result = bare_terminal.types(f"doctor --scripts {folder}")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        f"{folder}/snmp.sh:2: docker stop snmp\n    instead: container stop ...\n\n"
    )
    assert "[features] always_local" in result.stdout
    (found,) = json.loads(bare_terminal.types(f"doctor --scripts --json {folder}").stdout)
    assert found == {
        "file": f"{folder}/snmp.sh",
        "line": 2,
        "text": "docker stop snmp",
        "instead": "container stop ...",
    }
    (folder / "snmp.sh").write_text("#!/bin/bash\ncontainer stop snmp\n")
    passed = bare_terminal.types(f"doctor --scripts {folder} --scripts {folder}/snmp.sh")
    assert (passed.exit_code, passed.stdout) == (0, "no docker calls left\n")
    assert bare_terminal.types(f"doctor --scripts {folder}/none").exit_code == 64
    assert bare_terminal.types(f"doctor {folder}").exit_code == 64


def test_backups_replaced_programs_and_kubesyncds_own_are_passed_over_in_a_folder(
    bare_terminal: Operator, tmp_path: Path
) -> None:
    script = "#!/bin/bash\ndocker stop snmp\n"
    folder = folder_of(
        tmp_path,
        container=script,
        container__ctrmgrd=script,
        **{"snmp__sh__kubesyncd-0.3": script, "snmp__sh__dpkg-old": script, "snmp__sh~": script},
        kubesync=script,
        ctrmgr_tools__py="#!/usr/bin/python3\nos.system('docker stop x')\n",
    )
    (folder / "gone").symlink_to(folder / "nothing")
    assert bare_terminal.types(f"doctor --scripts {folder}").exit_code == 0
    assert bare_terminal.types(f"doctor --scripts {folder}/container.ctrmgrd").exit_code == 1


def test_the_command_knows_what_kubernetes_owns(bare_terminal: Operator, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, swss="#!/bin/bash\ndocker-wait-any-rs -s swss -d syncd\n")
    bare_terminal.configure("FEATURE|snmp", set_owner="kube")
    assert bare_terminal.types(f"doctor --scripts {folder}").exit_code == 0
    bare_terminal.configure("FEATURE|syncd", set_owner="kube")
    assert "keep each feature that it names local" in bare_terminal.types(f"doctor --scripts {folder}").stdout


def test_a_script_with_several_names_is_read_once(bare_terminal: Operator, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, fast_reboot="#!/bin/bash\ndocker kill pmon\n")
    (folder / "warm-reboot").symlink_to("fast_reboot")
    assert bare_terminal.types(f"doctor --scripts {folder}").stdout.count("instead") == 1


@pytest.mark.parametrize("name", [*FOLDERS, "/usr/share/sonic/device/x86_64-dell/pre_reboot_hook"])
def test_without_a_path_every_place_of_sonics_scripts_is_read(bare_terminal: Operator, name: str) -> None:
    assert {"/usr/bin", "/usr/sbin", "/usr/local/bin", "/etc/resolvconf/update-libc.d"} <= set(FOLDERS)
    root = bare_terminal.folder / "root"
    bare_terminal.write_settings(more=f'[paths]\ninstall_root = "{root}"\n')
    machine = root / "host/machine.conf"
    machine.parent.mkdir(parents=True)
    machine.write_text("onie_version=1\nonie_platform=x86_64-dell\n")
    is_file = name.endswith((".local", ".j2", "hook"))
    script = root / name[1:] if is_file else root / name[1:] / "mine"
    other = root / "usr/share/sonic/device/another/pre_reboot_hook"
    for file in (script, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/bash\ndocker stop snmp\n")
    (found,) = json.loads(bare_terminal.types("doctor --scripts --json").stdout)
    assert found["file"] == str(script)
