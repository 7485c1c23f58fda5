"""Cache each feature's containers, for as long as its event stream is connected.

Every event and every own call invalidates the entries that it may change.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.adapters.docker_inspect import Foreign, whose
from kubesyncd.core.model import Container, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from kubesyncd.adapters.docker_events import Event

# Docker silently drops events of a reader that stalled with 1024 waiting, so no entry is trusted for longer.
CACHE_S_MAX = 300.0
FEATURES_MAX = 1024
EXITS_MAX = 4
OOM_MAX = 256
RESTARTS_MAX = 8


class ContainerCache:
    """Containers by feature, and the exits of those that Docker has destroyed."""

    def __init__(self, namespaces: Collection[str], feature_of: Callable[[str], str]) -> None:
        self._namespaces = namespaces
        self._feature_of = feature_of
        self._exits = _Exits()
        self._cache: dict[str, tuple[float, tuple[Container, ...]]] = {}
        # Docker says so before the end of the container, which may be destroyed before it can be inspected.
        self._oom_killed: dict[str, None] = {}
        self._connected = False
        # From the last event before each restart of the engine until its events were heard again: whatever has started
        # meanwhile was started by the engine itself.
        self._restarts: deque[tuple[str, str]] = deque(maxlen=RESTARTS_MAX)
        # Counts every invalidation, so that a read which began before one is never cached after it.
        self._doubts = 0

    @property
    def connected(self) -> bool:
        """Return whether the event stream is connected."""
        return self._connected

    def connect(self, restart: tuple[str, str] | None = None) -> None:
        """Record that the event stream is connected; a read already running began without events.

        `restart`: between these times (ISO 8601) the engine has restarted.
        """
        self.doubt(())
        self._connected = True
        if restart is not None:
            self._restarts.append(restart)

    def disconnect(self) -> bool:
        """Record that the event stream is lost, and return whether it was connected."""
        lost, self._connected = self._connected, False
        self.doubt(self._cache.keys())
        return lost

    def get(self, feature: str, now: float) -> tuple[Container, ...] | None:
        """Return the feature's containers, or None where they are not cached."""
        if feature in self._cache and now - self._cache[feature][0] < CACHE_S_MAX:
            return self._cache[feature][1]
        return None

    def begin(self) -> int:
        """Begin a read; pass the result to `put`."""
        return self._doubts

    def put(
        self, feature: str, present: tuple[Container, ...], *, begun: int, now: float
    ) -> tuple[Container, ...]:
        """Return the containers that a read has found, oldest first, and the exits of destroyed ones (`gone`)."""
        present = tuple(self._judged(self._exits.completed(feature, c)) for c in present)
        self._exits.see(feature, present)
        gone = self._exits.gone(feature, present)
        known = tuple(sorted((*present, *gone), key=lambda c: (c.started, c.id)))
        # A container that is missing may be created at any moment, and its start may arrive before Docker's event.
        made = any(c.owner is Owner.LOCAL and not c.gone for c in known)
        # No event says that Docker can describe a container again.
        made = made and not any(c.unread for c in known)
        if made and self._connected and begun == self._doubts:
            if len(self._cache) >= FEATURES_MAX:
                self._cache.clear()
            self._cache[feature] = (now, known)
        return known

    def _judged(self, container: Container) -> Container:
        """Return the container; a local one with a policy that started while Docker did was started by Docker."""
        local = container.owner is Owner.LOCAL and container.running and container.restarts
        if local and any(lost < container.started < back for lost, back in self._restarts):
            return replace(container, by_policy=True)
        return container

    def take(self, event: Event) -> tuple[str, ...]:
        """Apply the event, drop the entries that it makes stale, and return the features to observe."""
        owners = [
            who
            for name in event.names
            if not isinstance(who := whose(name, event.labels, self._namespaces, self._feature_of), Foreign)
        ]
        for feature, owner in owners:
            if event.action == "die":
                self._take_die(event, feature, owner)
                continue
            if event.action == "start":
                self._exits.forget(feature, event.container_id)
                self._oom_killed.pop(event.container_id, None)
            if event.action == "oom":
                self._note_oom(event.container_id)
            self.doubt((feature,))
        return tuple(dict.fromkeys(feature for feature, _ in owners))

    def _take_die(self, event: Event, feature: str, owner: Owner) -> None:
        """Record an exit where the container is cached, without asking again.

        Docker sends `die` 10 ms before it answers an inspect, and until then a list still shows "running": waiting
        for that would delay each switch of owners by 10 ms. A `die` from before the known start is a replayed one.
        """
        read_at, known = self._cache.get(feature, (0.0, ()))
        seen = next((c for c in known if c.id == event.container_id), None)
        # A container not observed before counts as started when it ended.
        container = seen or Container(event.container_id, owner, running=False, started=event.at)
        code, image = event.labels.get("exitCode", ""), event.labels.get("image", "")
        ended = replace(
            container,
            running=False,
            paused=False,
            restarting=False,
            unread="",
            exit_code=int(code) if code.isascii() and code.isdigit() else None,
            oom_killed=container.oom_killed or event.container_id in self._oom_killed,
            unhealthy="",
            image=image,
            # The kubelet makes containers from IDs, so this also identifies one that was not observed before.
            image_id=container.image_id or (image if image.startswith("sha256:") else ""),
        )
        self._exits.add(feature, replace(ended, gone=True))
        self.doubt((feature,))
        # Docker starts it again by itself, unless it was stopped: only Docker can say.
        if seen is not None and event.at > seen.started and not seen.restarts:
            self._cache[feature] = (read_at, tuple(ended if c is seen else c for c in known))

    def _note_oom(self, container_id: str) -> None:
        self._oom_killed[container_id] = None
        if len(self._oom_killed) > OOM_MAX:
            del self._oom_killed[next(iter(self._oom_killed))]

    def doubt(self, features: Iterable[str]) -> None:
        """Invalidate these features; a read that began earlier is not cached."""
        self._doubts += 1
        for feature in tuple(features):
            self._cache.pop(feature, None)

    def doubt_all(self) -> None:
        """Invalidate every feature."""
        self.doubt(self._cache.keys())

    def doubt_container(self, container_id: str, *, ends: bool) -> None:
        """Invalidate after a call the features that have the container, or all where none has; a known exit stays."""
        having = {
            feature: container.running
            for feature, (_, known) in self._cache.items()
            for container in known
            if container.id.startswith(container_id)
        }
        if not having:
            self.doubt(self._cache.keys())
        elif not ends or any(having.values()):
            self.doubt(having)


class _Exits:
    """The exits of containers that Docker may have destroyed since: the kubelet does so after 0.7 s. Bounded."""

    def __init__(self) -> None:
        self._by_feature: dict[str, dict[str, Container]] = {}

    def add(self, feature: str, ended: Container) -> None:
        """Remember an exit; the oldest ones go when there are too many."""
        exits = self._by_feature.pop(feature, {})
        exits.pop(ended.id, None)
        exits[ended.id] = ended
        self._by_feature[feature] = exits
        if len(exits) > EXITS_MAX:
            del exits[next(iter(exits))]
        if len(self._by_feature) > FEATURES_MAX:
            del self._by_feature[next(iter(self._by_feature))]

    def forget(self, feature: str, container_id: str) -> None:
        """Drop the exit of a container that runs again."""
        self._by_feature.get(feature, {}).pop(container_id, None)

    def see(self, feature: str, present: tuple[Container, ...]) -> None:
        """Record the exits that Docker still has, oldest first."""
        for container in sorted(present, key=lambda c: c.started):
            if container.running:
                self.forget(feature, container.id)
            elif container.exit_code is not None:
                self.add(feature, replace(container, gone=True))

    def completed(self, feature: str, container: Container) -> Container:
        """Return the container with the code that its event has told, where Docker does not describe its end."""
        told = self._by_feature.get(feature, {}).get(container.id)
        if told is None or container.running or not container.unread:
            return container
        return replace(container, exit_code=told.exit_code)

    def gone(self, feature: str, present: tuple[Container, ...]) -> tuple[Container, ...]:
        """Return the remembered exits of containers that are no longer present."""
        ids = {container.id for container in present}
        return tuple(c for c in self._by_feature.get(feature, {}).values() if c.id not in ids)
