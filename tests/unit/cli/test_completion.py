"""Check what the shells complete, each asked by its own means."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from kubesyncd.cli.root import root

if TYPE_CHECKING:
    from tests.unit.cli.operator import Operator


# Each shell is asked by its own means what it would offer after a line, with the completion sourced as the page says.
ASK = {
    "bash": """
eval "$(_KUBESYNC_COMPLETE=bash_source kubesync)"
line="$1"; read -ra COMP_WORDS <<< "$line"; [[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ $(complete -p kubesync) == *" -F _kubesync_completion kubesync" ]] || exit 3
_kubesync_completion kubesync
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
autoload -Uz compinit && compinit -D -u
eval "$(_KUBESYNC_COMPLETE=zsh_source kubesync)"
[[ $_comps[kubesync] == _kubesync_completion ]] || exit 3
# The two commands by which a completion offers something, outside of a line that is being edited.
compadd() { local -a offered; offered=("${(@P)@[-1]}"); print -rl -- $offered }
_describe() { local -a offered; offered=("${(@P)3}"); print -rl -- ${offered%%:*} }
words=("${(@s: :)1}"); CURRENT=$#words
_kubesync_completion
""",
    "fish": """
_KUBESYNC_COMPLETE=fish_source kubesync | source
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
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
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


def test_names_come_from_the_switch_of_the_settings_file_on_the_line(
    terminal: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBESYNCD_CONFIG", raising=False)
    complete = ShellComplete(root, {}, "kubesync", "_KUBESYNC_COMPLETE")
    line = ["--config", str(terminal.settings), "show", "feature"]
    assert [each.value for each in complete.get_completions(line, "sn")] == ["snmp"]


def test_the_words_of_sonics_reboot_scripts_are_completed() -> None:
    complete = ShellComplete(root, {}, "kubesync", "_KUBESYNC_COMPLETE")
    offers = complete.get_completions(["reboot", "prepare"], "fastf")
    assert [each.value for each in offers] == ["fastfast", "fastfast-reboot"]
