"""Derive the steps that migrate a switch from ctrmgrd to kubesyncd.

Pure: no file, no database, no clock. Settings that ctrmgrd does not have keep their defaults.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.labels import Change, InvalidLabel, feature_of, not_by_hand
from kubesyncd.core.parse import is_true
from kubesyncd.core.setting_range import SECONDS_MAX, SECONDS_MIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubesyncd.core.fallback_history import FallbackHistory

SETTINGS_FILE = "/etc/sonic/remote_ctr.config.json"
LABELS_KEY = "KUBE_LABELS|SET"
UNIT_FILE = "/lib/systemd/system/ctrmgrd.service"
# Files of ctrmgrd that conflict with kubesyncd, each with the problem and the fix.
LEFTOVERS = {
    UNIT_FILE: "would manage the same features: systemctl disable --now ctrmgrd",
    "/usr/local/bin/container": "is what feature scripts call: mv /usr/local/bin/container"
    " /usr/local/bin/container.ctrmgrd && ln -s /usr/bin/container /usr/local/bin/container",
    "/usr/local/bin/ctrmgr_tools.py": "reboot scripts call `kubesync reboot prepare` instead (docs/reboot.md)",
}

# ctrmgrd's settings in seconds, and our section and key for each.
_SECONDS = {
    "join_latency_on_boot_seconds": ("kube", "join_boot_delay_s"),
    "retry_join_interval_seconds": ("kube", "join_retry_s"),
    "revert_to_local_on_wait_seconds": ("timing", "fallback_after_s"),
    "tag_latest_image_on_wait_seconds": ("timing", "tag_after_s"),
}
# The default of join_retry_s_max.
RETRY_S_MAX = 600.0
_BY_ITSELF = ("retry_labels_update_seconds", "retry_tag_latest_seconds", "retry_clean_image_seconds")
_PROXY = "use_k8s_as_http_proxy"
# kubesyncd writes these itself, under its own names.
_SELF_LABELS = frozenset({"sonic_version", "hwsku", "deployment_type", "worker.sonic/platform"})
_OLD_TRUE = ("true", "on", "yes", "1")


class Way(StrEnum):
    """Kind of an advice."""

    SET = "set"
    """A line of kubesyncd.toml; `section` names its table."""
    RUN = "run"
    """A command."""
    KNOW = "know"
    """Information: nothing to do, or a fix that does not fit in one line."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One advice: the line to write, command to run or fact to know, and its reason."""

    way: Way
    text: str
    because: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Old:
    """The state that ctrmgrd left: its settings, its labels, raw rows, and existing paths (without those settled).

    `fallback`: what the daemon has recorded of no_fallback_to_local; None: it reads the field as it is.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    master: Mapping[str, str] = field(default_factory=dict)
    there: frozenset[str] = frozenset()
    fallback: FallbackHistory | None = None
    certificate: InstalledCertificate | None = None


@dataclass(frozen=True, slots=True)
class InstalledCertificate:
    """The client certificate in `file` by which a later join goes; `ca_hash`: of the CA in `ca_file`, if known.

    `hidden`: what this user may not read, where more may be known.
    """

    file: str
    ca_hash: str = ""
    ca_file: str = ""
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class Present:
    """What kubesyncd goes by at present: its field names, settings by section and key, and the operator's labels.

    `running`: whether the daemon answers.
    """

    names: str = "hld"
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    running: bool = True

    def holds(self, advice: Advice) -> bool:
        """Return whether a line of the settings file holds already."""
        key, _, value = advice.text.partition(" = ")
        if key == "names":
            return f'"{self.names}"' == value
        there = self.settings.get(advice.section, {}).get(key)
        return there is not None and toml_value(there) == value


def advise(old: Old, now: Present = Present()) -> Iterator[Advice]:
    """Yield all advice that is not followed yet, in the order in which to follow it."""
    settings = [one for one in _settings(old, now) if one.way is not Way.SET or not now.holds(one)]
    yield from settings
    for path, todo in LEFTOVERS.items():
        if path in old.there:
            what, _, command = todo.partition(": ")
            yield Advice(Way.RUN if command else Way.KNOW, command or todo, f"{path} {what}")
    if not now.running:
        yield Advice(Way.RUN, "systemctl start kubesyncd", "it does not answer; the next commands need it")
    yield from _master(old.master)
    if now.names == "sonic":
        for name in sorted(old.features):
            yield from _feature(name, old.features[name], old.fallback)
    else:
        text = "run doctor --migrate again once [schema] names is set: it tells what becomes of each feature"
        yield Advice(Way.KNOW, text, "the names of a row's fields depend on it")
    for key in sorted(old.labels):
        if now.labels.get(key) != old.labels[key]:
            yield from _label(key, old.labels[key], old.features)


def _settings(old: Old, now: Present) -> Iterator[Advice]:
    yield Advice(Way.SET, 'names = "sonic"', "the databases have SONiC's field names", "schema")
    most = now.settings.get("kube", {}).get("join_retry_s_max", RETRY_S_MAX)
    for key in sorted(old.settings):
        yield from _setting(key, old.settings[key], float(str(most)))
    yield from _certificate(old.certificate, now.settings.get("kube", {}))


def _certificate(found: InstalledCertificate | None, kube: Mapping[str, object]) -> Iterator[Advice]:
    """Propose the pin that a join by the switch's own certificate needs."""
    others = ("bootstrap_token_file", "client_certificate", "ca_cert_hash", "ca_file")
    if found is None or any(kube.get(key) for key in others):
        return
    compare = "compare it with the master's: kubeadm token create --print-join-command"
    if found.ca_hash:
        because = (
            f"a later join by {found.file} needs the CA's pin; this is the CA in {found.ca_file}: {compare}"
        )
        yield Advice(Way.SET, f'ca_cert_hash = "{found.ca_hash}"', because, "kube")
        return
    if found.hidden:
        text = "run doctor --migrate with sudo: it tells whether a later join needs [kube] ca_cert_hash"
        yield Advice(Way.KNOW, text, f"{found.hidden} cannot be read by this user")
        return
    text = 'before the next join, set [kube] ca_cert_hash = "sha256:…", as the master prints it: '
    because = f"a join by {found.file} needs the CA's pin, and no CA is known on this switch"
    yield Advice(Way.KNOW, f"{text}kubeadm token create --print-join-command", because)


def toml_value(value: object) -> str:
    """Encode a setting's value as kubesyncd.toml has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _setting(key: str, value: object, retry_s_max: float) -> Iterator[Advice]:
    if key in _SECONDS:
        yield from _seconds(key, value, retry_s_max)
    elif key in _BY_ITSELF:
        yield Advice(Way.KNOW, "nothing: kubesyncd tries again with a growing pause", key)
    elif key == _PROXY:
        if str(value).strip().lower() == "y":
            text = "set Docker's proxy yourself: systemctl edit docker (Environment=HTTPS_PROXY=...)"
            yield Advice(Way.KNOW, text, f"{key} rewrote packets on their way to a fixed address")
    else:
        yield Advice(Way.KNOW, f"nothing: ctrmgrd never had a setting {ascii(key)[:60]}", SETTINGS_FILE)


def _seconds(key: str, value: object, retry_s_max: float) -> Iterator[Advice]:
    section, name = _SECONDS[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not float(str(value)) <= SECONDS_MAX:
        yield Advice(Way.KNOW, f"{name} keeps its default", f"invalid time {key} = {ascii(value)[:40]}")
        return
    seconds = float(str(value))
    if seconds >= SECONDS_MIN:
        yield Advice(Way.SET, f"{name} = {seconds:g}", key, section)
        if name == "join_retry_s" and seconds > retry_s_max:
            most = f"join_retry_s_max = {seconds:g}"
            yield Advice(Way.SET, most, "it cannot be less than join_retry_s", "kube")
    elif seconds <= 0 and key.startswith("tag_"):
        yield Advice(Way.SET, "adopt = false", f"{key} = {seconds:g}: no image was tagged", "images")
    else:
        yield Advice(Way.SET, f"{name} = 1", f"{key} = {seconds:g}: at once", section)


def _master(master: Mapping[str, str]) -> Iterator[Advice]:
    got = {name.lower(): value.strip().lower() for name, value in master.items()}
    if got.get("ip") and got.get("insecure") in _OLD_TRUE:
        text = "kubesync config kube server insecure off"
        yield Advice(Way.RUN, text, "ctrmgrd's default: the master's certificate was never checked")


def _feature(name: str, row: Mapping[str, str], history: FallbackHistory | None) -> Iterator[Advice]:
    owner = row.get("set_owner", "local").strip().lower()
    if owner != "kube":
        return
    text = row.get("no_fallback_to_local", "")
    kept = history is not None and history.keeps_off(name, text)
    fallback = not kept and not is_true(text)
    means = "with" if fallback else "without"
    yield Advice(
        Way.KNOW, f"{name} stays with Kubernetes, {means} its local image to fall back on", f"FEATURE|{name}"
    )
    command = f"kubesync config feature fallback {name}"
    if kept:
        because = (
            f"ctrmgrd took no_fallback_to_local={ascii(text)[1:-1][:20]} for set; as before, or type: on"
        )
        yield Advice(Way.RUN, f"{command} off", because)
    elif "fallback_to_local" in row:
        because = "fallback_to_local is not read"
        yield Advice(Way.RUN, f"{command} {'on' if fallback else 'off'}", because)
    if fallback and text.strip() and not kept:
        known = f"{name} falls back now, and did not with ctrmgrd; as before: {command} off"
        yield Advice(
            Way.KNOW, known, f"no_fallback_to_local={ascii(text)[1:-1][:20]}: ctrmgrd took any text for set"
        )
    minutes = row.get("remote_fail_detection", "").strip()
    if minutes.isdecimal() and len(minutes) <= 9 and int(minutes):
        text = f"{name} counts as failed after {int(minutes)} minutes without a stable container"
        yield Advice(Way.KNOW, text, "remote_fail_detection: ctrmgrd never used it")


def _label(key: str, value: str, features: Mapping[str, object]) -> Iterator[Advice]:
    version_of = key.removesuffix("_local") if key.endswith("_local") else ""
    if feature_of(key) is not None or version_of in features or key in _SELF_LABELS:
        return
    because = f"{LABELS_KEY} has {ascii(key)[1:-1][:60]}={ascii(value)[1:-1][:60]}"
    if value.strip().lower() == "false":
        yield Advice(Way.KNOW, "nothing: a label that is dropped is removed now, not set to false", because)
        return
    if why := not_by_hand(key):
        yield Advice(Way.KNOW, f"nothing: {why.partition('; ')[0]}", because)
        return
    try:
        Change(key, value)
    except InvalidLabel as error:
        yield Advice(Way.KNOW, f"the master refuses it: {error}", because)
        return
    yield Advice(Way.RUN, f"kubesync config kube label add {key} {shlex.quote(value)}", because)
