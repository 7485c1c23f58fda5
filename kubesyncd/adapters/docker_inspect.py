"""Read a container's `docker inspect`, and find the feature that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.model import Container, Owner, valid_feature_name
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiodocker.containers import DockerContainer

KUBE_NAME = "io.kubernetes.container.name"
KUBE_TYPE = "io.kubernetes.docker.type"
SANDBOX = "podsandbox"
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Described:
    """The used part of one `docker inspect`. `started` is "" for a container that never ran."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    exit_code: int
    started: str
    image: str
    image_id: str


def whose(name: str, labels: Mapping[str, str]) -> tuple[str, Owner] | None:
    """Return the feature and owner of a container called `name`, or None. The label takes precedence."""
    if labels.get(KUBE_TYPE) == SANDBOX:
        return None
    owner = Owner.KUBE if KUBE_NAME in labels else Owner.LOCAL
    feature = labels.get(KUBE_NAME, name.removeprefix("/"))
    return (feature, owner) if valid_feature_name(feature) else None


def describe(found: DockerContainer) -> Described:
    """Decode one `docker inspect`. Raises Unavailable where it is invalid."""
    try:
        state, config = found["State"], found["Config"]
        return Described(
            id=str(found["Id"]),
            name=str(found["Name"]),
            labels={str(k): str(v) for k, v in (config["Labels"] or {}).items()},
            running=bool(state["Running"]),
            exit_code=int(state["ExitCode"]),
            started=_instant(str(state["StartedAt"])),
            image=str(config["Image"]),
            image_id=str(found["Image"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unavailable("Docker", f"an unreadable container: {error!r}") from error


def container_of(found: Described, owner: Owner) -> Container:
    """Return the container as the core knows it; a container that never ran has no exit code."""
    ended = bool(found.started) and not found.running
    return Container(
        id=found.id,
        owner=owner,
        running=found.running,
        exit_code=found.exit_code if ended else None,
        started=found.started,
        image=found.image,
        image_id=found.image_id,
    )


def _instant(text: str) -> str:
    """Return Docker's time with all nine decimals (it trims zeros), so that text sorts by age; "" for never."""
    if not text or text == NEVER:
        return ""
    seconds, _, decimals = text.removesuffix("Z").partition(".")
    return f"{seconds}.{decimals:0<9}Z"
