"""Find the real engines of this machine, and name what is missing for each.

A test says which one it needs with `@pytest.mark.real("kube")`; `tests/conftest.py` asks here before it runs.
Knows no fixture and starts nothing. A new engine is one more entry in `MISSING`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.docker_engine import missing_for_docker
from tests.system.installed_switch import missing_for_systemd
from tests.system.kube_cluster import missing_for_api, missing_for_kubelet
from tests.system.kube_join import missing_for_join

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _missing(*programs: str) -> Callable[[], str]:
    """A question for programs that need nothing but to be installed."""

    def ask() -> str:
        absent = [program for program in programs if shutil.which(program) is None]
        return f"there is no {absent[0]}; `make engines` installs it" if absent else ""

    return ask


def faketime() -> Path | None:
    """The library that gives one process a wall clock of its own."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


MISSING: Mapping[str, Callable[[], str]] = {
    "docker": missing_for_docker,
    "kube": missing_for_api,
    "kubelet": missing_for_kubelet,
    "kubeadm": missing_for_join,
    "systemd": missing_for_systemd,
    "deb": _missing("dpkg-deb", "strip", "lintian", "systemd-analyze"),
    # Packages for the other architecture.
    "deb-arm64": _missing("dpkg-deb", "aarch64-linux-gnu-strip"),
    "monit": _missing("monit"),
    "yang": _missing("yanglint"),
    # What a container without Python may have to dial with.
    "socat": _missing("socat"),
    "nc": _missing("nc"),
    "perl": _missing("perl"),
    "faketime": lambda: "" if faketime() else "there is no libfaketime; `make engines` installs it",
}
"""Per engine: what it lacks on this machine, in one sentence; empty when nothing."""


def require(engine: str) -> None:
    """Skip the test with the reason where `engine` is missing; under CI=true that is a failure."""
    reason = MISSING[engine]()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"{engine}: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{engine}: {reason}")
