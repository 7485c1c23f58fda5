"""Compare the table of SONiC's lines in docs/sonic.md with what `doctor --scripts` says of each."""

from __future__ import annotations

import itertools
import re

import pytest

from kubesyncd.cli.rules.scripts import CARRIED, check_script
from tests.paths import DOCS

PAGE = (DOCS / "sonic.md").read_text()
TABLE = PAGE.partition("| line | where | with kubesyncd |\n|---|---|---|\n")[2].partition("\n\n")[0]
ROWS = [re.split(r"(?<!\\)\|", row)[1:4] for row in TABLE.splitlines()]


def script_of(cell: str) -> str:
    """A script of the lines that a cell names, for snmp."""
    lines = ["#!/bin/bash"]
    for span in re.findall(r"`([^`]+)`", cell):
        line = span.replace("\\|", "|").replace("NAME", "snmp").replace("…", "").replace("[-rs]", "-rs")
        words = [word.split("|") for word in line.split()]
        lines += [" ".join(one) for one in itertools.product(*words)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("cell", "says"), [(line, says) for line, _, says in ROWS])
def test_the_page_and_the_checker_agree_on_each_line(cell: str, says: str) -> None:
    found = list(check_script(script_of(cell)))
    needs_none = "no change" in says or "the interface" in says
    assert (found == []) is needs_none, found


def test_the_table_has_the_lines_that_the_issue_of_unedited_scripts_is_about() -> None:
    assert len(ROWS) > 12
    for word in (
        "update-containers",
        "docker-wait-any",
        "docker ps",
        "docker rm -f",
        "docker exec",
        "tag-all",
    ):
        assert any(word in line for line, _, _ in ROWS), word


def test_the_page_names_what_the_docker_front_carries() -> None:
    text = " ".join(PAGE.partition("It replaces the name of a feature")[2].partition(". ")[0].split())
    assert set(re.findall(r"`(\w+)`", text)) == CARRIED
