"""Keep questions and words that name no component out of what people read."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

from tests.paths import CLIENTS, DOCS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]
TEXTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "SECURITY"))]
SCRIPTS = [path for path in sorted(CLIENTS.iterdir()) if path.is_file()]
PROGRAMS = [*sorted((ROOT / "kubesyncd").rglob("*.py")), *SCRIPTS]
# Who acts is named; an invalid value is "not valid" or "invalid", and what happens once more happens "again".
VAGUE = re.compile(r"\b(is no|nobody|somebody|whoever|anew)\b", re.IGNORECASE)


@cache
def python(path: Path) -> ast.Module | None:
    """The parsed program; None for a shell's."""
    text = path.read_text()
    return None if text.startswith("#!/bin/sh") else ast.parse(text)


def docstrings(path: Path) -> Iterator[str]:
    program = python(path)
    for node in ast.walk(program) if program else ():
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def texts(path: Path) -> Iterator[str]:
    """The string literals of a program in Python; a shell's program as a whole."""
    program = python(path)
    if program is None:
        yield path.read_text()
    for node in ast.walk(program) if program else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def vague(text: str) -> list[str]:
    one_line = " ".join(text.split())
    return [one_line[max(0, found.start() - 40) : found.end() + 40] for found in VAGUE.finditer(one_line)]


def test_every_page_and_program_is_read() -> None:
    assert len(PAGES) > 15
    assert len(PROGRAMS) > 150
    assert sum(python(path) is None for path in SCRIPTS) == 3
    assert vague("It is\n  no feature, so Nobody acts anew.") != []
    assert vague("It is not a node, and will run again") == []


def test_no_docstring_is_a_question() -> None:
    assert [(path.name, each) for path in PROGRAMS for each in docstrings(path) if each.endswith("?")] == []


def test_no_heading_is_a_question() -> None:
    headings = re.compile(r"^#+ .*\?\s*$", re.MULTILINE)
    assert [(page.name, each) for page in PAGES for each in headings.findall(page.read_text())] == []


def test_pages_say_who_acts() -> None:
    assert [(page.name, each) for page in TEXTS for each in vague(page.read_text())] == []


def test_programs_say_who_acts() -> None:
    found = [(path.name, each) for path in PROGRAMS for text in texts(path) for each in vague(text)]
    assert found == []
