"""Find the socket of the Docker engine in the settings. Imports no library of Docker: commands are to start fast."""

from __future__ import annotations


def socket_path(url: str) -> str:
    """Return the path of the engine's socket."""
    return url.removeprefix("unix://")
