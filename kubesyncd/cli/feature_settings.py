"""Parse the settings of `config feature NAME owner kube fallback true …`, and complete them in a shell.

Knows click's parameter types; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.core.model import FailurePolicy, Owner
from kubesyncd.core.parse import FAILURE_MINUTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ON_OFF = {"on": "true", "off": "false", "true": "true", "false": "false", "yes": "true", "no": "false"}
WORDS = ("owner", "fallback", "failmode", "policy")


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """The settings of a feature that one command changes; None: unchanged."""

    owner: Owner | None = None
    fallback: bool | None = None
    failmode: int | None = None
    policy: FailurePolicy | None = None

    def fields(self) -> dict[str, str]:
        """Return the settings as CONFIG_DB fields."""
        wanted = {
            "set_owner": None if self.owner is None else self.owner.value,
            "fallback_to_local": None if self.fallback is None else str(self.fallback).lower(),
            "kube_failure_detection": None if self.failmode is None else str(self.failmode),
            "failure_policy": None if self.policy is None else self.policy.value,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def command_for(feature: str, setting: str, value: str) -> str:
    """Return the command that sets a feature's CONFIG_DB setting (the design document's name) to its parsed value."""
    if setting == "fallback_to_local":
        return f"kubesync config feature fallback {feature} {'on' if value == 'true' else 'off'}"
    return f"kubesync config feature {feature} failmode {value or 0}"


def parse_change(words: Sequence[str]) -> FeatureChange:
    """Parse `owner kube fallback true …`, in any order, each setting at most once. Raises UsageError."""
    got: dict[str, str] = {}
    for at in range(0, len(words), 2):
        key = _setting(words[at])
        if key in got:
            raise click.UsageError(f"{key} is given twice")
        if at + 1 >= len(words):
            raise click.UsageError(f"{key} needs a value: {_values(key)}")
        got[key] = words[at + 1].lower()
    if not got:
        raise click.UsageError("no setting is given")
    return FeatureChange(
        owner=Owner(_chosen("owner", got["owner"])) if "owner" in got else None,
        fallback=_chosen("fallback", got["fallback"]) == "true" if "fallback" in got else None,
        failmode=_minutes(got["failmode"]) if "failmode" in got else None,
        policy=FailurePolicy(_chosen("policy", got["policy"])) if "policy" in got else None,
    )


_CHOICES: Mapping[str, Mapping[str, str]] = {
    "owner": {"local": "local", "kube": "kube", "kubernetes": "kube"},
    "fallback": ON_OFF,
    "policy": {policy.value: policy.value for policy in FailurePolicy},
}


# Shell completion after each word.
OFFERED = {"owner": ["local", "kube"], "fallback": ["true", "false"], "policy": list(_CHOICES["policy"])}


def _setting(word: str) -> str:
    meant = [name for name in WORDS if name.startswith(word.lower())]
    if word.lower() in WORDS:
        meant = [word.lower()]
    if len(meant) != 1:
        raise click.UsageError(f"{word[:40]!a} is not one of {', '.join(WORDS)}")
    return meant[0]


def _values(key: str) -> str:
    if key == "failmode":
        return "minutes, 0 for never"
    return "true or false" if key == "fallback" else " or ".join(dict.fromkeys(_CHOICES[key].values()))


def _chosen(key: str, word: str) -> str:
    if word not in _CHOICES[key]:
        raise click.UsageError(f"invalid {key} {word[:40]!a}: must be {_values(key)}")
    return _CHOICES[key][word]


def _minutes(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 7 and int(word) <= FAILURE_MINUTES_MAX):
        text = (
            f"invalid failmode {word[:20]!a}: must be whole minutes from 0 (never) to {FAILURE_MINUTES_MAX}"
        )
        raise click.UsageError(text)
    return int(word)


class Setting(click.ParamType):  # type: ignore[type-arg]
    """One word of `owner kube fallback true …`, with shell completion of the valid next words."""

    name = "setting"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """See click."""
        from click.shell_completion import CompletionItem

        given = [word.lower() for word in ctx.params.get(str(param.name)) or ()]
        offered = [word for word in WORDS if word not in given[::2]]
        if len(given) % 2:
            offered = OFFERED.get(given[-1], [])
        return [CompletionItem(word) for word in offered if word.startswith(incomplete.lower())]
