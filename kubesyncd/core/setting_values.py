"""Check one value of the settings file against the type, range and form of its key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from kubesyncd.core.setting_range import range_of
from kubesyncd.core.setting_text import NOT_EMPTY, form_of

if TYPE_CHECKING:
    from dataclasses import Field


def allowed(hint: Any, key: Field[Any]) -> str:
    """Describe the values that a key of this type accepts."""
    form = form_of(key)
    if form is not None:
        return str(form)
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a non-empty list of strings" if _needs_an_element(key) else "a list of strings"
    if hint is float:
        return f"a number {range_of(key)}"
    if hint is int:
        return f"a whole number {range_of(key)}"
    return "true or false" if hint is bool else "a string"


def fits(hint: Any, key: Field[Any], value: Any) -> bool:
    """Return whether a key of this type accepts the value."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    form = form_of(key)
    if get_origin(hint) is tuple:
        strings = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        formed = strings and (form is None or all(v in form for v in value))
        return formed and (bool(value) or not _needs_an_element(key))
    # TOML's true and false are no numbers, but Python's are.
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return number and value in range_of(key)
    assert hint in (bool, str), f"{key.name}: no rule for {hint}"
    return isinstance(value, hint) and (form is None or value in form)


def converted(hint: Any, value: Any) -> Any:
    """Convert the value to the type of its key."""
    if hint is float:
        return float(value)
    return tuple(value) if get_origin(hint) is tuple else value


def _needs_an_element(key: Field[Any]) -> bool:
    return NOT_EMPTY.items() <= key.metadata.items()
