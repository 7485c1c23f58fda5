"""Encode typed values as JSON files, and decode such files with every value checked.

Knows dataclasses, enums, tuples, sets, mappings with text keys, optionals, text, numbers and truth values; a
field of type `object` holds any JSON value, for a file of which the valid parts are read one by one. Knows no file and
no format: each package states its own as a frozen dataclass.

The rules for every file: a value of another type is refused, never converted (but a whole number is a valid float). An
unknown key is ignored: a newer version wrote it. A missing key is refused, unless the reader accepts defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from kubesyncd.core.text import shortened

T = TypeVar("T")

BYTES_MAX = 8 << 20
# Only a type that contains itself can be deeper than a few levels.
DEPTH_MAX = 16
_INT_MAX = (1 << 63) - 1
_KEY_MAX = 40
_FOUND_MAX = 40
_NAMES = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


class Undecodable(ValueError):
    """A file that does not hold the expected value. The message is one line: the path of the invalid part, and why."""


def encode(value: object, *, version: int | None = None, indent: int | None = None) -> bytes:
    """Encode `value`, a dataclass or a mapping, as a file's content; `version` becomes its first key."""
    head = {} if version is None else {"version": version}
    return json.dumps({**head, **_plain(value)}, default=_plain, indent=indent).encode() + b"\n"


def text(value: object) -> str:
    """Encode `value` as one line of JSON, for a file that is put together from encoded parts."""
    return json.dumps(value, default=_plain)


def decode(
    kind: type[T],
    data: bytes,
    *,
    version: int | None = None,
    bytes_max: int = BYTES_MAX,
    defaults: bool = False,
) -> T:
    """Decode a file's content, a JSON object, as the dataclass `kind`. Raises Undecodable.

    `version`: the only one accepted. `defaults`: see Reader.
    """
    tree = parse(data, bytes_max)
    if version is not None:
        check_version(tree, version)
    return Reader(defaults=defaults).read(kind, tree)


def entry(kind: type[T], data: bytes, key: str, *, version: int | None = None) -> T:
    """Decode the value of one key, where a file has no other that matters. Raises Undecodable."""
    tree = parse(data)
    if version is not None:
        check_version(tree, version)
    if key not in tree:
        raise Undecodable(f"{key}: missing")
    return Reader().read(kind, tree[key], key)


def parse(data: bytes, bytes_max: int = BYTES_MAX) -> dict[str, Any]:
    """Parse a file's content as a JSON object of at most `bytes_max`. Raises Undecodable."""
    if len(data) > bytes_max:
        raise Undecodable(f"longer than {bytes_max} bytes")
    try:
        tree = json.loads(data)
    except RecursionError as error:
        raise Undecodable("invalid JSON: nested too deep") from error
    except ValueError as error:
        raise Undecodable(f"invalid JSON: {shortened(str(error), 100)}") from error
    if not isinstance(tree, dict):
        raise Undecodable("not a JSON object")
    return tree


def check_version(tree: Mapping[str, Any], version: int) -> None:
    """Raise Undecodable unless the file has this version."""
    found = tree.get("version")
    if found != version or isinstance(found, bool):
        raise Undecodable(f"version {_found(found)}, not {version}")


class Reader:
    """Reads parsed JSON as typed values. Make one per file: it holds what it looks up of the types until it is freed.

    `defaults`: a missing key keeps the field's default, because an older version wrote the file without it.
    """

    __slots__ = ("_defaults", "_fields")

    def __init__(self, *, defaults: bool = False) -> None:
        self._defaults = defaults
        self._fields: dict[type, tuple[tuple[str, Any, bool], ...]] = {}

    def read(self, kind: type[T], value: object, path: str = "") -> T:
        """Return `value` as `kind`; `path`: where in the file it is. Raises Undecodable."""
        read: T = self._any(kind, value, path, 0)
        return read

    def _any(self, kind: Any, value: Any, path: str, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise _wrong(path, f"at most {DEPTH_MAX} levels", value)
        if kind is object:
            return value
        origin = get_origin(kind)
        if origin is UnionType:
            (inner,) = (each for each in get_args(kind) if each is not NoneType)
            return None if value is None else self._any(inner, value, path, depth)
        if origin is not None:
            return self._many(origin, get_args(kind), value, path, depth + 1)
        if is_dataclass(kind):
            return self._object(kind, value, path, depth + 1)
        return _enum(kind, value, path) if issubclass(kind, Enum) else _scalar(kind, value, path)

    def _many(self, origin: Any, kinds: tuple[Any, ...], value: Any, path: str, depth: int) -> Any:
        if issubclass(origin, Mapping):
            assert kinds[0] is str, f"a JSON object has text keys, not {kinds[0]}"
            items = _object(value, path).items()
            return {key: self._any(kinds[1], each, _at(path, key), depth) for key, each in items}
        if not isinstance(value, list):
            raise _wrong(path, "a list", value)
        if origin is tuple and kinds[1:] != (...,):
            if len(value) != len(kinds):
                raise Undecodable(f"{path or 'the file'}: expected {len(kinds)} values, found {len(value)}")
        else:
            kinds = (kinds[0],) * len(value)
        read = zip(kinds, value, strict=True)
        return origin(self._any(kind, each, f"{path}[{n}]", depth) for n, (kind, each) in enumerate(read))

    def _object(self, kind: Any, value: Any, path: str, depth: int) -> Any:
        tree, found = _object(value, path), {}
        for name, hint, has_default in self._fields_of(kind):
            if name in tree:
                found[name] = self._any(hint, tree[name], _at(path, name), depth)
            elif not (self._defaults and has_default):
                raise Undecodable(f"{_at(path, name)}: missing")
        try:
            return kind(**found)
        except ValueError as error:
            raise Undecodable(f"{path or 'the file'}: {shortened(str(error), 100)}") from error

    def _fields_of(self, kind: Any) -> tuple[tuple[str, Any, bool], ...]:
        if kind not in self._fields:
            hints = get_type_hints(kind)
            self._fields[kind] = tuple(
                (each.name, hints[each.name], (each.default, each.default_factory) != (MISSING, MISSING))
                for each in fields(kind)
            )
        return self._fields[kind]


def _plain(value: Any) -> Any:
    """Encode one level of `value` in JSON's own types; `json` calls it again for what is inside."""
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, AbstractSet):
        return sorted(value)
    return value.value if isinstance(value, Enum) else dict(value)


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "an object", value)
    return value


def _enum(kind: type[Enum], value: Any, path: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise _wrong(path, f"a {kind.__name__}", value) from None


def _scalar(kind: type, value: Any, path: str) -> Any:
    """Return the value if it has exactly this type.

    JSON's 1 may be a float, but never true, and NaN is never a number.
    """
    accepted = (int, float) if kind is float else kind
    valid = isinstance(value, accepted) and isinstance(value, bool) is (kind is bool)
    if valid and isinstance(value, int):
        valid = -_INT_MAX <= value <= _INT_MAX
    elif valid and kind is float:
        valid = isfinite(value)
    if not valid:
        raise _wrong(path, _NAMES[kind], value)
    return float(value) if kind is float else value


def _wrong(path: str, expected: str, value: Any) -> Undecodable:
    return Undecodable(f"{path or 'the file'}: expected {expected}, found {_found(value)}")


def _at(path: str, key: str) -> str:
    """Return the path of an entry. Keys come from the file, so they are escaped and shortened."""
    plain = key if key.isascii() and key.isprintable() and len(key) <= _KEY_MAX else ascii(key[:_KEY_MAX])
    return f"{path}.{plain}" if path else plain


def _found(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return shortened(ascii(value), _FOUND_MAX)
