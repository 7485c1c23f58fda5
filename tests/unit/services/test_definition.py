"""Check a service's generated files, and that every dangerous description is refused."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.services import catalog, definition
from kubesyncd.services.definition import InvalidService, ServiceFile, ServiceSpec, parse, service
from kubesyncd.settings import check as check_settings
from tests.paths import GOLDEN, ROOT

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN = GOLDEN / "service"

FULL = b"""
name: tap
description: Mirrors 5% of all flows
requires: [swss, syncd]
dependents: telemetry
pre-start: ["modprobe tap", [/bin/sh, -c, 'echo "a $HOME" >/tmp/x; exit 0']]
post_start: /usr/bin/true
pre_stop: [[/bin/echo, "it's over"], "logger -- -n 50%"]
post_stop: ["/bin/rm -f '/tmp/a b'"]
warm-reboot: ["/usr/bin/redis-cli -n 4 set tap 'b c'"]
fast_reboot: ["sync"]
"""


SPECS = pytest.mark.parametrize(
    "spec", [service("tap"), service("tap", ["swss", "syncd"]), parse(FULL)], ids=["plain", "two", "full"]
)

# Names that try to be paths, options, units or another program's syntax.
BAD_NAMES = ("", ".", "..", "../etc", "/etc/passwd", "-x", "--now", "a/b", "a b", "a\nb", "A", "1a", "a@1", "a.b",
             "é", "a" * 64, "%n")  # fmt: skip


def placed(folder: Path, files: tuple[ServiceFile, ...]) -> dict[str, Path]:
    """The files below `folder`, by their path on a switch."""
    where = {}
    for file in files:
        at = where[file.path] = folder / file.path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(file.content)
        at.chmod(file.mode)
    return where


def needs(program: str) -> str:
    """The program's path; without it the test is skipped, and fails under CI=true."""
    found = shutil.which(program)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"there is no {program}; `make engines` installs it", pytrace=False)
    if found is None:
        pytest.skip(f"there is no {program}; `make engines` installs it")
    return found


# ---- descriptions ---------------------------------------------------------------------------------


def test_a_service_requires_swss_unless_told_otherwise() -> None:
    assert service("tap").requires == ("swss",)
    assert parse(b"name: tap").requires == ("swss",)
    assert service("tap", ["syncd", "bgp.service", "syncd"]).requires == ("syncd", "bgp")
    assert parse(b"{name: tap, requires: []}").requires == ()


def test_keys_may_have_dashes_and_one_text_may_stand_for_a_list() -> None:
    spec = parse(FULL)
    assert spec.dependents == ("telemetry",)
    assert [c.words for c in spec.pre_start] == [
        ("modprobe", "tap"),
        ("/bin/sh", "-c", 'echo "a $HOME" >/tmp/x; exit 0'),
    ]
    assert spec.fast_reboot[0].line == "env sync"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_try_to_be_paths_options_or_units_are_refused(name: str) -> None:
    with pytest.raises(InvalidService, match="name"):
        service(name)
    with pytest.raises(InvalidService, match="name"):
        service("tap", [name])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"name: [", "invalid YAML"),
        (b"\xff", "invalid YAML"),
        (b"- tap", "top level"),
        (b"requires: [swss]", "`name: …` is missing"),
        (b"name: on", "invalid service name"),
        (b"{name: tap, restart: yes}", "unknown key 'restart'; allowed: name"),
        (b"{name: tap, pre-start: [], pre_start: []}", "duplicate key"),
        (b"{name: tap, requires: [tap]}", "cannot depend on itself"),
        (b"{name: tap, requires: [a], dependents: [a]}", "from one of them"),
        (b"{name: tap, requires: {a: b}}", "list"),
        (b'{name: tap, description: "a\\nb"}', "one line"),
        (b"{name: tap, description: 'a\\'}", "one line"),
        (b'{name: tap, pre_start: ["echo \'a"]}', "close it"),
        (b"{name: tap, pre_start: [[echo, 5]]}", "in quotes"),
        (b"{name: tap, pre_start: [[]]}", "1 to 64 words"),
        (b'{name: tap, pre_start: ["a\\nb"]}', ""),
        (b'{name: tap, pre_start: [[/bin/echo, "a\\nb"]]}', "one line"),
        (b"{name: tap, pre_start: [a=b]}", "invalid program"),
        (b"{name: tap, pre_start: [-x]}", "invalid program"),
        (b'{name: tap, pre_start: ["$(reboot)"]}', "invalid program"),
        (b"{name: tap, pre_start: [/usr/../bin/sh]}", "invalid program"),
        (b"{name: tap, pre_start: [./x]}", "not in the package"),
        (b"{name: tap, pre_start: [[[a]]]}", "invalid word"),
        (b"name: tap\n" + b"# " * 40_000, "at most 65536"),
        (b"[" * 5_000, "invalid YAML"),
    ],
)
def test_a_bad_description_is_refused_with_the_reason(text: bytes, said: str) -> None:
    if not said:
        assert parse(text).pre_start[0].words == ("a", "b")
        return
    with pytest.raises(InvalidService) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_nested_aliases_are_refused_without_expanding_them() -> None:
    layers = "\n".join(
        f"{chr(97 + i)}: &{chr(97 + i)} [{', '.join([f'*{chr(96 + i)}'] * 9)}]" for i in range(1, 26)
    )
    with pytest.raises(InvalidService):
        parse(f"a: &a [x]\n{layers}\nname: *z".encode())


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_no_bytes_bring_the_parser_down(data: bytes) -> None:
    for text in (data, b"name: tap\n" + data, b"name: tap\npre_start: [" + data + b"]"):
        with contextlib.suppress(InvalidService):
            parse(text)


# ---- files ----------------------------------------------------------------------------------------


def test_the_files_of_a_full_description_are_those_we_have_read() -> None:
    made = definition.files(parse(FULL))
    assert [(file.path, file.mode) for file in made] == [
        ("/usr/local/lib/systemd/system/tap.service", 0o644),
        ("/usr/local/lib/kubesyncd/services/tap.sh", 0o755),
        ("/etc/kubesyncd/hooks/warm-reboot.d/50-tap", 0o755),
        ("/etc/kubesyncd/hooks/fast-reboot.d/50-tap", 0o755),
    ]
    for file in made:
        golden = GOLDEN / file.path.lstrip("/").replace("/", "_")
        if os.environ.get("GOLDEN") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_bytes(file.content)
        assert file.content == golden.read_bytes(), f"{golden}: GOLDEN=write pytest writes it again"


def test_without_commands_for_a_reboot_there_are_no_hooks() -> None:
    assert len(definition.files(service("tap"))) == 2


def test_a_package_s_own_programs_are_run_from_where_they_are_placed() -> None:
    spec = parse(b"{name: tap, pre_start: [./probe --all]}", packaged=frozenset({"probe"}))
    made = {file.path: file for file in definition.files(spec, {"probe": b"#!/bin/sh\n"})}
    assert made["/usr/local/lib/kubesyncd/services/tap/probe"].mode == 0o755
    assert (
        b"run /usr/local/lib/kubesyncd/services/tap/probe --all"
        in made[definition.script_path("tap")].content
    )


@SPECS
def test_scripts_pass_a_shell_linter(spec: ServiceSpec, tmp_path: Path) -> None:
    linter = needs("shellcheck")
    scripts = [str(at) for at in placed(tmp_path, definition.files(spec)).values() if at.suffix != ".service"]
    ended = subprocess.run([linter, *scripts], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout


@SPECS
def test_units_pass_systemd_s_own_check(spec: ServiceSpec, tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    root = tmp_path / "root"
    units = root / "usr/local/lib/systemd/system"
    where = placed(root, definition.files(spec))
    for other in ("swss", "syncd", "telemetry", "kubesyncd", "docker"):
        (units / f"{other}.service").write_text("[Service]\nExecStart=/bin/sleep 1\n")
    for target in ("sonic", "sysinit", "basic", "shutdown"):
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (root / "bin").mkdir()
    shutil.copy(shutil.which("true") or "/bin/true", root / "bin/sleep")
    unit = where[definition.unit_path("tap")]
    ended = subprocess.run(
        [analyze, "verify", "--man=no", f"--root={root}", "--recursive-errors=no", unit.name],
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": "/usr/local/lib/systemd/system"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, ""), ended


# ---- scripts --------------------------------------------------------------------------------------


class Scripted:
    """A service's script, run with a `container` command that only notes what it is asked."""

    def __init__(self, folder: Path, text: bytes, *, container_code: int = 0) -> None:
        self._notes = folder / "notes"
        spec = parse(text)
        self._script = placed(folder / "root", definition.files(spec))[definition.script_path(spec.name)]
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name, code in (("container", container_code), ("note", 0), ("fail", 7)):
            program = self._bin / name
            program.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>"{self._notes}"\nexit {code}\n')
            program.chmod(0o755)

    def run(self, *words: str) -> tuple[int, list[str], str]:
        """Its exit code, what it ran, and what it said."""
        self._notes.write_text("")
        ended = subprocess.run(
            [str(self._script), *words], env={"PATH": f"{self._bin}:{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        return ended.returncode, self._notes.read_text().splitlines(), ended.stderr


def test_start_wait_and_stop_run_their_commands_around_container(tmp_path: Path) -> None:
    script = Scripted(
        tmp_path,
        b"{name: tap, pre_start: [note 1], post_start: ['note 2 \"a  b\"'], pre_stop: [note 3], post_stop: [note 4]}",
    )
    assert script.run("start") == (0, ["note 1", "container start tap", "note 2 a  b"], "")
    assert script.run("wait") == (0, ["container wait tap"], "")
    assert script.run("stop") == (0, ["note 3", "container stop tap", "note 4"], "")
    assert script.run()[0] == 64


def test_a_failing_pre_start_command_keeps_the_container_from_starting(tmp_path: Path) -> None:
    script = Scripted(tmp_path, b"{name: tap, pre_start: [fail now, note never]}")
    assert script.run("start") == (7, ["fail now"], "tap: env fail now ended with code 7\n")


def test_a_failing_post_start_command_stops_what_was_started(tmp_path: Path) -> None:
    script = Scripted(tmp_path, b"{name: tap, post_start: [fail now, note never]}")
    assert script.run("start")[:2] == (7, ["container start tap", "fail now", "container stop tap"])


def test_a_stop_does_all_it_can_and_tells_how_the_container_s_went(tmp_path: Path) -> None:
    script = Scripted(tmp_path, b"{name: tap, pre_stop: [fail now], post_stop: [note 4]}", container_code=75)
    assert script.run("stop")[:2] == (75, ["fail now", "container stop tap", "note 4"])


def test_nothing_in_a_command_is_read_by_a_shell(tmp_path: Path) -> None:
    words = [
        "note",
        "$(touch pwned)",
        "`touch pwned`",
        "a;touch pwned",
        "*",
        "'",
        '"',
        "\\",
        "",
        "-n",
        "&",
        "|",
        ">pwned",
    ]
    script = Scripted(tmp_path, yaml.safe_dump({"name": "tap", "pre_start": [words]}).encode())
    code, ran, _ = script.run("start")
    assert code == 0
    assert ran[0] == "note " + " ".join(words[1:])
    assert not list(tmp_path.rglob("*pwned*"))


@settings(max_examples=60)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20), max_size=5)
)
def test_any_word_reaches_its_program_as_it_is(words: list[str]) -> None:
    command = definition.ServiceCommand(("/bin/echo", *words))
    ended = subprocess.run(
        ["/bin/sh", "-c", command.line.replace("/bin/echo", "/usr/bin/printf '%s\\n'", 1)],
        capture_output=True, timeout=180, check=True,
    )  # fmt: skip
    assert ended.stdout.decode().splitlines() == (words or [""])


# ---- docs -----------------------------------------------------------------------------------------


def test_the_examples_of_the_docs_are_good() -> None:
    text = (ROOT / "docs" / "features.md").read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    (described,) = [parse(body.encode()) for kind, body in blocks if kind == "yaml"]
    assert described.name == "tap"
    (offered,) = [body for kind, body in blocks if kind == "json"]
    found = catalog.parse(offered.replace("…", "a" * 64).encode())
    assert (found.packages[0].version, found.problems) == ("1.3", ())
    (table,) = [tomllib.loads(body) for kind, body in blocks if kind == "toml"]
    assert check_settings(table, "docs/features.md").valid().packages.pubkey
