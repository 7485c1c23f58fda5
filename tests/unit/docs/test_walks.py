"""Check that every function named in the walks of docs/architecture.md exists, and that no walk is too long."""

from __future__ import annotations

import ast
import re

from tests.paths import ROOT

NAME = re.compile(r"`([a-z_]+/[a-z_]+)\.(?!py`)([A-Za-z_.]+)`")
WALKS = 4
HOPS_MAX = 8


def section() -> str:
    page = (ROOT / "docs" / "architecture.md").read_text()
    return page.partition("\n## Four walks\n")[2].partition("\n## ")[0]


def defined(module: str) -> set[str]:
    """Names of a module's functions and classes, and of the classes' methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse((ROOT / "kubesyncd" / f"{module}.py").read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.ClassDef():
                names.add(node.name)
                inner = (
                    each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                )
                names |= {f"{node.name}.{each.name}" for each in inner}
            case _:
                pass
    return names


def test_every_function_in_the_walks_exists() -> None:
    named = NAME.findall(section())
    missing = [f"{module}.{name}" for module, name in named if name not in defined(module)]
    assert named
    assert not missing


def test_each_of_the_four_walks_has_at_most_eight_hops() -> None:
    walks = re.split(r"^\*\*", section(), flags=re.MULTILINE)[1:]
    hops = [len(re.findall(r"^\d+\. `", walk, flags=re.MULTILINE)) for walk in walks]
    assert len(hops) == WALKS
    assert all(1 < each <= HOPS_MAX for each in hops), hops
