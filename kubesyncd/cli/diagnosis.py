"""Represent the diagnosis of a switch: the result of a check, and the answers that several checks need."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.adapters.kube_lists import ClusterLists
    from kubesyncd.cli.switch import Switch
    from kubesyncd.core.descriptions import ClusterDescription

T = TypeVar("T")


class CheckGrade(StrEnum):
    """Result of a check."""

    GOOD = "ok"
    WARN = "warn"
    BAD = "FAIL"
    SKIP = "-"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report: the subject, what was found, and the fix."""

    subject: str
    grade: CheckGrade
    found: str
    fix: str = ""


class Diagnosis:
    """The answers that several checks need, each asked for once."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._cluster: ClusterDescription | PortError | None = None
        self._silent: Unavailable | None = None

    @property
    def cluster(self) -> ClusterDescription:
        """The daemon's view of master and kubelet. Raises PortError (cached), Declined."""
        if self._cluster is None:
            try:
                self._cluster = self.switch.daemon.cluster(check_files=True)
            except PortError as error:
                self._cluster = error
        if isinstance(self._cluster, PortError):
            raise self._cluster
        return self._cluster

    def ask_master(self, question: Callable[[ClusterLists], T]) -> T:
        """Query the API server. After one failure to answer, fail at once. Raises PortError."""
        if self._silent is not None:
            raise self._silent
        try:
            return question(self.switch.admin(insecure=self.cluster["insecure"]))
        except Unavailable as error:
            self._silent = error
            raise


def split_fix(text: str) -> tuple[str, str]:
    """Split an error's text into what was found and the fix."""
    found, _, fix = text.partition("; ")
    return found, fix
