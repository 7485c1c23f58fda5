"""Define the ports: what kubesyncd needs from outside, and the errors they raise.

Every method has a deadline of its own (the adapter's), and raises nothing but the errors
below; a programming error may raise anything and stops only the feature it happened on.
Event streams never end by themselves: they yield names, and `Signal.GAP` after every (re)connection:
subscribe first, yield GAP, let the reader list. While the service is away they reconnect with
full-jitter backoff (0.8 s doubling to 30 s, at most 2 s for local services).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from kubesyncd.core.certificate_life import CertificateLife
    from kubesyncd.core.feature_unit import UnitLook
    from kubesyncd.core.image_model import Stock
    from kubesyncd.core.model import (
        Container,
        FeatureConfig,
        Identity,
        MasterConfig,
        NodeSeen,
        Row,
        Signal,
        Stored,
    )


class PortError(Exception):
    """A typed failure of an external service; `service` is Redis, Docker, Kubernetes or systemd.

    `what` happened, and the `fix` to type, where one is known; `detail` has both. `file`: the one of the daemon's files
    that cannot be written, where that is the reason.
    """

    def __init__(self, service: str, what: str, *, fix: str = "", file: str = "") -> None:
        self.service = service
        self.what = what
        self.fix = fix
        self.file = file
        self.detail = f"{what}; {fix}" if fix else what
        super().__init__(f"{service}: {self.detail}")

    def meaning(self, follows: str = "") -> Self:
        """Return this error once more, with what follows from it for the reader."""
        what = f"{self.what}: {follows}" if follows else self.what
        return type(self)(self.service, what, fix=self.fix, file=self.file)


class Unavailable(PortError):
    """No answer, or an answer that asks for a later retry. Retry with backoff; never the same as `Missing`."""


class NotSent(Unavailable):
    """No connection was made, so the call has had no effect and will have none."""


class Passing(Unavailable):
    """It passes by itself: the service is away for a moment, starting or busy. Ask again within the caller's limit."""


class Lasting(Unavailable):
    """The service answers, and refuses every such call until an operator mends it; the detail names the fix."""


class Refused(PortError):
    """The service understood and refused the call; a retry does not help until something changes."""


class Forbidden(Refused):
    """The credential lacks the right; the request is valid once the right is given."""


class Hindered(Refused):
    """The service could not do it for a reason of its host's, which may pass: full disk, no memory, a port in use."""


class Missing(PortError):
    """The named object does not exist."""


class ForeignContainer(Missing):
    """The container exists and belongs to no feature; the detail says why, and what to do."""


class FeatureStore(Protocol):
    """Redis: CONFIG_DB and STATE_DB. Writes touch our own fields only, and only those that differ."""

    def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        """Yield names of features whose row changed in either database; MASTER; GAP where events may be missing.

        That is on every (re)subscription, once Redis answers again after calls have failed, and after a flush.
        `lost` is called with the reason when events are lost or calls are refused, and with an empty text when both
        are right again.
        """

    async def features(self) -> frozenset[str]:
        """Return the names of all CONFIG_DB FEATURE rows, also those that are invalid names of features."""

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        """Read one feature's config and row; an invalid config field keeps its value in `known`."""

    async def write_row(self, feature: str, row: Row) -> None:
        """Write `row` to our STATE_DB fields; an empty value removes its field."""

    async def master(self) -> MasterConfig:
        """Return the master's configuration."""

    async def write_master(self, *, connected: bool, ts: int, ip: str = "", port: int = 0) -> None:
        """Write STATE_DB `KUBERNETES_MASTER|SERVER`: connected, since when (seconds since the epoch), the address."""

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        """Mirror the label queue (`key=value`, `key-`) to STATE_DB `KUBE_SERVER|PENDING_LABELS`."""

    async def device_metadata(self) -> Mapping[str, str]:
        """Return CONFIG_DB `DEVICE_METADATA|localhost`: hwsku, platform, type …, unchanged."""


class Containers(Protocol):
    """Docker's containers.

    A local container is named after its feature. A kube one was made by the kubelet, in a pod of one of `[kube]
    namespaces`, and the manifest names it after the feature. Every other container is foreign: never listed.
    """

    def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        """Yield names of features with a container that started, paused, ended or went; GAP on (re)connection.

        IMAGES where an image was added, removed or renamed.
        `lost`: as for FeatureStore.events.
        """

    async def list(self, feature: str, granted: str = "") -> tuple[Container, ...]:
        """Return the feature's containers, and the exits of recently destroyed ones.

        All that run are among them, whatever Docker says of each (`Container.unread`), and `granted`, an ID; of the
        others the newest few.
        """

    async def start(self, container_id: str) -> None:
        """Start the container; a running one is success. Raises Missing, Refused, Hindered, Unavailable."""

    async def unpause(self, container_id: str) -> None:
        """Unpause it; one that is not paused is success. Raises Missing, Refused, Unavailable."""

    async def stop(self, container_id: str, grace_s: int) -> None:
        """Send SIGTERM, SIGKILL after `grace_s`; an ended or missing container is success. Return after the end."""

    async def kill(self, container_id: str, signal: str) -> None:
        """Send `signal`; an ended or missing container is success."""

    async def identify(self, container_id: str) -> Identity:
        """Return the feature and owner of a running container. Raises Missing, ForeignContainer."""


class Cluster(Protocol):
    """The Kubernetes API server, with the kubelet's own credential, about the own Node only."""

    def watch(self) -> AsyncIterator[NodeSeen | None]:
        """Yield the own Node on connection and at every change of its labels (None: the Node does not exist).

        Ends by raising Unavailable when the link is dead (refused, closed: at once; silent: within 40 s).
        """

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        """Change labels by one merge-PATCH on the own Node, within 5 s; None removes a label.

        Raises Refused with the reason where the API server refuses a label (400, 422, a 403 of its admission),
        Forbidden where it refuses the credential, Missing on 404 (the Node is not registered), else Unavailable.
        """

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        """Change the own Node's annotations, as `apply_labels` changes its labels."""

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        """Send an Event about the own Node: a word in CamelCase, and a sentence. Raises Refused, Unavailable."""

    async def close(self) -> None:
        """Close every connection."""


class DurableFile(Protocol):
    """One small file that outlives the daemon and the boot. A write may take seconds; only its caller waits for it."""

    def load(self) -> bytes | None:
        """Read the content; None: the file does not exist. Raises Unavailable.

        Blocks: call it before the loop serves requests.
        """

    async def read(self) -> bytes | None:
        """Read the content as `load` does; only its caller waits for the disk. Raises Unavailable."""

    async def save(self, data: bytes) -> None:
        """Replace the content, durably and atomically; after a cancellation it may be done. Raises Unavailable."""

    async def forget(self) -> None:
        """Remove the file, durably; a missing file is success. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a hook. `text`: its last line, or why it has none; `ended` False: it took too long."""

    code: int
    text: str
    ended: bool = True

    @property
    def good(self) -> bool:
        """Whether the hook succeeded."""
        return self.ended and self.code == 0


class Hooks(Protocol):
    """Programs that an operator has put into a folder of the hooks' directory, such as `check.d`."""

    def names(self, folder: str) -> tuple[str, ...]:
        """Return the programs' file names, in order. Programs that others than root may write are skipped."""

    async def run(self, folder: str, name: str, arguments: tuple[str, ...], seconds: float) -> Ran:
        """Run one hook to its end, or kill it after `seconds`. Raises Refused where it cannot be started."""


class Images(Protocol):
    """Docker's images. Raises Refused with Docker's own reason (a full disk too), else Unavailable."""

    async def stock(self) -> Stock:
        """Return all images, and the IDs of those that containers were made from."""

    async def exists(self, reference: str) -> bool:
        """Return whether an image has this name or ID. Raises Refused for an invalid one."""

    async def made_from(self, feature: str) -> str:
        """Return the image name that the feature's local container was made from; empty without a container."""

    async def tag(self, image_id: str, name: str) -> None:
        """Tag this image as `name`. Raises Missing where the image does not exist."""

    async def remove(self, reference: str) -> None:
        """Remove a name, or an image without one; a missing one is success. Raises Refused for an image in use."""

    async def renew(self, feature: str, name: str) -> bool:
        """Recreate the feature's stopped local container from the current image `name`, otherwise unchanged.

        Returns whether it was recreated. A running, missing or already current container is left unchanged.
        """

    async def unfinished(self) -> tuple[str, ...]:
        """Return the features whose local container is incomplete after a power cut in `renew`."""

    async def finish(self, feature: str) -> bool:
        """Complete an interrupted `renew`; return whether it restored a lost local container."""

    async def localize(self, feature: str, container_id: str, name: str) -> tuple[str, ...]:
        """Create the feature's missing local container from the image `name`.

        It is modelled on the kube container `container_id`. Returns the paths of mounts that only Kubernetes provides.
        Raises Missing.
        """

    async def unlocalize(self, feature: str) -> bool:
        """Remove the feature's local container if `localize` made it; return whether. Refused for a running one."""


class Units(Protocol):
    """systemd, called with argument lists, never a shell."""

    async def kubelet_running(self) -> bool:
        """Return whether the kubelet's unit is active."""

    async def kubelet_trouble(self) -> str:
        """Return why the kubelet does not run well though it should, with what to type; empty where it does."""

    async def start_kubelet(self) -> None:
        """Enable and start the kubelet."""

    async def stop_kubelet(self) -> None:
        """Stop and disable the kubelet; its containers keep running."""

    async def restart_kubelet(self) -> None:
        """Restart the kubelet, which registers its Node when it starts; its containers keep running."""

    async def restart(self, feature: str) -> None:
        """Run `reset-failed`, then `restart --no-block` on the feature's unit."""

    async def makes_local(self, feature: str) -> bool:
        """Return whether the feature has a unit whose script can create a local container. Raises Unavailable.

        The units that kubesyncd writes, of features that only Kubernetes runs, create none.
        """

    async def unit_exists(self, feature: str) -> bool:
        """Return whether systemd has a unit of the feature that can run; a masked one cannot. Raises Unavailable."""

    async def phases(self, units: Sequence[str]) -> tuple[UnitLook, ...]:
        """Return what systemd does with each of these units. Raises Unavailable."""


class Jobs(Protocol):
    """The systemd calls that run a job as a oneshot unit."""

    async def begin(self, unit: str) -> None:
        """Start a oneshot unit; returns once the job is queued. Raises Refused, Unavailable."""

    async def end(self, unit: str) -> None:
        """Stop the unit. Raises Refused, Unavailable."""

    async def pending(self, unit: str) -> bool:
        """Return whether the unit is queued, starting or running. Raises Unavailable."""


class ServiceUnits(Protocol):
    """The systemd calls that installing and removing a service need."""

    async def has_unit(self, feature: str) -> bool:
        """Return whether the service exists."""

    async def active(self, feature: str) -> bool:
        """Return whether the service runs."""

    async def starts_at_boot(self, feature: str) -> bool:
        """Return whether the service is enabled."""

    async def reload(self) -> None:
        """Read all unit files again."""

    async def enable(self, feature: str) -> None:
        """Enable the service according to its current unit file."""

    async def disable(self, feature: str) -> None:
        """Disable the service."""

    async def stop(self, feature: str) -> None:
        """Stop the service; return when it has ended."""

    async def restart(self, feature: str) -> None:
        """Start the service, or restart it where it runs; return once the job is queued."""


class FeatureRows(Protocol):
    """The rows of a feature that is installed or removed, and the daemon, which keeps one of them."""

    def daemon_answers(self) -> None:
        """Check that the daemon answers. Raises Unavailable."""

    def feature_row(self, feature: str) -> dict[str, str]:
        """Return CONFIG_DB's row as stored; empty where it does not exist. Raises Unavailable, Refused."""

    def replace_feature_row(self, feature: str, fields: Mapping[str, str]) -> None:
        """Make CONFIG_DB's row exactly `fields`; remove it where they are empty. Raises Unavailable."""

    def forget(self, feature: str) -> None:
        """Make the daemon forget the feature and remove its STATE_DB row. Raises Unavailable, Refused."""


class SwitchFiles(Protocol):
    """What this switch stores in files."""

    def hold_exists(self) -> bool:
        """Return whether a reboot is being prepared."""

    def os_version(self) -> str:
        """Return the SONiC version."""

    def credential_life(self) -> CertificateLife | None:
        """Return the validity of the kubelet's certificate; None: not known."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed ed25519 signature of `message`: `key` (32 bytes), `signature` (64 bytes)."""

    key: bytes
    signature: bytes
    message: bytes


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file of an https server and its ETag; `body` None: unchanged since the given ETag."""

    body: bytes | None
    etag: str
