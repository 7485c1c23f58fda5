"""Parse YAML from outside into plain values, in bounded time.

Does not know the meaning of the values. PyYAML takes seconds for a few kilobytes of nested brackets, and raises
four kinds of errors; this reader has a limit and one kind.
"""

from __future__ import annotations

from typing import Any

import yaml

# Far more than any kubeconfig or description has; PyYAML needs 0.1 s for so many, and 0.4 s for twice as many.
BRACKETS_MAX = 500


def parse(text: bytes) -> Any:
    """Parse the document into plain values. Raises ValueError with one line where it is invalid or too large."""
    if text.count(b"[") + text.count(b"{") > BRACKETS_MAX:
        raise ValueError(f"more than {BRACKETS_MAX} brackets are opened in it")
    try:
        return yaml.safe_load(text.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
