"""Check that the core is pure, from its source, so that no import at run time can hide an effect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kubesyncd

HOUSE = Path(kubesyncd.__file__).parent
CORE = tuple(sorted(path.stem for path in (HOUSE / "core").glob("*.py")))

ALLOWED = {
    "__future__", "collections", "dataclasses", "enum", "ipaddress", "json", "re", "typing", "kubesyncd",
}  # fmt: skip
EFFECTS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "globals", "breakpoint"}


def tree_of(module: str) -> ast.Module:
    return ast.parse((HOUSE / "core" / f"{module}.py").read_text())


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_imports_only_what_has_no_effect(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top in ALLOWED, f"{module}: imports {name}"
            assert top != "kubesyncd" or name.startswith("kubesyncd.core"), f"{module}: imports {name}"


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_has_no_coroutine_and_calls_no_effect(module: str) -> None:
    coroutine = (
        ast.AsyncFunctionDef,
        ast.Await,
        ast.AsyncFor,
        ast.AsyncWith,
        ast.Yield,
        ast.Global,
        ast.Nonlocal,
    )
    for node in ast.walk(tree_of(module)):
        assert not isinstance(node, coroutine), f"{module}:{node.lineno}"
        if isinstance(node, ast.Name):
            assert node.id not in EFFECTS, f"{module}:{node.lineno}: {node.id}"


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_keeps_no_state_of_its_own(module: str) -> None:
    """Module-level names are constants: set once, never a list or a cache that grows."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            assert not isinstance(node.value, ast.List | ast.ListComp), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", CORE)
def test_a_core_modules_dataclasses_are_frozen_and_slotted(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                assert ast.unparse(decorator) == "dataclass(frozen=True, slots=True)", (
                    f"{module}: {node.name}"
                )


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_no_module_starts_a_shell(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword):
            assert node.arg != "shell", f"{path}:{node.value.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("create_subprocess_shell", "system", "popen", "getoutput"), (
                f"{path}:{node.lineno}"
            )
