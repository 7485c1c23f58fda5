"""Define what kubesyncd needs from outside: the ports, in our own words, and three errors.

Every method has a deadline of its own (the adapter's), and raises nothing but the three errors
below; a programming error may raise anything and stops only the feature it happened on.
Event streams never end by themselves: they yield names, and `Signal.GAP` after every (re)connection:
subscribe first, yield GAP, let the reader list. While the service is away they reconnect with
full-jitter backoff (0.8 s doubling to 30 s, at most 2 s for local services).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from kubesyncd.core.image_model import Stock
    from kubesyncd.core.model import Container, FeatureConfig, Identity, MasterConfig, Row, Signal, Stored


class PortError(Exception):
    """A typed failure of something outside; `service` is Redis, Docker, Kubernetes or systemd."""

    def __init__(self, service: str, detail: str) -> None:
        super().__init__(f"{service}: {detail}")
        self.service = service
        self.detail = detail


class Unavailable(PortError):
    """No answer, or an answer that says: later. Worth a retry with backoff; never the same as `Missing`."""


class Refused(PortError):
    """Understood and refused: repeating the call will not help until something changes."""


class Forbidden(Refused):
    """Our credential is refused, not what we asked for: it stands once somebody has given us the right."""


class Missing(PortError):
    """The thing named does not exist."""


class FeatureStore(Protocol):
    """Redis: CONFIG_DB and STATE_DB. Writes touch our own fields only, and only those that differ."""

    def events(self) -> AsyncIterator[str | Signal]:
        """Names of features whose row changed in either database; MASTER; GAP on every (re)subscription."""

    async def features(self) -> frozenset[str]:
        """Valid names of all CONFIG_DB FEATURE rows."""

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        """One feature's config and row; a config field that nobody can use stays as it is `known`."""

    async def write_row(self, feature: str, row: Row) -> None:
        """Make our STATE_DB fields say `row`: an empty value removes its field."""

    async def master(self) -> MasterConfig:
        """The master's configuration."""

    async def write_master(self, *, connected: bool, ts: int) -> None:
        """STATE_DB `KUBERNETES_MASTER|SERVER`: connected, and since when (seconds since the epoch)."""

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        """Mirror the label queue (`key=value`, `key-`) to STATE_DB `KUBE_SERVER|PENDING_LABELS`."""

    async def device_metadata(self) -> Mapping[str, str]:
        """CONFIG_DB `DEVICE_METADATA|localhost`: hwsku, platform, type …, as they stand."""


class Containers(Protocol):
    """Docker. A local container is named after its feature; a kube one has the label
    `io.kubernetes.container.name=<feature>` (its sandbox, `io.kubernetes.docker.type=podsandbox`, is not counted).
    """

    def events(self) -> AsyncIterator[str | Signal]:
        """Names of features with a container that started, died or was destroyed; GAP on every (re)connection."""

    async def list(self, feature: str) -> tuple[Container, ...]:
        """All containers of the feature, running or not, and the exits of those lately destroyed."""

    async def start(self, container_id: str) -> None:
        """Start it; running already is success."""

    async def stop(self, container_id: str, grace_s: int) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; ended or gone already is success. Returns when it has ended."""

    async def kill(self, container_id: str, signal: str) -> None:
        """Send `signal`; ended or gone already is success."""

    async def identify(self, container_id: str) -> Identity:
        """Which feature a running container is. Raises Missing where it is no feature's."""


class Cluster(Protocol):
    """The Kubernetes API server, with the kubelet's own credential, about the own Node only."""

    def watch(self) -> AsyncIterator[Mapping[str, str] | None]:
        """The own Node's labels on connection and at every change (None: the Node does not exist yet).
        Ends by raising Unavailable when the link is dead (refused, closed: at once; silent: within 40 s).
        """

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        """One merge-PATCH on the own Node; None removes. Within 5 s. Raises Refused with the reason on 422,
        Forbidden on 403, Missing on 404 (the kubelet has not created the Node yet), else Unavailable.
        """

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        """The same for the own Node's annotations."""

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        """An Event about the own Node: a word in CamelCase, and a sentence. Raises Refused, Unavailable."""

    async def close(self) -> None:
        """Let go of every connection."""


class DurableFile(Protocol):
    """One small file that outlives us and the boot. Its disk may take seconds, and only who needs it waits for it."""

    def load(self) -> bytes | None:
        """Its content; None: there is no such file. To be called before there is anybody to hold up. Raises
        Unavailable.
        """

    async def save(self, data: bytes) -> None:
        """Replace its content, durably, as a whole; who is cancelled cannot tell whether it was. Raises Unavailable."""

    async def forget(self) -> None:
        """Take it away, durably; gone already is success. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a hook ended. `text`: its last line, or why there is none; `ended` False: it took too long."""

    code: int
    text: str
    ended: bool = True

    @property
    def good(self) -> bool:
        """Whether it did what it should."""
        return self.ended and self.code == 0


class Hooks(Protocol):
    """Programs that an operator has put into a folder of the hooks' directory, such as `check.d`."""

    def names(self, folder: str) -> tuple[str, ...]:
        """The programs' file names, in order. Those that others than root may write are left out, and said so once."""

    async def run(self, folder: str, name: str, arguments: tuple[str, ...], seconds: float) -> Ran:
        """Run one to its end, or kill it after `seconds`. Raises Refused where it cannot be started."""


class Images(Protocol):
    """Docker's images. Raises Refused with Docker's own reason (a full disk too), else Unavailable."""

    async def stock(self) -> Stock:
        """All images, and which ones containers were made from."""

    async def made_from(self, feature: str) -> str:
        """The image's name that the feature's local container was made from; empty without a container."""

    async def tag(self, image_id: str, name: str) -> None:
        """Let `name` name this image. Raises Missing where there is no such image."""

    async def remove(self, reference: str) -> None:
        """Take a name, or an image without one, away; gone already is success. Never one in use: Refused."""

    async def renew(self, feature: str, name: str) -> bool:
        """Make the feature's stopped local container anew from the image that `name` names now, otherwise as it was.

        Returns whether it was. One that runs, is not there, or is of that image already stays as it is.
        """

    async def unfinished(self) -> tuple[str, ...]:
        """Features whose local container a power cut in `renew` has left half made."""

    async def finish(self, feature: str) -> bool:
        """Finish that; whether the feature had lost its local container, and has it again."""

    async def localize(self, feature: str, container_id: str, name: str) -> tuple[str, ...]:
        """Make the feature's local container, which it has not, after the kube container `container_id`, from the image
        that `name` names. Returns the paths at which Kubernetes mounts what only Kubernetes has. Raises Missing.
        """

    async def unlocalize(self, feature: str) -> bool:
        """Remove the feature's local container if `localize` made it; whether it did. Never one that runs: Refused."""


class Units(Protocol):
    """systemd. Always argument lists, never a shell."""

    async def kubelet_running(self) -> bool:
        """Whether the kubelet's unit is active."""

    async def start_kubelet(self) -> None:
        """Enable and start the kubelet."""

    async def stop_kubelet(self) -> None:
        """Stop and disable the kubelet; its containers stay as they are."""

    async def restart(self, feature: str) -> None:
        """`reset-failed`, then `restart --no-block` the feature's unit."""


class File(Protocol):
    """Where the ledger is kept: one small file, replaced as a whole."""

    def load(self) -> bytes | None:
        """Its content; None: there is no such file. Raises Unavailable."""

    def save(self, data: bytes) -> None:
        """Replace its content as a whole. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`key` (32 bytes, ed25519) is said to have signed `message` with `signature` (64 bytes)."""

    key: bytes
    signature: bytes
    message: bytes
