"""Write the tables of docs/settings.md and the shipped settings file from the classes of kubesyncd.settings.

Run it with `make settings` after a change of a key. The text around the tables of docs/settings.md stays.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_origin, get_type_hints

from kubesyncd.core.setting_rules import RULES
from kubesyncd.core.setting_values import allowed
from kubesyncd.settings import Settings
from tests.paths import DOCS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = DOCS / "settings.md"
SHIPPED = ROOT / "etc" / "kubesyncd" / "kubesyncd.toml"
COMMAND = "make settings"
BEGIN, END = "<!-- keys of [{}], written by `make settings` -->", "<!-- end of keys -->"
RULES_BEGIN = "<!-- combinations, written by `make settings` -->"
RULES_END = "<!-- end of combinations -->"
WIDTH = 100
HEADER = """\
# kubesyncd's settings. Every key is optional; the commented values are the defaults.
# An invalid key or value prevents the daemon's start; `systemctl status kubesyncd` names it.
# After a change: systemctl reload kubesyncd
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: the values that it accepts, its default in TOML, and the sentences about it."""

    name: str
    allowed: str
    default: str
    says: str
    limited: bool


def sections() -> dict[str, list[Key]]:
    """Return the keys of each section."""
    return {name: list(_keys(kind)) for name, kind in get_type_hints(Settings).items()}


def page(text: str) -> str:
    """Return the text of docs/settings.md with new tables."""
    for name, keys in sections().items():
        begin = BEGIN.format(name)
        if text.count(begin) != 1:
            raise SystemExit(f"{PAGE}: add these two lines once, under a heading for [{name}]: {begin} {END}")
        before, _, after = text.partition(begin)
        after = after.partition(END)[2]
        text = f"{before}{begin}\n\n{_table(keys)}\n{END}{after}"
    before, _, after = text.partition(RULES_BEGIN)
    return f"{before}{RULES_BEGIN}\n\n{_rules()}\n{RULES_END}{after.partition(RULES_END)[2]}"


def shipped() -> str:
    """Return the text of the shipped settings file."""
    parts = [HEADER]
    for name, keys in sections().items():
        parts += [f"\n[{name}]\n", "\n".join(map(_commented, keys))]
    return "".join(parts)


def _keys(kind: type[Any]) -> Iterator[Key]:
    hints, says = get_type_hints(kind), sentences(inspect.getsource(kind))
    for key in fields(kind):
        assert key.name in says, f"{kind.__name__}.{key.name}: write below it what happens when it is changed"
        hint = hints[key.name]
        limited = hint in (int, float) or get_origin(hint) is Literal
        default = "" if key.default is MISSING else _toml(key.default)
        yield Key(key.name, allowed(hint, key), default, says[key.name], limited)


def sentences(source: str) -> dict[str, str]:
    """Return the string below each field of a class, as one line."""
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return {
        first.target.id: " ".join(second.value.value.split())
        for first, second in pairwise(body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
        and isinstance(second.value.value, str)
    }


def _toml(default: object) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return json.dumps(list(default) if isinstance(default, tuple) else default)


def _table(keys: list[Key]) -> str:
    rows = [f"| `{key.name}` | {_code(key.default)} | {_values(key.allowed)} | {key.says} |" for key in keys]
    return "\n".join(["| key | default | values | effect |", "|---|---|---|---|", *rows, ""])


def _rules() -> str:
    rows = [
        f"| `[{rule.section}]` | {', '.join(f'`{key}`' for key in rule.keys)} | {rule.says} |"
        for rule in RULES
    ]
    return "\n".join(["| section | keys | allowed |", "|---|---|---|", *rows, ""])


def _code(text: str) -> str:
    return f"`{text}`"


def _values(text: str) -> str:
    """The choices of a key as code."""
    return re.sub(r"'(\w+)'", r"`\1`", text)


def _commented(key: Key) -> str:
    says = f"{key.says} Allowed: {key.allowed}." if key.limited else key.says
    # Only the line of the key itself has " = ": who removes the "# " before it has a valid file.
    assert " = " not in says, f"{key.name}: write its sentences without ' = '"
    lines = textwrap.wrap(says.replace("`", ""), WIDTH, break_long_words=False, break_on_hyphens=False)
    lines.append(f"{key.name} = {key.default}")
    return "".join(f"# {line}\n" for line in lines)


def main() -> None:
    """Write both files."""
    PAGE.write_text(page(PAGE.read_text()))
    SHIPPED.write_text(shipped())


if __name__ == "__main__":
    main()
