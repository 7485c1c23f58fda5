"""Check the services on this switch that kubesyncd needs, for `doctor`."""

from __future__ import annotations

import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.cli.diagnosis import CheckGrade, CheckResult, split_fix
from kubesyncd.cli.feature_settings import command_for
from kubesyncd.cli.output import count
from kubesyncd.core.kube_names import kube_name
from kubesyncd.core.model import SHORT_ID
from kubesyncd.core.parse import unusable_names
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.cli.diagnosis import Diagnosis
    from kubesyncd.cli.switch import Switch
    from kubesyncd.cli.switch_redis import SwitchRedis

KEPT_NAMES = (
    'set [schema] names = "hld" to keep them, or "sonic": '
    "an absent no_fallback_to_local then turns fallback on"
)


def settings_file(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that the settings file has no error."""
    for problem in diagnosis.switch.problems:
        fix = "correct it, then run: systemctl reload-or-restart kubesyncd"
        yield CheckResult("settings", CheckGrade.BAD, problem.replace("; ", ", "), fix)
    if not diagnosis.switch.problems:
        yield CheckResult("settings", CheckGrade.GOOD, "every setting is valid")


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
        for condition in feature.get("conditions", []):
            said, fix = split_fix(condition)
            yield CheckResult("feature", CheckGrade.WARN, f"{feature['feature']}: {said}", fix)
        if why := feature["config"].get("why_local"):
            text = f"{feature['feature']} has owner kube without effect: {why.partition(';')[0]}"
            fix = f"run: kubesync config feature {feature['feature']} owner local"
            yield CheckResult("feature", CheckGrade.BAD, text, fix)


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
    if unusable := unusable_names(switch.redis.unusable_feature_names()):
        yield CheckResult("row", CheckGrade.BAD, *split_fix(unusable))


def _row(switch: Switch, name: str) -> Iterator[CheckResult]:
    try:
        problems = switch.redis.feature_rows(name).problems
    except Refused as error:
        text, _, fix = error.detail.partition("; ")
        yield CheckResult("row", CheckGrade.BAD, text, fix or "delete it")
        return
    for problem in problems:
        said, _, fix = problem.partition("; run: ")
        fix = f"run: {fix}" if fix else f"set it: kubesync config feature {name} ..."
        yield CheckResult("row", CheckGrade.WARN, f"FEATURE|{name}: {said}", fix)


def field_names(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Tell which field names are used in the databases, and which rows have those that are not read."""
    redis = diagnosis.switch.redis
    used = redis.field_names
    whose = "SONiC's" if used.names == "sonic" else "the design document's"
    found = f"the databases have {whose} field names ({used.names}): {used.why}"
    if used.kept:
        yield CheckResult(
            "names", CheckGrade.WARN, f"{found}, and SONiC's tools do not read them", KEPT_NAMES
        )
    else:
        yield CheckResult("names", CheckGrade.GOOD, found)
    for name in redis.feature_names():
        with suppress(Refused):  # `redis` tells what cannot be read
            yield from _unread(redis, name)


def _unread(redis: SwitchRedis, name: str) -> Iterator[CheckResult]:
    """Find the fields of one feature that are spelled in the other way. Raises Refused."""
    stored = redis.feature_rows(name)
    for field, (setting, value) in redis.unread_settings(stored).items():
        text = f"CONFIG_DB FEATURE|{name} has {field}={stored.config[field][:40]!a}, which is not read"
        yield CheckResult("names", CheckGrade.WARN, text, f"set it: {command_for(name, setting, value)}")
    if fields := redis.unread_state(stored):
        text = f"STATE_DB FEATURE|{name} has {', '.join(fields)}, not read and not kept up to date"
        remove = f"run: sonic-db-cli STATE_DB HDEL 'FEATURE|{name}' {' '.join(fields)}"
        change = 'set [schema] names = "sonic" if SONiC\'s tools shall read them'
        yield CheckResult(
            "names", CheckGrade.WARN, text, remove if redis.field_names.names == "sonic" else change
        )


def docker(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check that Docker answers."""
    yield CheckResult("docker", CheckGrade.GOOD, f"engine {diagnosis.switch.docker_version()} answers")


def containers(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """List containers that were refused a feature within the last hour, and pods that run none."""
    for refused in diagnosis.cluster.get("refused_containers", []):
        said, _, fix = refused["why"].partition("; ")
        text = f"{refused['container_id'][:SHORT_ID]} was refused feature {refused['feature']}: {said}"
        yield CheckResult("container", CheckGrade.WARN, text, fix)
    known = {kube_name(feature["feature"]) for feature in diagnosis.switch.daemon.features()}
    for pod, names in sorted(diagnosis.switch.pods().items()):
        if not known.intersection(names):
            text = f"pod {pod} runs no feature: its containers are called {', '.join(sorted(names))}"
            yield CheckResult("container", CheckGrade.WARN, text, "call one like its feature in the manifest")


def files(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Report the daemon's files that cannot be written."""
    for failure in diagnosis.cluster.get("unwritten_files", []):
        yield CheckResult("files", CheckGrade.BAD, *split_fix(failure))


def reboot(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Check whether a reboot is being prepared."""
    if diagnosis.cluster["hold"]:
        text = "a reboot is being prepared: the kubelet stays off until then"
        yield CheckResult("reboot", CheckGrade.WARN, text, "reboot, or run: kubesync reboot prepare --undo")
