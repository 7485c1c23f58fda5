"""Translate kubesyncd's database fields to and from two spellings: the design document's and today's SONiC's.

Text in, text out: does not know Redis or the features' rules. A spelling is translated to the design document's
words, which `core.parse` parses. The only system call is local time, for SONiC's `update_time`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.fallback_history import kept_off
from kubesyncd.core.model import (
    CONTAINER_ID,
    SHORT_ID,
    FeatureConfig,
    Mode,
    Owner,
    Row,
    SystemState,
    valid_feature_name,
)
from kubesyncd.core.parse import (
    FAILURE_MINUTES_MAX,
    parse_bool,
    parse_feature_config,
    parse_int,
    parse_row,
)
from kubesyncd.core.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Longest value to write: an ID has 64 characters, a failure's sentence a few hundred.
VALUE_BYTES_MAX = 512
NO_FALLBACK = "no_fallback_to_local"
CLOCK_FORMAT = "%Y-%m-%d %H:%M:%S"
# The last year that `CLOCK_FORMAT` can be read back from has four digits in every time zone.
CLOCK_TS_MAX = 253_370_764_800

_REMOTE_STATES = {
    "none": Mode.NONE,
    "pending": Mode.PENDING,
    "ready": Mode.READY,
    "running": Mode.READY,
    "stopped": Mode.READY,
}


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One CONFIG_DB field: its name, the design document's name, and the translation ("": absent).

    `read` also gets the known config of the feature: a typing error must not change it.
    """

    name: str
    means: str
    read: Callable[[str, list[str], FeatureConfig | None], str]
    write: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class RowField:
    """One STATE_DB field. A value equal to `default` is not stored, unless `shown` and the unit has called kubesyncd.

    The design document's tables spell out "none" and "" there, and other programs on the switch read them.
    """

    name: str
    means: str
    read: Callable[[str, list[str]], str]
    write: Callable[[str, Row], str]
    default: str = ""
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """One spelling of kubesyncd's fields in both databases."""

    config: tuple[ConfigField, ...]
    row: tuple[RowField, ...]
    connected: tuple[str, str]
    """`connected` in the master's status: no, yes."""
    connected_since: tuple[str, Callable[[int], str]]
    """The name and the spelling of the time (seconds since the epoch) since which the status is unchanged."""

    @property
    def config_names(self) -> frozenset[str]:
        """Return the CONFIG_DB fields that kubesyncd reads, as `normal` spells them."""
        return frozenset(field.name for field in self.config)

    @property
    def own_config_names(self) -> frozenset[str]:
        """Return those that only kubesyncd needs: SONiC itself sets the field that marks a row as a feature."""
        return self.config_names - {"has_per_asic_scope"}

    @property
    def row_names(self) -> frozenset[str]:
        """Return kubesyncd's STATE_DB fields, as `normal` spells them; any other one belongs to another program."""
        return frozenset(field.name for field in self.row)

    @property
    def unread_config(self) -> Mapping[str, ConfigField]:
        """Return the CONFIG_DB fields that only the other spelling has."""
        return {field.name: field for field in self._other.config if field.name not in self.config_names}

    @property
    def unread_row(self) -> frozenset[str]:
        """Return the STATE_DB fields that only the other spelling has."""
        # sysmonitor writes the time, too.
        return self._other.row_names - self.row_names - {"update_time"}

    @property
    def _other(self) -> Schema:
        return SONIC if self is HLD else HLD

    def decode_config(
        self, stored: Mapping[str, str], problems: list[str], known: FeatureConfig | None = None
    ) -> FeatureConfig:
        """Decode CONFIG_DB fields (`normal` names) as a config; invalid ones are problems, and stay as `known`."""
        spelled = {
            field.means: field.read(stored.get(field.name, ""), problems, known) for field in self.config
        }
        return parse_feature_config(spelled, problems, known)

    def encode_config(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Encode the design document's CONFIG_DB fields (valid ones) in this spelling; empty: to be removed."""
        return {
            field.name: field.write(wanted[field.means]) for field in self.config if field.means in wanted
        }

    def decode_row(self, stored: Mapping[str, str], problems: list[str]) -> Row:
        """Decode kubesyncd's STATE_DB fields (`normal` names) as a row; invalid ones are empty and problems."""
        return parse_row(
            {field.means: field.read(stored.get(field.name, ""), problems) for field in self.row}, problems
        )

    def encode_row(self, feature: str, row: Row) -> dict[str, str]:
        """Encode `row` as fields of kubesyncd to store; the fields left out must be absent."""
        spoken = row.system_state is not SystemState.ABSENT
        texts = ((field, field.write(feature, row)) for field in self.row)
        return {
            field.name: text for field, text in texts if text != field.default or (spoken and field.shown)
        }

    def encode_master(self, *, connected: bool, ts: int) -> dict[str, str]:
        """Encode STATE_DB `KUBERNETES_MASTER|SERVER`; `ts` is in seconds since the epoch."""
        name, spell = self.connected_since
        return {"connected": self.connected[connected], name: spell(ts)}


def normal(name: str) -> str:
    """Return a field's name as it is compared: any case, `docker-id` is `docker_id`."""
    return name.lower().replace("-", "_")


def shared_row(feature: str) -> str:
    """Return the row of one ASIC's container: `swss` for `swss0`. Empty where the name has no ASIC number."""
    base = feature.rstrip("0123456789")
    return base if base and len(feature) - len(base) in (1, 2, 3) else ""


def schema(names: str) -> Schema:
    """Return the schema named by `[schema] names`."""
    return {"hld": HLD, "sonic": SONIC}[names]


def without_fallback(config: FeatureConfig, feature: str, problems: list[str]) -> FeatureConfig:
    """Return a config whose fallback stays off, because ctrmgrd took it so; where kube owns it, that is a problem."""
    if config.set_owner is Owner.KUBE:
        problems.append(kept_off(feature))
    return replace(config, fallback=False)


def _as_it_is(text: str, _problems: list[str]) -> str:
    return text


def _config_as_it_is(name: str) -> ConfigField:
    return ConfigField(name, name, lambda text, _problems, _known: text)


def _failure(_feature: str, row: Row) -> str:
    """Cut a text that is too long for readers; replace what is not valid UTF-8."""
    return row.failure.encode(errors="replace")[:VALUE_BYTES_MAX].decode(errors="ignore")


def _epoch(ts: int) -> str:
    return str(ts) if ts > 0 else ""


def _clock(ts: int) -> str:
    """Format a moment as local time, as SONiC's own scripts write it."""
    return time.strftime(CLOCK_FORMAT, time.localtime(min(ts, CLOCK_TS_MAX))) if ts > 0 else ""


def _read_clock(text: str, problems: list[str]) -> str:
    if not text.strip():
        return ""
    try:
        ts = int(time.mktime(time.strptime(text.strip(), CLOCK_FORMAT)))
    except (ValueError, OverflowError):
        ts = 0
    if ts <= 0:
        problems.append(f"update_time={shown(text)} is not a time like 2026-01-31 23:59:59; taken as absent")
    return _epoch(ts)


def _read_no_fallback(text: str, problems: list[str], known: FeatureConfig | None) -> str:
    """Decode SONiC's inverted field; an absent field means: fall back."""
    default = bool(text.strip()) and known is not None and not known.fallback
    return str(not parse_bool(NO_FALLBACK, text, problems, default=default)).lower()


def _write_no_fallback(text: str) -> str:
    """Encode SONiC's inverted field: to fall back is its absence, because ctrmgrd takes any text there for yes."""
    return "" if text == "true" else "true"


def _read_detection(text: str, problems: list[str], known: FeatureConfig | None) -> str:
    default = known.failure_minutes if known is not None and text.strip() else 0
    return str(parse_int("remote_fail_detection", text, problems, default=default, most=FAILURE_MINUTES_MAX))


def _read_remote_state(text: str, problems: list[str]) -> str:
    word = text.strip().lower()
    if word and word not in _REMOTE_STATES:
        allowed = "|".join(_REMOTE_STATES)
        problems.append(f"remote_state={shown(text)} is not one of {allowed}; taken as none")
    return _REMOTE_STATES.get(word, Mode.NONE).value


def _remote_state(_feature: str, row: Row) -> str:
    """Return SONiC's word for the progress of Kubernetes.

    `ready` is a container that may continue at once, as a feature that waits for its deployment promises; `stopped` is
    one whose unit is down.
    """
    if row.transition_mode is not Mode.READY:
        return "pending" if row.transition_mode is Mode.PENDING else "none"
    if row.current_owner is Owner.KUBE:
        return "running"
    return "stopped" if row.system_state is SystemState.DOWN else "ready"


def _read_container_id(text: str, problems: list[str]) -> str:
    """Decode a container ID. A local container's name holds none: the ID is empty, and Docker is asked."""
    word = text.strip()
    if not word or CONTAINER_ID.fullmatch(word):
        return word
    if not valid_feature_name(word):
        problems.append(f"container_id={shown(word)} is neither a name nor a container ID; taken as absent")
    return ""


def _container_id(feature: str, row: Row) -> str:
    if row.docker_id and row.current_owner is Owner.LOCAL:
        return feature
    return row.docker_id[:SHORT_ID]


_SYSTEM_STATE = RowField("system_state", "system_state", _as_it_is, lambda _, row: row.system_state.value)
_CURRENT_OWNER = RowField(
    "current_owner",
    "current_owner",
    _as_it_is,
    lambda _, row: row.current_owner.value,
    default=Owner.NONE.value,
    shown=True,
)
_FAILURE = RowField("failure", "failure", _as_it_is, _failure)
_REVISION = RowField("revision", "revision", _as_it_is, lambda _, row: str(row.revision or ""))

HLD = Schema(
    config=(
        _config_as_it_is("set_owner"),
        _config_as_it_is("fallback_to_local"),
        _config_as_it_is("kube_failure_detection"),
        _config_as_it_is("failure_policy"),
        _config_as_it_is("has_per_asic_scope"),
    ),
    row=(
        _SYSTEM_STATE,
        _CURRENT_OWNER,
        RowField(
            "current_owner_update_ts",
            "current_owner_update_ts",
            _as_it_is,
            lambda _, row: _epoch(row.update_ts),
        ),
        RowField("docker_id", "docker_id", _as_it_is, lambda _, row: row.docker_id, shown=True),
        RowField(
            "transition_mode",
            "transition_mode",
            _as_it_is,
            lambda _, row: row.transition_mode.value,
            default=Mode.NONE.value,
            shown=True,
        ),
        _FAILURE,
        _REVISION,
    ),
    connected=("False", "True"),
    connected_since=("last_update_ts", str),
)

SONIC = Schema(
    config=(
        _config_as_it_is("set_owner"),
        ConfigField(NO_FALLBACK, "fallback_to_local", _read_no_fallback, _write_no_fallback),
        ConfigField("remote_fail_detection", "kube_failure_detection", _read_detection),
        _config_as_it_is("failure_policy"),
        _config_as_it_is("has_per_asic_scope"),
    ),
    row=(
        _SYSTEM_STATE,
        _CURRENT_OWNER,
        RowField("update_time", "current_owner_update_ts", _read_clock, lambda _, row: _clock(row.update_ts)),
        RowField("container_id", "docker_id", _read_container_id, _container_id, shown=True),
        RowField(
            "remote_state",
            "transition_mode",
            _read_remote_state,
            _remote_state,
            default="none",
            shown=True,
        ),
        _FAILURE,
        _REVISION,
    ),
    connected=("false", "true"),
    connected_since=("update_time", _clock),
)
