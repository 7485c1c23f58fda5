"""Check the programs that check a change: .ci/run and the hooks before a commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

GIT = "#!/bin/sh\necho 0123456789abcdef\n"


def ended(folder: Path, *, budget_unit_s: int = 60, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run in a folder, with these programs instead of the real ones."""
    script = (ROOT / ".ci/run").read_text()
    assert "$2 * 60" in script
    (folder / ".ci").mkdir()
    (folder / ".ci/run").write_text(script.replace("$2 * 60", f"$2 * {budget_unit_s}"))
    (folder / "bin").mkdir()
    for name, text in {"git": GIT, **programs}.items():
        program = folder / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(folder / ".ci/run")], env=environ, capture_output=True, text=True, timeout=180, check=False
    )


def row(text: str, stage: str) -> str:
    """What the table of stages says about a stage."""
    found = re.search(rf"(?m)^{stage} .* s  (.*)$", text)
    assert found is not None, text
    return found[1]


def test_the_table_shows_every_stage_of_a_run_that_passes(tmp_path: Path) -> None:
    passed = ended(tmp_path, make="#!/bin/sh\nexit 0\n")
    assert passed.returncode == 0
    stages = ("engines", "lint", "test", "test-system", "sample")
    assert {row(passed.stdout, stage) for stage in stages} == {"ok"}


def test_a_stage_that_fails_ends_the_run_with_its_name(tmp_path: Path) -> None:
    failed = ended(tmp_path, make="#!/bin/sh\n[ $1 != lint ] || exit 2\n")
    assert failed.returncode == 1
    assert row(failed.stdout, "lint") == "failed with code 2"
    assert failed.stdout.endswith(".ci/run: failed in stage: lint\n")


def test_a_stage_that_the_kernel_kills_does_not_count_as_too_slow(tmp_path: Path) -> None:
    failed = ended(tmp_path, make="#!/bin/sh\n[ $1 != test ] || kill -KILL $$\n")
    assert failed.returncode == 1
    assert row(failed.stdout, "test") == "failed: killed by SIGKILL; find out of memory in: dmesg"


@pytest.mark.parametrize(
    ("code", "said"),
    [(124, "failed: ended after twice its budget"), (137, "failed: killed after twice its budget")],
)
def test_a_stage_that_takes_twice_its_budget_is_named_as_too_slow(
    tmp_path: Path, code: int, said: str
) -> None:
    # Without a budget, every stage has used it up.
    failed = ended(tmp_path, budget_unit_s=0, timeout=f"#!/bin/sh\nexit {code}\n")
    assert failed.returncode == 1
    assert row(failed.stdout, "engines") == said


def test_the_hooks_before_a_commit_are_the_commands_of_make_lint() -> None:
    recipe = re.search(r"(?m)^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert recipe is not None
    commands = [line.removeprefix("\t@$(BIN)/") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    assert hooks == commands
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
