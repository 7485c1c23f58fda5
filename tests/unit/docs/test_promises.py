"""Compare tests/PROMISES.md with the tests: each promise names tests that exist."""

from __future__ import annotations

import re

from tests.paths import ROOT

PROMISES = [*(f"S{n}" for n in range(1, 11)), *(f"L{n}" for n in range(1, 5))]


def test_every_promise_names_its_tests_and_every_test_named_exists() -> None:
    table = (ROOT / "tests" / "PROMISES.md").read_text()
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert set(re.findall(r"`(test_\w+)`", table)) <= written
    rows = {line.split()[1]: line for line in table.splitlines() if re.match(r"\| [SL]\d+ ", line)}
    assert list(rows) == PROMISES
    assert all("`test_" in row for row in rows.values())
