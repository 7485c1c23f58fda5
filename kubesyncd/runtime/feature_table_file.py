"""Encode and decode the saved copy of the FEATURE table.

Both the daemon and the operators' commands use the file, and neither may import the other; so it lies below both.
"""

from __future__ import annotations

from dataclasses import replace

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.saved_features import Saved
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

# Below the state folder.
FILE = "feature-table.json"
VERSION = 1


def encode(saved: Saved) -> bytes:
    """Encode a copy as the file's content, indented for operators."""
    tree = {"saved_at": saved.saved_at, "armed": saved.armed, "rows": saved.rows}
    return codec.encode(tree, version=VERSION, indent=1)


def decode(data: bytes) -> Saved:
    """Decode the file; rows of invalid feature names are left out. Raises Undecodable."""
    try:
        saved = codec.decode(Saved, data, version=VERSION)
    except Undecodable as error:
        raise Undecodable(f"the saved table cannot be used: {error}") from error
    return replace(saved, rows={name: row for name, row in saved.rows.items() if valid_feature_name(name)})
