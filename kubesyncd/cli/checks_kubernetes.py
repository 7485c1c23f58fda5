"""Check master, kubelet, certificates and DaemonSets, for `doctor`."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.diagnosis import CheckGrade, CheckResult, split_fix
from kubesyncd.cli.output import count, span
from kubesyncd.cli.rules import daemonset_lint
from kubesyncd.cli.rules.tree import at
from kubesyncd.cli.switch import certificate_life, may_exist
from kubesyncd.core.labels import feature_of
from kubesyncd.ports import Forbidden, PortError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kubesyncd.cli.diagnosis import Diagnosis

# A larger skew can break TLS and certificates in their first hour.
SKEW_S_MAX = 30.0


def master(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that a master is configured and connected."""
    known = diagnosis.cluster
    if not known["master"]:
        yield CheckResult("master", CheckGrade.SKIP, "none configured: Kubernetes runs no feature")
        return
    if known["insecure"]:
        text = "the master's certificate is not checked"
        yield CheckResult("master", CheckGrade.WARN, text, "run: kubesync config kube server insecure off")
    if not diagnosis.switch.kubernetes_installed():
        text = "the Kubernetes packages are not installed: every feature is local"
        yield CheckResult("master", CheckGrade.BAD, text, "install kubesyncd's kube packages")
    elif not known["joined"]:
        text, _, fix = known["kubelet_why"].partition("; ")
        yield CheckResult(
            "master",
            CheckGrade.WARN,
            f"not joined: {text}",
            fix.replace("config kube", "kubesync config kube"),
        )
    elif not known["connected"]:
        why, _, fix = known["why_disconnected"].partition("; ")
        text = f"not connected: {why}; labels are queued, containers keep running"
        yield CheckResult("master", CheckGrade.BAD, text, fix or "check the network to it")
    else:
        yield CheckResult("master", CheckGrade.GOOD, f"{known['master']} is connected")
    if known.get("renamed"):
        text, _, fix = known["renamed"].rpartition("; ")
        fix = fix.replace("config kube", "kubesync config kube")
        yield CheckResult("node", CheckGrade.WARN, text, fix)
    if known.get("node_gone"):
        yield CheckResult("node", CheckGrade.BAD, *split_fix(known.get("node_gone", "")))
    yield from _node_state(known.get("node_state", ""))
    for key, seen in sorted(known.get("drifted", {}).items()):
        value = known.get("wished", {}).get(key, "")
        here = "removed" if seen is None else f"changed to {seen}"
        text = f"{key}={value} was {here} on the master by another client; it is left so"
        fix = f"to set it again: kubesync config kube label add {key} {value}"
        yield CheckResult("labels", CheckGrade.WARN, text, fix)
    if known["pending"]:
        text = f"{count(len(known['pending']), 'label')} waiting: {known['why_pending']}"
        yield CheckResult("labels", CheckGrade.WARN, text, "see: kubesync show kubernetes labels")
    for key, why in sorted(known["refused"].items()):
        yield CheckResult(
            "labels",
            CheckGrade.BAD,
            f"{key} was refused: {why}",
            f"run: kubesync config kube label drop {key}",
        )


def _node_state(state: str) -> Iterator[CheckResult]:
    """Grade the Node's own state: whether Kubernetes can deploy on it."""
    if state == "ready":
        yield CheckResult("node", CheckGrade.GOOD, "the Node is ready")
    elif state:
        grade = CheckGrade.WARN if state.startswith("ready; ") else CheckGrade.BAD
        yield CheckResult("node", grade, *split_fix(state))


def kubelet(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that the kubelet runs exactly when it may."""
    known = diagnosis.cluster
    if not known["master"]:
        return
    should = known["kubelet_may_run"]
    runs = diagnosis.switch.kubelet_running()
    words = f"{'runs' if runs else 'is stopped'}: {known['kubelet_why']}"
    trouble = diagnosis.switch.kubelet_trouble() if should else ""
    if trouble:
        yield CheckResult("kubelet", CheckGrade.BAD, *split_fix(trouble))
    elif should is not runs:
        text = f"{'runs but must not' if runs else 'is stopped but should run'}: {known['kubelet_why']}"
        yield CheckResult("kubelet", CheckGrade.BAD, text, "see: journalctl -u kubelet -u kubesyncd")
    elif not runs and known["joined"]:
        yield CheckResult("kubelet", CheckGrade.WARN, words, "")
    else:
        yield CheckResult("kubelet", CheckGrade.GOOD, words)


def kubelet_images(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that the kubelet does not remove images that it does not manage."""
    settings = diagnosis.switch.settings
    if not diagnosis.cluster["joined"] or settings.images.kubelet_gc:
        return
    config = diagnosis.switch.kubelet_config()
    try:
        wrong = config.wrong()
    except PortError as error:
        yield CheckResult("images", CheckGrade.WARN, *split_fix(error.detail))
        return
    if wrong:
        text = f"the kubelet may remove local ones: {', '.join(wrong)} in {config.path}"
        yield CheckResult(
            "images", CheckGrade.WARN, text, "set them as images.md says, then: systemctl restart kubelet"
        )
    else:
        yield CheckResult("images", CheckGrade.GOOD, "the kubelet removes none")


def certificates(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check how long the certificates are valid."""
    known = diagnosis.cluster
    kube = diagnosis.switch.settings.kube
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
        if not may_exist(file):
            continue
        yield _certificate(file, what, fix)
        if file.name == Path(kube.admin_conf).name and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield CheckResult(
                "certificate", CheckGrade.BAD, f"{file} can be read by others", f"run: chmod 600 {file}"
            )


def _certificate(file: Path, what: str, fix: str) -> CheckResult:
    try:
        life = certificate_life(file)
    except Forbidden as error:
        return CheckResult("certificate", CheckGrade.SKIP, *split_fix(f"{what}: {error.detail}"))
    except PortError as error:
        text = f"{what}: {error.detail.partition('; ')[0]}"
        return CheckResult("certificate", CheckGrade.BAD, text, "join again: kubesync config kube join -f")
    now = time.time()
    left_s = life.ends - now
    if left_s <= 0:
        return CheckResult("certificate", CheckGrade.BAD, f"{what} expired {span(-left_s)} ago", fix)
    if now < life.begins:
        text = f"{what} becomes valid in {span(life.begins - now)}: this switch's clock may be wrong"
        return CheckResult("certificate", CheckGrade.BAD, text, "set up NTP; see: show ntp")
    if life.is_late(now):
        text = f"{what} expires in {span(left_s)}, in the last tenth of its lifetime"
        return CheckResult("certificate", CheckGrade.WARN, text, fix)
    return CheckResult("certificate", CheckGrade.GOOD, f"{what} is valid for {span(left_s)}")


def clock_skew(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that this switch and the master agree on the time."""
    known = diagnosis.cluster
    if not known["connected"]:
        return
    yield skewed(diagnosis.ask_master(lambda master: master.clock_skew_s()))


def skewed(skew_s: float) -> CheckResult:
    """Grade a clock skew; positive: the master's clock is ahead of ours."""
    if abs(skew_s) <= SKEW_S_MAX:
        return CheckResult("clock", CheckGrade.GOOD, f"within {max(1, round(abs(skew_s)))} s of the master's")
    way = "behind" if skew_s > 0 else "ahead of"
    text = f"this switch is {span(abs(skew_s))} {way} the master: certificates may seem invalid"
    return CheckResult("clock", CheckGrade.BAD, text, "set up NTP; see: show ntp")


def manifests(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check the features' DaemonSets on the master against the mandates."""
    known = diagnosis.cluster
    if not known["connected"]:
        return
    try:
        listing = diagnosis.ask_master(lambda master: master.daemonsets())
    except Forbidden:
        text = "the features' DaemonSets are readable with admin.conf only"
        yield CheckResult(
            "manifest", CheckGrade.SKIP, text, "check them there: kubesync manifest --check FILE"
        )
        return
    yield from judged([{"kind": "DaemonSet", **item} for item in listing.items if _about_features(item)])


def judged(daemonsets: Sequence[Mapping[str, Any]]) -> Iterator[CheckResult]:
    """Check each against the mandates; yield one line if none is broken."""
    broken = [
        found for found in daemonset_lint.check(daemonsets) if found.weight is daemonset_lint.Weight.BREAKS
    ]
    for found in broken if daemonsets else []:
        yield CheckResult("manifest", CheckGrade.BAD, f"{found.where}: {found.problem}", found.fix)
    if daemonsets and not broken:
        yield CheckResult(
            "manifest",
            CheckGrade.GOOD,
            f"{count(len(daemonsets), 'DaemonSet')} checked: no mandate is broken",
        )


def _about_features(item: Mapping[str, Any]) -> bool:
    """Return whether a feature's label deploys it."""
    selector = at(item, "spec", "template", "spec", "nodeSelector")
    return isinstance(selector, dict) and any(feature_of(str(key)) for key in selector)
