"""Keep modules and classes of the product small, and the name of each class unique."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE_LINES_MAX = 400
CLASS_LINES_MAX = 300
ATTRIBUTES_MAX = 15
# Values whose fields are an interface: one field for each key of [timing], the stored record of a feature, the facts of
# one observation and of one container, and the objects of the wire protocol.
VALUES = {
    "Timing": 25,
    "Record": 43,
    "Observation": 24,
    "ContainerDescription": 19,
    "Container": 18,
    "FeatureDescription": 29,
    "ClusterDescription": 30,
    "KubeSettings": 16,
}

MODULES = sorted((ROOT / "kubesyncd").rglob("*.py"))


def classes(module: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ClassDef))


def attributes(node: ast.ClassDef) -> set[str]:
    """The attributes that methods assign, and the fields of a dataclass."""
    assigned = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }
    return assigned | {
        field.target.id
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "kubesyncd")))
def test_a_module_and_its_classes_are_small(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= MODULE_LINES_MAX
    for node in classes(module):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        assert lines <= CLASS_LINES_MAX, node.name
        assert len(attributes(node)) <= VALUES.get(node.name, ATTRIBUTES_MAX), node.name


def test_a_name_stands_for_one_class() -> None:
    found = defaultdict(list)
    for module in MODULES:
        for node in classes(module):
            found[node.name].append(str(module.relative_to(ROOT)))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
