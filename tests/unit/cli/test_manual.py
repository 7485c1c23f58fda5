"""Do `man` and the shells know every command, from the commands themselves?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from kubesyncd.cli.manual import every_page, roff
from kubesyncd.cli.root import root
from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.operator import Operator


DAY = "2025-11-23"
HAND_WRITTEN = ROOT / "packaging" / "man"
BACKSLASH = "\\"
# Pages of other packages.
OTHERS = {"docker.1", "systemctl.1"}


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{path}-{name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{path}-{name}")


def test_every_command_has_a_page_and_every_page_has_its_parts() -> None:
    pages = dict(every_page(root, DAY))
    assert set(pages) == {"kubesync", *(name for name, _ in commands(root, "kubesync"))}
    for name, text in pages.items():
        for part in (".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXIT STATUS", ".SH SEE ALSO"):
            assert part in text, name


def test_every_command_says_in_a_few_words_what_it_does() -> None:
    for name, command in commands(root, "kubesync"):
        assert command.help, name
        assert command.get_short_help_str(63)[-1:] not in ("", ","), name


def test_no_sentence_of_a_help_ends_in_dots(bare_terminal: Operator) -> None:
    groups = [name for name, command in commands(root, "kubesync") if isinstance(command, click.Group)]
    for group in ("kubesync", *groups):
        said = bare_terminal.types(
            " ".join([*group.split("-")[1:], "-h"]).replace("feature table", "feature-table")
        )
        assert said.exit_code == 0, said.output
        assert "..." not in said.stdout, group
        assert all(len(line) <= 80 for line in said.stdout.splitlines())


def test_a_group_that_takes_names_tells_both_forms() -> None:
    page = dict(every_page(root, DAY))["kubesync-config-feature"]
    assert "[owner local|kube]" in page
    assert "failmode: minutes without a kube" in page


def test_the_pages_are_written_into_a_folder(bare_terminal: Operator) -> None:
    folder = bare_terminal.folder / "man"
    result = bare_terminal.types(f"man {folder}")
    assert result.exit_code == 0
    assert (folder / "kubesync-show-feature.1").exists()
    assert bare_terminal.types("man /proc/nowhere").exit_code == 1


@pytest.mark.skipif(shutil.which("man") is None, reason="no man on this machine")
def test_man_renders_every_page_without_a_complaint(bare_terminal: Operator) -> None:
    folder = bare_terminal.folder / "man"
    bare_terminal.types(f"man {folder}")
    for page in sorted(folder.iterdir()):
        shown = rendered(page)
        assert shown.stderr == "", page
        assert "EXIT STATUS" in shown.stdout, page
    assert "kubesync config feature NAME [owner local|kube]" in " ".join(
        rendered(folder / "kubesync-config-feature.1").stdout.split()
    )


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here; bring it by: make engines")
def test_mandoc_finds_nothing_wrong_with_any_page(bare_terminal: Operator) -> None:
    folder = bare_terminal.folder / "man"
    assert bare_terminal.types(f"man {folder}").exit_code == 0
    ours = [page for page in HAND_WRITTEN.iterdir() if not page.read_text().startswith(".so ")]
    for page in (*sorted(folder.iterdir()), *ours):
        lint = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
        checked = subprocess.run(lint, capture_output=True, text=True, timeout=60, check=False)
        assert (checked.returncode, checked.stdout) == (0, ""), page


def test_a_page_names_only_pages_that_there_are(bare_terminal: Operator) -> None:
    folder = bare_terminal.folder / "man"
    assert bare_terminal.types(f"man {folder}").exit_code == 0
    pages = {page.name for page in (*folder.iterdir(), *HAND_WRITTEN.iterdir())}
    for page in (*folder.iterdir(), *HAND_WRITTEN.iterdir()):
        named = re.findall(r"\\fB([^\n]+?)\\fR\((\d)\)", page.read_text())
        missing = {f"{name.replace(BACKSLASH, '')}.{section}" for name, section in named} - pages - OTHERS
        assert not missing, page


def test_the_pages_of_a_release_tell_its_day(bare_terminal: Operator) -> None:
    folder = bare_terminal.folder / "man"
    ended = bare_terminal.runs("man", str(folder), SOURCE_DATE_EPOCH="86400")
    assert ended.returncode == 0
    assert '"1970-01-02"' in (folder / "kubesync.1").read_text()


def rendered(page: Path) -> subprocess.CompletedProcess[str]:
    command = ["man", "--warnings=all", "-l", "-P", "cat", str(page)]
    environ = {"MANWIDTH": "200", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)


def test_roff_prints_what_looks_like_its_own_commands() -> None:
    assert roff(".so x") == "\\&.so x"
    assert roff("a\\b -y") == "a\\eb \\-y"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_what_makes_it_complete(bare_terminal: Operator, shell: str) -> None:
    said = bare_terminal.types(f"completion {shell}").stdout
    assert f"_KUBESYNC_COMPLETE={shell}_complete" in said


# Each shell is asked by its own means what it would offer after a line, with the completion sourced as the page says.
ASK = {
    "bash": """
eval "$(kubesync completion bash)"
line="$1"; read -ra COMP_WORDS <<< "$line"; [[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ $(complete -p kubesync) == *" -F _kubesync_completion kubesync" ]] || exit 3
_kubesync_completion kubesync
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
autoload -Uz compinit && compinit -D -u
eval "$(kubesync completion zsh)"
[[ $_comps[kubesync] == _kubesync_completion ]] || exit 3
# The two commands by which a completion offers something, outside of a line that is being edited.
compadd() { local -a offered; offered=("${(@P)@[-1]}"); print -rl -- $offered }
_describe() { local -a offered; offered=("${(@P)3}"); print -rl -- ${offered%%:*} }
words=("${(@s: :)1}"); CURRENT=$#words
_kubesync_completion
""",
    "fish": """
kubesync completion fish | source
for each in (complete --do-complete "$argv[1]")
    echo (string split \\t -- $each)[1]
end
""",
}
QUIET = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}


def offered(operator: Operator, shell: str, line: str) -> set[str]:
    """What the shell offers at the end of `line`."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here; bring it by: make engines")
    command = [shell, *QUIET[shell], ASK[shell], *([] if shell == "fish" else [shell]), line]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, **operator.environ, "PATH": path, "HOME": str(operator.folder)}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended
    return set(ended.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_names_and_settings(terminal: Operator, shell: str) -> None:
    # What is offered is worked out by the command, the same for each shell; how it is handed over is the shell's.
    assert offered(terminal, shell, "kubesync sh") == {"show"}
    assert offered(terminal, shell, "kubesync show feature ") == set(terminal.daemon.features)
    assert offered(terminal, shell, "kubesync show feature --j") == {"--json"}
    terminal.daemon.stop()
    assert offered(terminal, shell, "kubesync show feature sn") == set()


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("show ", {"feature", "kubernetes"}),
        ("sh fea sn", {"snmp"}),
        ("config feature sn", {"snmp"}),
        ("config feature snmp fal", {"fallback"}),
        ("config feature snmp owner kube ", {"fallback", "failmode", "policy"}),
        ("config feature snmp owner ", {"local", "kube"}),
    ],
)
def test_completion_knows_commands_names_and_values(terminal: Operator, line: str, offers: set[str]) -> None:
    assert offered(terminal, "bash", f"kubesync {line}") == offers
