"""Check that `make mutants` does not count a module that fails without a mutant."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT
from tests.tools import mutate

if TYPE_CHECKING:
    from pathlib import Path

UNIT = ROOT / "tests" / "unit"
# Of elapsed time: each mutant may take `mutate.CPU_S_MAX` of a processor that others share.
LIMIT_S = 3600.0
SOURCE = "def right() -> bool:\n    return True\n"
RIGHT = """
from kubesyncd.core import judged

def test_right(tmp_path):
    (tmp_path / "file").touch()
    assert judged.right()
"""
# Other mutants for each commit that `.ci/run` sees.
SEED = int(hashlib.sha256(os.environ.get("KUBESYNCD_SAMPLE_OF", "").encode()).hexdigest()[:8], 16)
# In a process of its own: it forks, and waits for whatever child ends.
PROGRAM = """
import sys, pathlib
from tests.tools import mutate
mutate.ROOT = pathlib.Path(sys.argv[1])
mutate.PACKAGE = mutate.ROOT / "kubesyncd" / "core"
mutate.CORE, mutate.TESTS = ("judged",), {"judged": ("test_judged",)}
sys.exit(mutate.main(["--module", "judged"]))
"""


def hunted(folder: Path, tests: str | None) -> tuple[int, str]:
    """Code and output of a hunt in a core of one module, `judged` by these tests."""
    for name in ("kubesyncd/core", "tests/unit"):
        (folder / name).mkdir(parents=True)
    (folder / "kubesyncd" / "core" / "judged.py").write_text(SOURCE)
    (folder / "pyproject.toml").touch()
    if tests is not None:
        (folder / "tests" / "unit" / "test_judged.py").write_text(tests)
    return run("-c", PROGRAM, str(folder))


def run(*arguments: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_mutants_are_killed_where_what_is_right_survives(tmp_path: Path) -> None:
    code, said = hunted(tmp_path, RIGHT)
    assert "2 mutants, 0 survive" in said
    assert code == 0


def test_files_of_the_judging_tests_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    code, said = hunted(tmp_path, RIGHT)
    assert code == 0, said
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "tests",
    [
        "def test_right():\n    assert False\n",
        "import no_such_module\n",
        "def test_right():\n    raise SystemExit(3)\n",
        "import os\n\ndef test_right():\n    os.kill(os.getpid(), 9)\n",
        None,
    ],
    ids=["fail", "cannot be imported", "exit", "are killed", "are not there"],
)
def test_nothing_is_counted_where_what_is_right_counts_as_killed(tmp_path: Path, tests: str | None) -> None:
    code, said = hunted(tmp_path, tests)
    assert "kubesyncd/core/judged.py as it is counts as killed; run tests/unit/test_judged.py" in said
    assert "mutants," not in said
    assert code == 2


def test_every_module_of_the_core_names_the_tests_that_judge_it() -> None:
    assert set(mutate.TESTS) == set(mutate.CORE)
    missing = {
        name for names in mutate.TESTS.values() for name in names if not (UNIT / f"{name}.py").is_file()
    }
    assert not missing


@pytest.mark.deep
@pytest.mark.parametrize("module", mutate.CORE)
def test_few_mutants_of_a_sample_survive(module: str) -> None:
    code, said = run("-m", "tests.tools.mutate", "--module", module, "--sample", "10", "--seed", str(SEED))
    assert code == 0, said


@pytest.mark.parametrize(("survivors", "good"), [(0, True), (4, True), (5, False)])
def test_a_sample_fails_where_chance_does_not_explain_its_survivors(survivors: int, good: bool) -> None:
    assert mutate.may_be_chance(survivors, 10) is good


def test_the_core_s_own_source_is_not_killed() -> None:
    code, said = run("-m", "tests.tools.mutate", "--module", "protocol", "--sample", "2")
    assert "2 mutants, " in said
    assert code in (0, 1)
