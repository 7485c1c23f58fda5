"""Find the socket of the Docker engine in the settings. Imports no library of Docker: commands are to start fast."""

from __future__ import annotations

from kubesyncd.settings import SettingsError


def socket_path(url: str) -> str:
    """Return the path of the engine's socket. Raises SettingsError where it is not a Unix socket."""
    path = url.removeprefix("unix://")
    if not path.startswith("/"):
        raise SettingsError(f"[docker] url = {url!r}; allowed: unix:///path/of/the/socket")
    return path
