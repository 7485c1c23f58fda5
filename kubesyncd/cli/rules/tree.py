"""Read trees of plain values that may hold anything."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]


def at(tree: Any, *path: str) -> Any:
    """Return the value at `path`, or None."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def items(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """Return `value` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""
