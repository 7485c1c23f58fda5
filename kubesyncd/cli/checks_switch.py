"""Check the services on this switch that kubesyncd needs, for `doctor`."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.cli.diagnosis import CheckGrade, CheckResult
from kubesyncd.cli.output import count
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.cli.diagnosis import Diagnosis
    from kubesyncd.cli.switch import Switch


def daemon(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that the daemon answers."""
    begun = time.monotonic()
    features = diagnosis.switch.daemon.features()
    took_ms = (time.monotonic() - begun) * 1000
    kept = count(len(features), "feature")
    yield CheckResult("daemon", CheckGrade.GOOD, f"answers within {took_ms:.0f} ms and manages {kept}")
    for feature in features:
        if feature["row"]["failure"]:
            failed, fix = feature["row"]["failure"], f"see: kubesync explain {feature['feature']}"
            yield CheckResult("feature", CheckGrade.BAD, f"{feature['feature']} has failed: {failed}", fix)


def sockets(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that both sockets exist with the right mode."""
    for path, most in (
        (diagnosis.switch.daemon.path, 0o660),
        (Path(diagnosis.switch.settings.sockets.container), 0o666),
    ):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            yield CheckResult(
                "socket", CheckGrade.BAD, f"{path}: {error.strerror}", "run: systemctl restart kubesyncd"
            )
            continue
        if mode & ~most:
            fix = f"run: chmod {most:o} {path}"
            yield CheckResult("socket", CheckGrade.BAD, f"{path} has too many permissions ({mode:o})", fix)
        else:
            yield CheckResult("socket", CheckGrade.GOOD, f"{path} ({mode:o})")


def redis(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that Redis answers, is loaded, publishes changes, and has usable rows."""
    switch = diagnosis.switch
    names = switch.redis.feature_names()
    if switch.redis.config_loaded():
        yield CheckResult(
            "redis", CheckGrade.GOOD, f"CONFIG_DB is loaded and has {count(len(names), 'FEATURE row')}"
        )
    else:
        text = "CONFIG_DB is not marked as loaded (CONFIG_DB_INITIALIZED)"
        yield CheckResult("redis", CheckGrade.WARN, text, "wait for config reload to end, or run it")
    flags, missing = switch.redis.notify_flags()
    if missing:
        text = f"notify-keyspace-events lacks {missing}: changes are noticed late"
        yield CheckResult("events", CheckGrade.BAD, text, "kubesyncd adds them: systemctl start kubesyncd")
    else:
        yield CheckResult(
            "events", CheckGrade.GOOD, f"Redis publishes changes (notify-keyspace-events {flags})"
        )
    for name in names:
        yield from _row(switch, name)


def _row(switch: Switch, name: str) -> Iterator[CheckResult]:
    try:
        problems = switch.redis.feature_rows(name).problems
    except Refused as error:
        text, _, fix = error.detail.partition("; ")
        yield CheckResult("row", CheckGrade.BAD, text, fix or "delete it")
        return
    for problem in problems:
        yield CheckResult(
            "row",
            CheckGrade.WARN,
            f"FEATURE|{name}: {problem}",
            f"set it: kubesync config feature {name} ...",
        )


def docker(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that Docker answers."""
    yield CheckResult("docker", CheckGrade.GOOD, f"engine {diagnosis.switch.docker_version()} answers")


def reboot(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check whether a reboot is being prepared."""
    if diagnosis.cluster["hold"]:
        text = "a reboot is being prepared: the kubelet stays off until then"
        yield CheckResult("reboot", CheckGrade.WARN, text, "reboot, or run: kubesync reboot prepare --undo")
