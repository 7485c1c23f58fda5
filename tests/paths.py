"""Say where this checkout's files lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, CLIENTS = ROOT / "docs", ROOT / "clients"
# What is printed, whole, to be looked at in a review.
GOLDEN = ROOT / "tests" / "golden"
