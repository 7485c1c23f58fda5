"""Encode and decode the history of `no_fallback_to_local` on a switch that ctrmgrd has managed.

The daemon writes the file, and the operators' commands read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.core.model import valid_feature_name
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

# Below the state folder.
FILE = "fallback.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class _FallbackFile:
    """The file; see FallbackHistory."""

    kept_off: tuple[str, ...]
    settled: tuple[str, ...]


def encode(history: FallbackHistory) -> bytes:
    """Encode the history as the file's content, indented for operators."""
    file = _FallbackFile(tuple(sorted(history.kept_off)), tuple(sorted(history.settled)))
    return codec.encode(file, version=VERSION, indent=1)


def decode(data: bytes) -> FallbackHistory:
    """Decode the file; invalid feature names are left out. Raises Undecodable."""
    try:
        found = codec.decode(_FallbackFile, data, version=VERSION)
    except Undecodable as error:
        raise Undecodable(f"the history of fallback cannot be used: {error}") from error
    return FallbackHistory(
        frozenset(filter(valid_feature_name, found.kept_off)),
        frozenset(filter(valid_feature_name, found.settled)),
    )
