"""Declare the JSON objects that the daemon sends to the `kubesync` command.

The daemon builds them and the command reads them, so that mypy checks every key on both sides. Knows JSON's types only.
Keys are part of the wire protocol: a newer daemon may add some, and a reader ignores those that it does not know.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ConfigDescription(TypedDict):
    """A feature's configuration, parsed."""

    set_owner: str
    fallback: bool
    failure_minutes: int
    failure_policy: str | None
    local_only: bool
    why_local: str
    always_local: bool


class RowDescription(TypedDict):
    """A feature's STATE_DB row, parsed."""

    system_state: str
    current_owner: str
    transition_mode: str
    docker_id: str
    update_ts: int
    failure: str
    revision: int
    startup: NotRequired[str]
    version: NotRequired[str]


class LabelDescription(TypedDict):
    """The label queue's state of a feature's label; times are BOOTTIME seconds."""

    value: str
    pending: bool
    failed: bool
    refused: str
    contested: NotRequired[str]
    queued_at: float | None
    acked_at: float | None


class ContainerDescription(TypedDict):
    """One container of a feature. `exit_code` is None while it runs, and when Docker no longer has it."""

    id: str
    owner: str
    running: bool
    exit_code: int | None
    started: str
    image: str
    gone: bool
    image_id: str
    paused: NotRequired[bool]
    restarting: NotRequired[bool]
    restarts: NotRequired[bool]
    restart_policy: NotRequired[str]
    by_policy: NotRequired[bool]
    unread: NotRequired[str]
    oom_killed: NotRequired[bool]
    unhealthy: NotRequired[str]
    stop_timeout_s: NotRequired[int | None]
    pod: NotRequired[str]
    version: NotRequired[str]


class ComplaintDescription(TypedDict):
    """A report that a container is unhealthy."""

    container_id: str
    source: str
    reason: str


class NextDescription(TypedDict):
    """The next change by time alone: the state and its reason, and what it will prove."""

    state: str
    why: str
    acts: bool
    stable: bool
    failed: str


# `at`: seconds since the epoch. The functional form, because `from` is a keyword.
TransitionDescription = TypedDict("TransitionDescription", {"at": float, "from": str, "to": str, "why": str})


class FeatureDescription(TypedDict):
    """One line of the answer to `show`: a feature, its state, and what happens next."""

    feature: str
    state: str
    meaning: str
    since: float
    why: str
    next_in_s: float | None
    next: NextDescription | None
    config: ConfigDescription
    row: RowDescription
    joined: bool
    no_deploy: NotRequired[str]
    no_way_back: NotRequired[str]
    waiting: list[str]
    stopping: list[str]
    granted: str
    proven: bool
    label: LabelDescription
    crashes: int
    refused_for_s: float
    rolled_back: bool
    failed_image: str
    boot_fallback: bool
    troubles: list[str]
    conditions: NotRequired[list[str]]
    complaints: list[ComplaintDescription]
    starts_in_vain: int
    containers: list[ContainerDescription]
    history: list[TransitionDescription]


class JobStepDescription(TypedDict):
    """One step of a join or reset."""

    step: str
    ok: bool
    took_s: float
    detail: str


class JobDescription(TypedDict, total=False):
    """The last join or reset of this boot; empty if there was none."""

    job: str
    phase: str
    master: str
    forced: bool
    says: str
    left_over: list[str]
    since_s: float
    retry_in_s: float
    steps: list[JobStepDescription]


class RefusedContainerDescription(TypedDict):
    """A container that was refused a feature. `at`: seconds since the epoch, of the last of `times` refusals."""

    feature: str
    container_id: str
    why: str
    times: int
    at: float


class ClusterDescription(TypedDict):
    """The answer to `cluster`: the master, this node's labels, and the kubelet.

    Names with `_ts` are seconds since the epoch. `kubelet` is None while it has not been observed. `unwritten_files`:
    why files of the daemon could not be written, and what that means, after a write for it where CHECK_FILES asks.
    """

    node: NotRequired[str]
    renamed: NotRequired[str]
    master: str
    disabled: bool
    insecure: bool
    joined: bool
    connected: bool
    why_disconnected: str
    last_update_ts: int
    credential_expires_ts: int | None
    node_exists: bool | None
    node_labels: NotRequired[dict[str, str] | None]
    node_state: NotRequired[str]
    node_gone: NotRequired[str]
    drifted: NotRequired[dict[str, str | None]]
    wished: NotRequired[dict[str, str]]
    hold: bool
    kubelet: bool | None
    kubelet_may_run: bool
    kubelet_why: str
    kubelet_trouble: NotRequired[str]
    pending: list[str]
    failed: list[str]
    applied: dict[str, str]
    refused: dict[str, str]
    why_pending: str
    retry_in_s: float
    unwritten_files: NotRequired[list[str]]
    membership: NotRequired[JobDescription]
    refused_containers: NotRequired[list[RefusedContainerDescription]]


class ImageDescription(TypedDict):
    """One line of the answer to `images`. `created`: seconds since the epoch, `size`: bytes."""

    feature: str
    image: str
    names: list[str]
    role: str
    used: bool
    created: int
    size: int


class RemovedImageDescription(TypedDict):
    """One line of the answer to `image-gc`."""

    feature: str
    removed: str


class PreparationStepDescription(TypedDict):
    """One line of the answer to `reboot-prepare`, and the answer to `reboot-undo`."""

    grade: str
    what: str
    text: str
