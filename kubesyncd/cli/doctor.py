"""Diagnose this switch: `doctor` prints one line per check, with the fix where one is needed.

Each check covers one subject and is independent of the others; if one service is down, the rest is still checked.
"""

from __future__ import annotations

import stat
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kubesyncd.cli import migrate as moving
from kubesyncd.cli.click_groups import Command, failure_of
from kubesyncd.cli.output import count, json_option, print_json, put, reader, span
from kubesyncd.cli.rules import daemonset_lint
from kubesyncd.cli.switch import Declined, certificate_ends_at
from kubesyncd.core import protocol
from kubesyncd.core.labels import feature_of
from kubesyncd.ports import Forbidden, PortError, Refused, Unavailable
from kubesyncd.runtime.x509 import EXPIRY_WARNING_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kubesyncd.adapters.kube_lists import KubeAdmin
    from kubesyncd.cli.switch import Reader

T = TypeVar("T")

# A larger skew can break TLS and certificates in their first hour.
SKEW_S_MAX = 30.0
NOTIFY_WANTED = "Kghx$"
NOTIFY_IN_A = "g$lshzxetd"


class Grade(StrEnum):
    """Result of a check."""

    GOOD = "ok"
    WARN = "warn"
    BAD = "FAIL"
    SKIP = "-"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: the subject, the result and the fix."""

    subject: str
    grade: Grade
    found: str
    fix: str = ""


class Patient:
    """The switch under diagnosis: caches the answers that several checks need."""

    def __init__(self, switch: Reader) -> None:
        self.switch = switch
        self._cluster: Mapping[str, Any] | PortError | None = None
        self._silent: Unavailable | None = None

    @property
    def cluster(self) -> Mapping[str, Any]:
        """The daemon's view of master and kubelet. Raises PortError (cached), Declined."""
        if self._cluster is None:
            try:
                self._cluster = self.switch.cluster()
            except PortError as error:
                self._cluster = error
        if isinstance(self._cluster, PortError):
            raise self._cluster
        return self._cluster

    def ask_master(self, question: Callable[[KubeAdmin], T]) -> T:
        """Query the API server. After one failure to answer, fail at once. Raises PortError."""
        if self._silent is not None:
            raise self._silent
        try:
            return question(self.switch.admin(insecure=self.cluster["insecure"]))
        except Unavailable as error:
            self._silent = error
            raise


@click.command(cls=Command, options_metavar="[--json]")
@click.option("--migrate", is_flag=True, help="Print the steps to migrate from ctrmgrd; change nothing.")
@click.option(
    "--scripts",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Print the docker calls left in a script, or in a folder's scripts.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, migrate: bool, scripts: tuple[Path, ...]) -> None:
    """Check all that kubesyncd needs; each line names the fix."""
    if scripts:
        ctx.exit(
            protocol.EXIT_DONE if moving.check_scripts(scripts, as_json=as_json) else protocol.EXIT_FAILED
        )
    if migrate:
        moving.migrate(reader(), as_json=as_json)
        return
    findings = list(examine(Patient(reader())))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        put(report(findings))
    ctx.exit(protocol.EXIT_FAILED if any(f.grade is Grade.BAD for f in findings) else protocol.EXIT_DONE)


def examine(patient: Patient) -> Iterator[Finding]:
    """Yield all findings, in the order in which a fault spreads."""
    down: dict[str, str] = {}
    for subject, check in CHECKS:
        try:
            yield from check(patient)
        except Declined as error:
            yield Finding(subject, Grade.BAD, *_parted(str(error)))
        except PortError as error:
            if error.service in down:
                yield Finding(subject, Grade.SKIP, f"not checked: {down[error.service]}")
                continue
            refused = isinstance(error, Forbidden)
            down[error.service] = f"{error.service} {'refuses this user' if refused else 'does not answer'}"
            yield Finding(subject, Grade.BAD, *_parted(str(failure_of(error))))


def _parted(text: str) -> tuple[str, str]:
    """Split a text into the result and the fix."""
    found, _, fix = text.partition("; ")
    return found, fix


def report(findings: list[Finding]) -> Any:
    """Build the printed table of findings."""
    from rich.table import Table
    from rich.text import Text

    styles = {Grade.GOOD: "green", Grade.WARN: "yellow", Grade.BAD: "bold red", Grade.SKIP: "dim"}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.found)
        if finding.fix:
            said.append(f"; {finding.fix}", "" if finding.grade is Grade.SKIP else "bold")
        grid.add_row(Text(finding.grade.value.ljust(4), styles[finding.grade]), finding.subject, said)
    return grid


# ---- the switch -----------------------------------------------------------------------------------


def daemon(patient: Patient) -> Iterator[Finding]:
    """Check that the daemon answers."""
    begun = time.monotonic()
    features = patient.switch.features()
    took_ms = (time.monotonic() - begun) * 1000
    kept = count(len(features), "feature")
    yield Finding("daemon", Grade.GOOD, f"answers within {took_ms:.0f} ms and manages {kept}")
    for feature in features:
        if feature["row"]["failure"]:
            failed, fix = feature["row"]["failure"], f"see: kubesync explain {feature['feature']}"
            yield Finding("feature", Grade.BAD, f"{feature['feature']} has failed: {failed}", fix)


def sockets(patient: Patient) -> Iterator[Finding]:
    """Check that both sockets exist with the right mode."""
    for path, most in (
        (patient.switch.host_socket, 0o660),
        (Path(patient.switch.settings.sockets.container), 0o666),
    ):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            yield Finding(
                "socket", Grade.BAD, f"{path}: {error.strerror}", "run: systemctl restart kubesyncd"
            )
            continue
        if mode & ~most:
            fix = f"run: chmod {most:o} {path}"
            yield Finding("socket", Grade.BAD, f"{path} has too many permissions ({mode:o})", fix)
        else:
            yield Finding("socket", Grade.GOOD, f"{path} ({mode:o})")


def redis(patient: Patient) -> Iterator[Finding]:
    """Check that Redis answers, is loaded, publishes changes, and has usable rows."""
    switch = patient.switch
    names = switch.feature_names()
    if switch.config_loaded():
        yield Finding("redis", Grade.GOOD, f"CONFIG_DB is loaded and has {count(len(names), 'FEATURE row')}")
    else:
        text = "CONFIG_DB is not marked as loaded (CONFIG_DB_INITIALIZED)"
        yield Finding("redis", Grade.WARN, text, "wait for config reload to end, or run it")
    flags = switch.notify_flags()
    missing = [flag for flag in NOTIFY_WANTED if flag not in flags + (NOTIFY_IN_A if "A" in flags else "")]
    if missing:
        text = f"notify-keyspace-events lacks {''.join(missing)}: changes are noticed late"
        yield Finding("events", Grade.BAD, text, "kubesyncd adds them: systemctl start kubesyncd")
    else:
        yield Finding("events", Grade.GOOD, f"Redis publishes changes (notify-keyspace-events {flags})")
    for name in names:
        yield from _row(switch, name)


def _row(switch: Reader, name: str) -> Iterator[Finding]:
    try:
        problems = switch.stored(name).problems
    except Refused as error:
        text, _, fix = error.detail.partition("; ")
        yield Finding("row", Grade.BAD, text, fix or "delete it")
        return
    for problem in problems:
        yield Finding(
            "row", Grade.WARN, f"FEATURE|{name}: {problem}", f"set it: kubesync config feature {name} ..."
        )


def docker(patient: Patient) -> Iterator[Finding]:
    """Check that Docker answers."""
    yield Finding("docker", Grade.GOOD, f"engine {patient.switch.docker_version()} answers")


# ---- Kubernetes -----------------------------------------------------------------------------------


def master(patient: Patient) -> Iterator[Finding]:
    """Check that a master is configured and connected."""
    known = patient.cluster
    if not known["master"]:
        yield Finding("master", Grade.SKIP, "none configured: Kubernetes runs no feature")
        return
    if known["insecure"]:
        text = "the master's certificate is not checked"
        yield Finding("master", Grade.WARN, text, "run: kubesync config kube server insecure off")
    if not patient.switch.kubernetes_installed():
        text = "the Kubernetes packages are not installed: every feature is local"
        yield Finding("master", Grade.BAD, text, "install kubesyncd's kube packages")
    elif not known["joined"]:
        text, _, fix = known["kubelet_why"].partition("; ")
        yield Finding(
            "master", Grade.WARN, f"not joined: {text}", fix.replace("config kube", "kubesync config kube")
        )
    elif not known["connected"]:
        why, _, fix = known["why_disconnected"].partition("; ")
        text = f"not connected: {why}; labels are queued, containers keep running"
        yield Finding("master", Grade.BAD, text, fix or "check the network to it")
    else:
        yield Finding("master", Grade.GOOD, f"{known['master']} is connected")
    if known["pending"]:
        text = f"{count(len(known['pending']), 'label')} waiting: {known['why_pending']}"
        yield Finding("labels", Grade.WARN, text, "see: kubesync show kubernetes labels")
    for key, why in sorted(known["refused"].items()):
        yield Finding(
            "labels", Grade.BAD, f"{key} was refused: {why}", f"run: kubesync config kube label drop {key}"
        )


def kubelet(patient: Patient) -> Iterator[Finding]:
    """Check that the kubelet runs exactly when it may."""
    known = patient.cluster
    if not known["master"]:
        return
    should = known["kubelet_may_run"]
    runs = patient.switch.kubelet_running()
    words = f"{'runs' if runs else 'is stopped'}: {known['kubelet_why']}"
    if should is not runs:
        text = f"{'runs but must not' if runs else 'is stopped but should run'}: {known['kubelet_why']}"
        yield Finding("kubelet", Grade.BAD, text, "see: journalctl -u kubelet -u kubesyncd")
    elif not runs and known["joined"]:
        yield Finding("kubelet", Grade.WARN, words, "")
    else:
        yield Finding("kubelet", Grade.GOOD, words)


def kubelet_images(patient: Patient) -> Iterator[Finding]:
    """Check that the kubelet does not remove images that it does not manage."""
    settings = patient.switch.settings
    if not patient.cluster["joined"] or settings.images.kubelet_gc:
        return
    from kubesyncd.adapters.kubelet_config import KubeletConfig

    config = KubeletConfig(Path(settings.paths.kubelet_dir))
    try:
        wrong = config.wrong()
    except PortError as error:
        yield Finding("images", Grade.WARN, *_parted(error.detail))
        return
    if wrong:
        text = f"the kubelet may remove local ones: {', '.join(wrong)} in {config.path}"
        yield Finding(
            "images", Grade.WARN, text, "set them as images.md says, then: systemctl restart kubelet"
        )
    else:
        yield Finding("images", Grade.GOOD, "the kubelet removes none")


def certificates(patient: Patient) -> Iterator[Finding]:
    """Check how long the certificates are valid."""
    known = patient.cluster
    kube = patient.switch.settings.kube
    if not known["joined"]:
        return
    for file, what, fix in (
        (
            Path(kube.kubeconfig),
            "kubelet's certificate",
            "restart kubelet to renew it: systemctl restart kubelet",
        ),
        (Path(kube.admin_conf), "admin.conf's certificate", "fetch a new one: kubesync config kube join -f"),
    ):
        if not _is_there(file):
            continue
        yield _certificate(file, what, fix)
        if file.name == Path(kube.admin_conf).name and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield Finding("certificate", Grade.BAD, f"{file} can be read by others", f"run: chmod 600 {file}")


def _certificate(file: Path, what: str, fix: str) -> Finding:
    try:
        left_s = certificate_ends_at(file) - time.time()
    except Forbidden as error:
        return Finding("certificate", Grade.SKIP, *_parted(f"{what}: {error.detail}"))
    except PortError as error:
        text = f"{what}: {error.detail.partition('; ')[0]}"
        return Finding("certificate", Grade.BAD, text, "join again: kubesync config kube join -f")
    if left_s <= 0:
        return Finding("certificate", Grade.BAD, f"{what} expired {span(-left_s)} ago", fix)
    if left_s < EXPIRY_WARNING_S:
        return Finding("certificate", Grade.WARN, f"{what} expires in {span(left_s)}", fix)
    return Finding("certificate", Grade.GOOD, f"{what} is valid for {span(left_s)}")


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except PermissionError:
        return True


def clock_skew(patient: Patient) -> Iterator[Finding]:
    """Check that this switch and the master agree on the time."""
    known = patient.cluster
    if not known["connected"]:
        return
    yield skewed(patient.ask_master(lambda master: master.clock_skew_s()))


def skewed(skew_s: float) -> Finding:
    """Grade a clock skew; positive: the master's clock is ahead of ours."""
    if abs(skew_s) <= SKEW_S_MAX:
        return Finding("clock", Grade.GOOD, f"within {max(1, round(abs(skew_s)))} s of the master's")
    way = "behind" if skew_s > 0 else "ahead of"
    text = f"this switch is {span(abs(skew_s))} {way} the master: certificates may seem invalid"
    return Finding("clock", Grade.BAD, text, "set up NTP; see: show ntp")


def manifests(patient: Patient) -> Iterator[Finding]:
    """Check the features' DaemonSets on the master against the mandates."""
    known = patient.cluster
    if not known["connected"]:
        return
    try:
        listing = patient.ask_master(lambda master: master.daemonsets())
    except Forbidden:
        text = "the features' DaemonSets are readable with admin.conf only"
        yield Finding("manifest", Grade.SKIP, text, "check them there: kubesync manifest --check FILE")
        return
    yield from judged([{"kind": "DaemonSet", **item} for item in listing.items if _about_features(item)])


def judged(daemonsets: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check each against the mandates; yield one line if none is broken."""
    broken = [
        found for found in daemonset_lint.check(daemonsets) if found.weight is daemonset_lint.Weight.BREAKS
    ]
    for found in broken if daemonsets else []:
        yield Finding("manifest", Grade.BAD, f"{found.where}: {found.problem}", found.fix)
    if daemonsets and not broken:
        yield Finding(
            "manifest", Grade.GOOD, f"{count(len(daemonsets), 'DaemonSet')} checked: no mandate is broken"
        )


def _about_features(item: Mapping[str, Any]) -> bool:
    """Return whether a feature's label deploys it."""
    selector: Any = item
    for key in ("spec", "template", "spec", "nodeSelector"):
        selector = selector.get(key) if isinstance(selector, dict) else None
    return isinstance(selector, dict) and any(feature_of(str(key)) for key in selector)


def reboot(patient: Patient) -> Iterator[Finding]:
    """Check whether a reboot is being prepared."""
    if patient.cluster["hold"]:
        text = "a reboot is being prepared: the kubelet stays off until then"
        yield Finding("reboot", Grade.WARN, text, "reboot, or run: kubesync reboot prepare --undo")


CHECKS: tuple[tuple[str, Callable[[Patient], Iterator[Finding]]], ...] = (
    ("daemon", daemon),
    ("socket", sockets),
    ("redis", redis),
    ("docker", docker),
    ("master", master),
    ("kubelet", kubelet),
    ("images", kubelet_images),
    ("certificate", certificates),
    ("clock", clock_skew),
    ("manifest", manifests),
    ("reboot", reboot),
)
