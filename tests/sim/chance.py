"""Draw everything that one seed decides: which faults happen, how often, and with which error text.

One random generator owns every draw. Each seed arms its own mix of fault kinds (a swarm): a kind that is not
armed never strikes, so rare combinations get room. What happens is told line by line; the digest of those
lines is the run's trace.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")
    # What someone does in a storm; a strike draws from the random stream of its kind.
    Act = Callable[[], Coroutine[Any, Any, None]]
    Strike = Callable[[Random], Coroutine[Any, Any, None]]

STORY_LINES = 400
ARMED_SHARE = 0.4


class Fault(StrEnum):
    """What may go wrong. Those of a call strike with a chance of their own, the rest last for a while."""

    NOTE_LOST = "a notification is lost"
    NOTE_TWICE = "a notification comes twice"
    NOTE_LATE = "a notification is late"
    RESUBSCRIBED = "a subscription is replaced, what was told meanwhile is lost"
    REDIS_ERROR = "a Redis call fails"
    REDIS_DOWN = "Redis is away"
    ROW_FLUSHED = "STATE_DB is flushed"
    RELOAD = "config reload"
    POISON = "a FEATURE row holds nonsense"
    DOCKER_ERROR = "a Docker call fails and does nothing"
    DOCKER_DONE_ERROR = "a Docker call does it and fails"
    DOCKER_DOWN = "Docker does not answer"
    DOCKER_RESTART = "dockerd restarts and takes every container with it"
    STOP_SLOW = "a container ignores SIGTERM"
    NAME_CONFLICT = "docker start is refused"
    GONE_MIDCALL = "a container is removed in the middle of a call"
    API_DOWN = "the API server refuses connections"
    API_SILENT = "the API server is silent (half open)"
    API_SLOW = "the API server takes seconds to answer"
    API_TLS = "the API server's certificate has expired"
    API_FORBIDDEN = "401 or 403"
    API_MISSING = "404 on the own Node"
    API_BUSY = "409, 410, 429 or 500"
    API_INVALID = "422: the master refuses a label"
    REPLY_LOST = "the label patch is applied, its reply is lost"
    DRIFT = "someone else changes our label on the Node"
    WITHDRAWN = "the master's operator withdraws a manifest"
    MASTER_DISABLED = "the operator disables the master for a while"
    HOLD = "a reboot is prepared, and undone"
    WALL_JUMP = "the wall clock jumps"
    KUBELET_STUCK = "systemctl fails on the kubelet"
    DAEMON_KILLED = "the daemon is killed"
    DAEMON_RESTARTED = "the daemon is restarted"
    CLIENT_GONE = "a client goes away in the middle of its request"
    CLIENT_FORGES = "a container speaks for another feature"
    SHORT_READ = "a request arrives in pieces"
    EARLY_WAKE = "a reconciler is woken for nothing"
    DISK_FULL = "the disk is full"
    LOCAL_CRASH = "a local container crashes"
    KUBE_CRASH = "a kube container crashes"
    SAYS_UNHEALTHY = "a kube container says that it is unhealthy"
    BY_HAND_START = "someone starts a container by hand"
    BY_HAND_STOP = "someone stops a container by hand"
    BY_HAND_RM = "someone removes a container by hand"
    SWIZZLE = "Redis, Docker and the API server go one by one and come back in another order"
    REBOOT = "the switch reboots"
    UNKNOWN_NAME = "a verb names a feature that does not exist"
    DEREGISTERED = "a feature is registered and deregistered again"
    ROW_REFUSED = "STATE_DB takes no writes"
    LOCAL_BROKEN = "a local container cannot be started"
    DOCKER_SLOW = "Docker takes 45 s for a call"
    SILENT_POD = "a kube container's image has no gate"
    FOREIGN_POD = "a foreign pod's container asks for a feature"
    RESTART_POLICY = "a local container has a restart policy"
    POLICY_START = "Docker starts an ended local container with itself, by its restart policy"
    PRUNED = "a local container that does not run and its image are pruned"
    UNREAD = "Docker does not describe a container"
    NODE_TAINTED = "the Node has a taint that evicts, or is not ready"
    NODE_DELETED = "the Node is deleted on the master"
    STORE_OLDER = "a master with an older store takes over"
    CONTESTED = "another controller keeps removing a label"
    LABEL_DENIED = "an admission webhook denies a label"
    HOST_RENAMED = "the host is renamed"
    ROW_REWRITTEN = "a FEATURE row is deleted and written again"
    STRAY_POD = "a pod follows no label"
    SLOW_CRASH = "a kube container lives a little longer than kube_stable_s and ends, again and again"
    LEDGER_SLOW = "the ledger's disk takes seconds for a write"
    LEDGER_LOST = "the ledger is lost while the daemon is away"
    MARK_LOST = "the boot's mark is gone, and takes no writes"
    FILE_UNWRITABLE = "one of the daemon's files takes no writes"
    START_LATE = "Docker carries out a start long after it was asked, also for a daemon that is gone"
    CONNECTION_LIMIT = "the daemon is at its limit of connections"
    REDIS_BUSY = "Redis answers that it is busy"
    REDIS_LOCKED = "Redis asks for another password"
    ROW_POD = "a kube container's image is SONiC's own, and asks by STATE_DB's row"
    WAY_BACK_UNKNOWN = "systemd or Docker does not say whether a local container can be made"


# Each of these draws from a random stream of its own, so that a storm in which it is not armed plays as it did before
# the kind existed.
OWN_STREAM = (
    Fault.UNKNOWN_NAME,
    Fault.DEREGISTERED,
    Fault.ROW_REFUSED,
    Fault.LOCAL_BROKEN,
    Fault.DOCKER_SLOW,
    Fault.SILENT_POD,
    Fault.FOREIGN_POD,
    Fault.RESTART_POLICY,
    Fault.POLICY_START,
    Fault.PRUNED,
    Fault.UNREAD,
    Fault.NODE_TAINTED,
    Fault.NODE_DELETED,
    Fault.STORE_OLDER,
    Fault.CONTESTED,
    Fault.LABEL_DENIED,
    Fault.HOST_RENAMED,
    Fault.ROW_REWRITTEN,
    Fault.STRAY_POD,
    Fault.SLOW_CRASH,
    Fault.LEDGER_SLOW,
    Fault.START_LATE,
    Fault.CONNECTION_LIMIT,
    Fault.LEDGER_LOST,
    Fault.FILE_UNWRITABLE,
    Fault.MARK_LOST,
    Fault.REDIS_BUSY,
    Fault.REDIS_LOCKED,
    Fault.WAY_BACK_UNKNOWN,
    Fault.ROW_POD,
)


class Chance:
    """One seed's draws, its armed faults, and the story so far."""

    def __init__(self, rng: Random, now: Callable[[], float], seed: int = 0) -> None:
        self.rng = rng
        self.streams = {fault: Random(f"{seed}/{fault.name}") for fault in OWN_STREAM}
        self.calm = False
        self.struck: Counter[Fault] = Counter()
        self._now = now
        self._digest = hashlib.blake2b(digest_size=8)
        self._story: deque[str] = deque(maxlen=STORY_LINES)
        draws = {fault: self.streams.get(fault, rng) for fault in Fault}
        self.armed = {
            fault: draw.uniform(0.01, 0.15) for fault, draw in draws.items() if draw.random() < ARMED_SHARE
        }

    def strikes(self, fault: Fault, about: str = "") -> bool:
        """Whether `fault` strikes here and now."""
        chance = 0.0 if self.calm else self.armed.get(fault, 0.0)
        if not chance or self.streams.get(fault, self.rng).random() >= chance:
            return False
        self.strike(fault, about)
        return True

    def drawn(self, fault: Fault, share: float, about: str = "") -> bool:
        """Whether a fault with a random stream of its own strikes, where it is armed, with this chance."""
        if self.calm or fault not in self.armed or self.streams[fault].random() >= share:
            return False
        self.strike(fault, about)
        return True

    def strike(self, fault: Fault, about: str = "") -> None:
        """Note that it has."""
        self.struck[fault] += 1
        self.tell("FAULT", f"{fault.value} {about}".rstrip())

    def tell(self, who: str, what: str) -> None:
        """One line of the story."""
        line = f"{self._now():10.3f} {who:10} {what}"
        self._digest.update(line.encode())
        self._story.append(line)

    def between(self, least: float, most: float) -> float:
        """A draw."""
        return self.rng.uniform(least, most)

    def one_of(self, what: Sequence[T]) -> T:
        """A draw."""
        return self.rng.choice(what)

    def lasts_s(self) -> float:
        """Draw how long a fault lasts."""
        return self.one_of((0.3, 3.0, 15.0, 60.0)) * self.between(0.5, 2.0)

    @property
    def trace(self) -> str:
        """What the whole story so far comes to."""
        return self._digest.hexdigest()

    @property
    def story(self) -> str:
        """The last lines of it."""
        return "\n".join(self._story)
