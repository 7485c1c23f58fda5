"""Apply what docs/ tells a person to put on an image to files of SONiC's shape, and use the result.

The files here are our own writing. They have the parts that matter of: the template of the control scripts (one
function per verb; Jinja picks the plain docker calls of `database`), the template of the image's build, SONiC's monit,
and the script of warm and fast reboots.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import jinja2
import pytest
import yaml
from click.testing import CliRunner

from kubesyncd.cli.root import root
from kubesyncd.settings import check as check_settings
from tests.paths import ROOT
from tests.unit.docs.snippets import LIMIT_S, apply, diff_of, lint, snippets

if TYPE_CHECKING:
    from pathlib import Path

CTL = r"""#!/bin/bash
{%- if docker_container_name == "database" %}
link_namespace() {
    PID="$(docker inspect -f {{"'{{.State.Pid}}'"}} "${DOCKERNAME}")"
}
{%- endif %}
function postStartAction()
{
{%- if docker_container_name == "swss" %}
    docker exec swss$DEV touch /ready
{%- else %}
    : # nothing
{%- endif %}
    "$LIBC/update-containers" ${DOCKERNAME} &
}

start() {
    DOCKERCHECK=`docker inspect --type container ${DOCKERNAME} 2>/dev/null`
    if [ "$?" -eq "0" ]; then
        {%- if docker_container_name == "database" %}
        docker start ${DOCKERNAME}
        {%- else %}
        $LOCAL_BIN/container start ${DOCKERNAME}
        {%- endif %}
        postStartAction
        exit $?
    fi
    {%- if docker_container_name == "database" %}
    DB_OPT=" -v /var/run/redis-chassis:/var/run/redis-chassis:ro "
    {%- endif %}
    docker create {{docker_image_run_opt}} \
{%- if docker_container_name != "dhcp_server" %}
        --net=$NET \
{%- endif %}
        -e RUNTIME_OWNER=local \
{%- if docker_container_name == "database" %}
        $DB_OPT \
{%- else %}
        -v /var/run/redis-chassis:/var/run/redis-chassis:ro \
        -v /usr/share/sonic/device/$PLATFORM:/usr/share/sonic/platform:ro \
{%- endif %}
        --name=$DOCKERNAME \
        {{docker_image_name}}:latest \
        || {
            echo "Failed to docker run" >&1
            exit 4
    }
    {%- if docker_container_name == "database" %}
    docker start $DOCKERNAME
    {%- else %}
    $LOCAL_BIN/container start ${DOCKERNAME}
    {%- endif %}
    postStartAction
}

wait() {
    {%- if docker_container_name == "database" %}
    docker wait $DOCKERNAME
    {%- else %}
    $LOCAL_BIN/container wait $DOCKERNAME
    {%- endif %}
}

stop() {
    {%- if docker_container_name == "database" %}
    docker stop $DOCKERNAME
    {%- else %}
    container_id=$(docker ps --filter "name=$DOCKERNAME" --quiet)
    if [ -z "$container_id" ]; then
        echo "No such container: $DOCKERNAME"
    else
    {%- if docker_container_name == "teamd" %}
        $LOCAL_BIN/container stop -t 60 $DOCKERNAME
    {%- else %}
        $LOCAL_BIN/container stop $DOCKERNAME
    {%- endif %}
    fi
    {%- endif %}
}

kill() {
    {%- if docker_container_name == "database" %}
    docker kill $DOCKERNAME
    {%- else %}
    $LOCAL_BIN/container kill $DOCKERNAME
    {%- endif %}
}

DOCKERNAME={{docker_container_name}}
DEV=$2
DOCKERNAME=$DOCKERNAME$DEV
NET="host"
case "$1" in
    start|wait|stop|kill)
        $1
        ;;
esac
"""
BUILD = r"""#!/bin/bash
set -x -e
install_deb_package() {
    echo "installed $*" >>"$FILESYSTEM_ROOT/calls"
}
{% if include_kubernetes == "y" %}
sudo touch $FILESYSTEM_ROOT/usr/local/bin/container
{% else %}
sudo cp ${files_path}/container $FILESYSTEM_ROOT/usr/local/bin/
{% endif %}

# Copy the buffer configuration template
sudo cp $BUILD_TEMPLATES/buffers_config.j2 $FILESYSTEM_ROOT_USR_SHARE_SONIC_TEMPLATES/

# Copy the qos configuration template
sudo cp $BUILD_TEMPLATES/qos_config.j2 $FILESYSTEM_ROOT_USR_SHARE_SONIC_TEMPLATES/
"""
FAST_REBOOT = r"""#!/bin/bash -e
REBOOT_TYPE=$(basename $0)
TAG_LATEST=${TAGS:-yes}
function clear_boot()
{
    /sbin/kexec -u -a || /bin/true
    echo "cleared"
}
case "$REBOOT_TYPE" in
    "warm-reboot")
        [ -z "$MELLANOX" ] || REBOOT_TYPE="fastfast-reboot"
        trap clear_boot EXIT HUP INT QUIT TERM
        ;;
    *)
        trap clear_boot EXIT HUP INT QUIT TERM
        ;;
esac
if test -f /usr/local/bin/ctrmgr_tools.py
then
    if [[ x"${TAG_LATEST}" == x"yes" ]]; then
        /usr/local/bin/ctrmgr_tools.py tag-all
    fi
fi
[ -z "$GIVEN_UP" ] || exit 21
set +e
trap '' EXIT HUP INT QUIT TERM
for service in lldp snmp; do
    echo "stop $service"
done
"""
# Which kinds of blocks a person applies, and the test here, or elsewhere, that does the same.
APPLIED = {
    ("sonic.md", "diff"): "below; tests/unit/packaging/test_yang.py",
    ("sonic.md", "ini"): "below",
    ("sonic.md", "console"): "below; tests/system/test_installed_life.py",
    ("migrate.md", "console"): "tests/system/test_installed_life.py",
    ("reboot.md", "sh"): "below: its line is that of sonic.md",
    ("failure.md", "sh"): "below",
    ("features.md", "yaml"): "tests/unit/services/test_definition.py",
    ("features.md", "toml"): "tests/unit/services/test_definition.py",
    ("features.md", "json"): "tests/unit/services/test_definition.py",
    ("fleet.md", "sh"): "tests/system/test_fleet_docs.py",
    ("fleet.md", "yaml"): "tests/system/test_fleet_docs.py",
    ("images.md", "yaml"): "below",
    ("security.md", "toml"): "below",
}
MONITRC = "set daemon 60\nset idfile {0}/id\nset statefile {0}/state\nset pidfile {0}/pid\n"
FEATURES = ("database", "snmp", "swss", "teamd", "dhcp_server")


def test_every_block_that_a_person_applies_has_a_test() -> None:
    assert {(one.page, one.language) for one in snippets() if one.language} == set(APPLIED)


# ---- the template of the control scripts ----------------------------------------------------------


class Doubles:
    """`docker` and `container` that write down their words; `docker` knows what the files beside it say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self._add("container")
        self._add(
            "docker", f'case "$1" in inspect) [ -e {folder}/exists ] ;; ps) cat {folder}/running ;; esac'
        )
        self._add("update-containers")
        (folder / "running").write_text("")

    def _add(self, name: str, does: str = "") -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{does}\n')
        program.chmod(0o755)

    def run(self, script: Path, *words: str) -> list[str]:
        """What the script calls, but for what is still going on in the background."""
        self.calls.write_text("")
        environ = {"PATH": f"{self.folder}:/usr/bin:/bin", "LOCAL_BIN": str(self.folder), "PLATFORM": "p"}
        environ["LIBC"] = str(self.folder)
        subprocess.run(
            ["bash", str(script), *words], env=environ, capture_output=True, timeout=LIMIT_S, check=True
        )
        return [line for line in self.calls.read_text().splitlines() if not line.startswith("update-")]


@pytest.fixture
def doubles(tmp_path: Path) -> Doubles:
    folder = tmp_path / "doubles"
    folder.mkdir()
    return Doubles(folder)


def control_script(tmp_path: Path, feature: str) -> Path:
    """A feature's script, of the template that the guide's diff has changed."""
    file = tmp_path / "files/build_templates/docker_image_ctl.j2"
    file.parent.mkdir(parents=True)
    file.write_text(CTL)
    apply(diff_of("sonic.md", "docker_image_ctl.j2"), tmp_path, 1)
    template = jinja2.Template(file.read_text(), keep_trailing_newline=True)
    script = tmp_path / f"{feature}.sh"
    image = {"docker_image_name": f"docker-{feature}", "docker_image_run_opt": "--privileged -t"}
    script.write_text(template.render(docker_container_name=feature, **image))
    return script


@pytest.mark.parametrize("feature", FEATURES)
def test_the_mount_is_in_each_script_but_the_databases(
    tmp_path: Path, doubles: Doubles, feature: str
) -> None:
    script = control_script(tmp_path, feature)
    lint(script)
    called = doubles.run(script, "start")
    (created,) = (line for line in called if line.startswith("docker create"))
    assert created.endswith(f"--name={feature} docker-{feature}:latest")
    mounted = "-v /run/kubesyncd/container:/run/kubesyncd/container " in created
    assert mounted == (feature != "database")
    starter = "docker" if feature == "database" else "container"
    assert f"{starter} start {feature}" in called


def test_the_script_with_the_mount_does_all_else_as_before(tmp_path: Path, doubles: Doubles) -> None:
    script = control_script(tmp_path, "teamd")
    (doubles.folder / "exists").touch()
    assert doubles.run(script, "start") == ["docker inspect --type container teamd", "container start teamd"]
    assert doubles.run(script, "wait") == ["container wait teamd"]
    assert doubles.run(script, "kill", "0") == ["container kill teamd0"]
    assert doubles.run(script, "stop") == ["docker ps --filter name=teamd --quiet"], "systemd says the rest"
    (doubles.folder / "running").write_text("0123456789ab\n")
    assert doubles.run(script, "stop")[-1] == "container stop -t 60 teamd"


# ---- the build of an image ------------------------------------------------------------------------


@pytest.mark.parametrize("kubernetes", ["y", "n"])
def test_an_image_build_installs_the_package_and_the_link(tmp_path: Path, kubernetes: str) -> None:
    file = tmp_path / "files/build_templates/sonic_debian_extension.j2"
    file.parent.mkdir(parents=True)
    file.write_text(BUILD)
    apply(diff_of("sonic.md", "sonic_debian_extension.j2"), tmp_path, 1)
    script = tmp_path / "build.sh"
    script.write_text(jinja2.Template(file.read_text()).render(include_kubernetes=kubernetes))
    lint(script)

    image, templates, programs = (tmp_path / name for name in ("image", "templates", "programs"))
    for folder in (image / "usr/local/bin", templates, programs, tmp_path / "shared"):
        folder.mkdir(parents=True)
    for name in ("buffers_config.j2", "qos_config.j2", "container"):
        (templates / name).touch()
    # chroot has nothing to disable where the image is built without Kubernetes.
    (programs / "chroot").write_text(f'#!/bin/sh\necho "chroot $*" >>{image}/calls\n[ {kubernetes} = y ]\n')
    (programs / "sudo").write_text('#!/bin/sh\n[ "$1" != LANG=C ] || shift\nexec "$@"\n')
    for name in ("chroot", "sudo"):
        (programs / name).chmod(0o755)
    environ = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "FILESYSTEM_ROOT": str(image),
        "FILESYSTEM_ROOT_USR_SHARE_SONIC_TEMPLATES": str(tmp_path / "shared"),
        "BUILD_TEMPLATES": str(templates),
        "files_path": str(templates),
        "debs_path": "target/debs/bookworm",
    }
    subprocess.run(["bash", str(script)], env=environ, capture_output=True, timeout=LIMIT_S, check=True)
    assert (image / "usr/local/bin/container").readlink().as_posix() == "/usr/bin/container"
    calls = (image / "calls").read_text()
    debs = (f"target/debs/bookworm/{name}_*+deb12_*.deb" for name in ("kubesyncd", "kubesyncd-kube"))
    assert f"installed {' '.join(debs)}\n" in calls
    assert f"chroot {image} systemctl disable ctrmgrd.service" in calls
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"buffers_config.j2", "qos_config.j2"}


# One folder with every package that `make deb` has made.
BUILT = [
    f"{name}_0.1.0+{release}_{arch}.deb"
    for release in ("deb12", "deb13")
    for name, arch in (("kubesyncd", "amd64"), ("kubesyncd-kube", "all"))
]


def test_each_name_of_a_package_to_install_is_that_of_one_debian_release() -> None:
    pages = [one.text for one in snippets()] + [(ROOT / "README.md").read_text()]
    lines = [
        line for text in pages for line in text.splitlines() if re.search(r"(dpkg -i|install_deb)", line)
    ]
    assert len(lines) > 2
    for line in lines:
        named = [word.rpartition("/")[2] for word in line.split() if word.endswith(".deb")]
        found = [name for pattern in named for name in fnmatch.filter(BUILT, pattern)]
        assert found == BUILT[:2], line


def test_a_running_switch_keeps_the_program_that_the_link_replaces(tmp_path: Path) -> None:
    """The guide has one sequence, and typing it again loses nothing."""
    forced = [one.text for one in snippets(language="console") if re.search(r"ln -\w*f", one.text)]
    assert forced == [], "only an image build replaces the program for good"
    (block,) = (one.text for one in snippets(language="console") if "/usr/bin/container " in one.text)
    steps = [line[2:] for line in block.splitlines() if "/usr/local/bin/container" in line]
    (tmp_path / "container").write_text("theirs")
    for _ in range(2):
        for step in steps:
            command = ["sh", "-c", step.replace("/usr/local/bin", str(tmp_path))]
            subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
        assert (tmp_path / "container").readlink().as_posix() == "/usr/bin/container"
        assert (tmp_path / "container.ctrmgrd").read_text() == "theirs"


def test_the_yang_diff_applies_on_a_switch_by_the_command_beside_it(tmp_path: Path) -> None:
    (command,) = (
        line for one in snippets("sonic.md", "console") for line in one.text.splitlines() if "patch" in line
    )
    level = re.fullmatch(r"# patch -d /usr/local/yang-models -p(\d) < \S+", command)
    assert level is not None
    model = tmp_path / "sonic-feature.yang"
    model.write_text('\n    prefix feature;\n\n                key "name";\n')
    apply(diff_of("sonic.md", "sonic-feature.yang"), tmp_path, int(level[1]))
    assert "import sonic-kubesyncd" in model.read_text()


# ---- units, monit, reboots, and the rest ----------------------------------------------------------


def test_the_drop_in_of_the_guide_is_what_the_generator_writes(tmp_path: Path) -> None:
    units, made = tmp_path / "units", tmp_path / "made"
    units.mkdir()
    (units / "snmp.service").write_text("[Service]\nExecStart=/usr/local/bin/snmp.sh wait\n")
    subprocess.run(
        [str(ROOT / "packaging/systemd/kubesyncd-features"), str(made)],
        env={"PATH": "/usr/bin:/bin", "KUBESYNCD_UNIT_FOLDERS": str(units)},
        timeout=LIMIT_S,
        check=True,
    )
    (shown,) = snippets("sonic.md", "ini")
    assert shown.text == (made / "snmp.service.d/20-kubesyncd.conf").read_text()


@pytest.mark.real("monit")
def test_monit_accepts_the_check_of_the_guide(tmp_path: Path) -> None:
    (check,) = (one.text for one in snippets("sonic.md", "") if one.text.startswith("check program"))
    program = check.split('"')[1].split()[0]
    ours = ROOT / "packaging/lib" / program.removeprefix("/usr/lib/kubesyncd/")
    check = check.replace(program, str(ours))
    control = tmp_path / "monitrc"
    for text, accepted in ((check, True), (check.replace("status != 0", "status is bad"), False)):
        control.write_text(MONITRC.format(tmp_path) + text)
        control.chmod(0o600)
        command = ["monit", "-t", "-c", str(control)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert (ended.returncode == 0) is accepted, ended.stdout + ended.stderr


def reboot(
    tmp_path: Path, word: str, code: int = 0, *, tools: bool = True, **environ: str
) -> tuple[int, list[str]]:
    """The exit code and the output of a reboot script with the guide's diff; `kubesync reboot` returns this code.

    `tools`: the image has ctrmgrd's tools.
    """
    file = tmp_path / "scripts/fast-reboot"
    file.parent.mkdir()
    file.write_text(FAST_REBOOT)
    apply(diff_of("sonic.md", "fast-reboot"), tmp_path, 1)
    lint(file)
    script = file.rename(file.with_name(word))
    theirs = tmp_path / "ctrmgr_tools.py"
    script.write_text(script.read_text().replace("/usr/local/bin/ctrmgr_tools.py", str(theirs)))
    if tools:
        theirs.write_text('#!/bin/sh\necho "tools $*"\n')
        theirs.chmod(0o755)
    kubesync = tmp_path / "kubesync"
    kubesync.write_text(f'#!/bin/sh\necho "kubesync $*"\n[ "$3" = --undo ] || exit {code}\n')
    kubesync.chmod(0o755)
    environ |= {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["bash", str(script)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return ended.returncode, ended.stdout.splitlines()


UNDONE = ["kubesync reboot prepare --undo", "cleared"]


@pytest.mark.parametrize("word", ["warm-reboot", "fast-reboot", "express-reboot"])
def test_the_reboot_script_prepares_before_any_service_stops(tmp_path: Path, word: str) -> None:
    assert reboot(tmp_path, word) == (0, [f"kubesync reboot prepare {word}", "stop lldp", "stop snmp"])


@pytest.mark.parametrize("tags", ["yes", "no"])
@pytest.mark.parametrize("tools", [True, False])
def test_the_reboot_script_prepares_whatever_becomes_of_ctrmgrds_tags(
    tmp_path: Path, *, tools: bool, tags: str
) -> None:
    code, lines = reboot(tmp_path, "warm-reboot", tools=tools, TAGS=tags)
    assert (code, lines[0]) == (0, "kubesync reboot prepare warm-reboot")
    assert not any(line.startswith("tools") for line in lines)


def test_the_reboot_script_passes_the_word_that_it_has_decided_on(tmp_path: Path) -> None:
    _, lines = reboot(tmp_path, "warm-reboot", MELLANOX="y")
    assert lines[0] == "kubesync reboot prepare fastfast-reboot"


def test_a_preparation_that_fails_ends_the_reboot(tmp_path: Path) -> None:
    assert reboot(tmp_path, "warm-reboot", 1) == (1, ["kubesync reboot prepare warm-reboot", *UNDONE])


def test_a_reboot_that_is_given_up_takes_the_preparation_back(tmp_path: Path) -> None:
    code, lines = reboot(tmp_path, "fast-reboot", GIVEN_UP="y")
    assert (code, lines) == (21, ["kubesync reboot prepare fast-reboot", *UNDONE])
    accepted(UNDONE[0])


def test_the_page_about_reboots_shows_that_line() -> None:
    (hook,) = (one.text for one in snippets("reboot.md", "sh") if "reboot prepare" in one.text)
    (line,) = (line for line in hook.splitlines() if "reboot prepare" in line)
    assert re.fullmatch(r'kubesync reboot prepare "\$\{?REBOOT_TYPE(%-reboot)?\}?" \|\| exit 1', line)


def accepted(line: str) -> None:
    """Check that `kubesync` has a command with these words and options; it is not carried out."""
    words = [word for word in line.split() if word != "sudo"][1:]
    ended = CliRunner().invoke(root, [*words, "--help"])
    assert ended.exit_code == 0, f"{line}: {ended.output}"


def test_every_command_of_ours_in_a_block_exists() -> None:
    lines = [
        re.split(r"\s{2,}#|\s\|\|?\s|;", line.lstrip("#$ "))[0]
        for one in snippets()
        if one.page not in ("operators.md", "host.md")
        for line in one.text.splitlines()
        if re.match(r"[#$ ]*(?:sudo )?kubesync ", line)
    ]
    assert len(lines) > 5
    for line in lines:
        accepted(line.replace('"${REBOOT_TYPE%-reboot}"', "warm").replace('"$REBOOT_TYPE"', "warm"))


def test_the_health_check_is_a_valid_script(tmp_path: Path) -> None:
    (check,) = snippets("failure.md", "sh")
    script = tmp_path / "snmp.port"
    script.write_text(check.text)
    lint(script)


def test_the_kubelets_settings_are_yaml_of_the_kubelets_types() -> None:
    for one in snippets("images.md", "yaml"):
        settings = yaml.safe_load(one.text)
        assert settings["imageGCLowThresholdPercent"] < settings["imageGCHighThresholdPercent"] <= 100
        assert all(isinstance(value, str) for value in settings["evictionHard"].values())


def test_a_table_for_kubesyncds_settings_is_one_that_it_accepts() -> None:
    tables = [one for one in snippets() if one.language == "toml"]
    assert len(tables) > 1
    for one in tables:
        assert check_settings(tomllib.loads(one.text), one.page).valid()
