"""Compare the table of upstream's test cases in docs/migrate.md with the tests that show them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "migrate.md"
# What kubesyncd leaves to others: the row says what to use instead, and no test shows it.
NOT_PART = {
    "ctrmgr_tools/kill-all",
    "docker-wait-any/any",
    "docker-wait-any/none",
    "docker-wait-any/warm-restart",
    "ctrmgr_iptables/proxy",
}


def rows() -> dict[str, str]:
    """What the table says of each case in kubesyncd."""
    section = PAGE.read_text().partition("\n## Upstream's test cases\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    # A | in a cell is written \|.
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert all(len(row) == 3 for row in cells)
    found = {row[0].split("`")[1]: row[2].strip() for row in cells}
    assert len(found) == len(lines), "two rows for one case"
    return found


def shown() -> dict[str, set[str]]:
    """The verdicts of the tests for each case, by their mark `upstream`."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in (ROOT / "tests").rglob("test_*.py"):
        text = file.read_text()
        if "pytest.mark.upstream(" in text:
            for case, verdict in _marks(ast.parse(text)):
                found[case].add(verdict)
    return found


def _marks(module: ast.Module) -> Iterator[list[str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.upstream":
                    yield [ast.literal_eval(argument) for argument in mark.args]


def test_each_case_has_a_row_and_each_row_a_test_with_its_verdict() -> None:
    table, tests = rows(), shown()
    assert tests.keys() == table.keys() - NOT_PART
    assert table.keys() >= NOT_PART
    for case, verdicts in tests.items():
        assert verdicts == {table[case].partition(",")[0]}, case


def test_each_row_is_the_same_or_says_why_it_differs() -> None:
    for case, said in rows().items():
        assert said == "same" or re.match(r"differs, because \S+ \S+", said), case
        assert said.startswith("differs, because not part of kubesyncd") == (case in NOT_PART), case
