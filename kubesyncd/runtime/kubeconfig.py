"""Read the current context of a kubeconfig.

Pure: bytes in, a typed value out; no file that it names is opened, and no program that it names is started.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from kubesyncd.runtime import yaml_reader


@dataclass(frozen=True, slots=True)
class PemSource:
    """A certificate or key: `inline` (base64) or in `file`; as with kubectl, `inline` takes precedence.

    `name`: its key in the kubeconfig; `inline` stands under `name-data`.
    """

    name: str
    inline: str = ""
    file: str = ""

    def decoded(self) -> bytes:
        """Return the inline PEM text. Raises KeyError where there is none, ValueError where it is not base64."""
        if not self.inline:
            raise KeyError(f"{self.name}-data")
        return base64.b64decode(self.inline, validate=True)


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The cluster and the user of the current context; what the kubeconfig does not set is empty.

    `server`: the URL without a slash at its end. `user_keys`: every key of the user, those not read here too.
    """

    server: str
    ca: PemSource
    certificate: PemSource
    key: PemSource
    token: str
    user_keys: frozenset[str]


def parse(document: bytes) -> Kubeconfig:
    """Read a kubeconfig. Raises ValueError where it is invalid."""
    config = yaml_reader.parse(document)
    try:
        context = _named(config, "context", config["current-context"])
        cluster, user = _named(config, "cluster", context["cluster"]), _named(config, "user", context["user"])
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("it has no current context with a cluster and a user") from error
    return Kubeconfig(
        server=_text(cluster, "server").rstrip("/"),
        ca=_source(cluster, "certificate-authority"),
        certificate=_source(user, "client-certificate"),
        key=_source(user, "client-key"),
        token=_text(user, "token"),
        user_keys=frozenset(map(str, user)),
    )


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Return the entry `name` among the kubeconfig's `kind`s."""
    return {entry["name"]: dict(entry[kind]) for entry in config[f"{kind}s"]}[name]


def _source(part: dict[str, Any], name: str) -> PemSource:
    return PemSource(name, inline=_text(part, f"{name}-data"), file=_text(part, name))


def _text(part: dict[str, Any], key: str) -> str:
    value = part.get(key)
    return "" if value is None else str(value)
