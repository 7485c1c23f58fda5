"""Read and write the data of the daemon and Redis, for all operator commands.

Knows the socket protocol, Redis and systemctl; must not know click or print. Every request has a deadline, so that a
command answers within three seconds even if services are down. Errors are those of `ports`, and `Declined`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kubesyncd.core import protocol
from kubesyncd.core.model import Row, valid_feature_name
from kubesyncd.core.parse import parse_master_config
from kubesyncd.ports import Forbidden, Refused, Unavailable
from kubesyncd.runtime.x509 import not_after

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from kubesyncd.adapters.db_schema import Schema
    from kubesyncd.adapters.kube_lists import KubeAdmin
    from kubesyncd.adapters.redis_place import Place
    from kubesyncd.core.model import FeatureConfig, MasterConfig
    from kubesyncd.settings import Settings

    Client: TypeAlias = Any
    JSON: TypeAlias = dict[str, Any]

ANSWER_S = 2.0
REDIS_S = 1.0
SYSTEMCTL_S = 2.0
DOCKER_S = 1.0
# A reply holds at most 512 features, each on its own line.
REPLY_BYTES_MAX = 32 << 20
AGAIN_S = 0.1
SCAN_COUNT = 1000


class Declined(Exception):
    """The daemon understood the request and declined it; `code` is its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Stored:
    """One feature's raw fields in CONFIG_DB and STATE_DB, and their parsed values."""

    config: Mapping[str, str]
    state: Mapping[str, str]
    means: FeatureConfig
    row: Row
    problems: tuple[str, ...]


class Reader:
    """Access to daemon, Redis, systemd, Docker and API server for one command. Connections open on first use."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self._socket = (environ or os.environ).get("KUBESYNCD_HOST_SOCK") or settings.sockets.host

    # ---- the daemon -----------------------------------------------------------------------------

    def ask(
        self, *arguments: str, within_s: float = ANSWER_S, say: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Return the daemon's answer in lines; `say` gets each status line. Raises Unavailable, Forbidden, Declined."""
        request = protocol.encode_request(list(arguments))
        deadline = time.monotonic() + within_s
        while True:
            lines, code = self._converse(request, deadline, say)
            if code is not None:
                break
            # End of stream before the result: the daemon was restarted; ask again.
            time.sleep(AGAIN_S)
        out = [text for kind, text in lines if kind == "O"]
        if code != protocol.EXIT_DONE:
            raise Declined("; ".join(_plain(text) for kind, text in lines if kind == "E"), code)
        return out

    def _converse(
        self, request: bytes, deadline: float, say: Callable[[str], None]
    ) -> tuple[list[tuple[str, str]], int | None]:
        told = 0
        data = b""
        with _daemon_edge(self._socket), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_left(deadline))
            link.connect(self._socket)
            link.sendall(request)
            while True:
                link.settimeout(_left(deadline))
                chunk = b""
                with suppress(ConnectionResetError):
                    chunk = link.recv(1 << 16)
                data += chunk
                if chunk and b"\n" not in chunk:
                    continue
                lines, code = protocol.decode_reply(data)
                for kind, text in lines[told:]:
                    if kind == "S":
                        say(text)
                told = len(lines)
                if code is not None or not chunk or len(data) > REPLY_BYTES_MAX:
                    return lines, code

    def features(self) -> list[JSON]:
        """Return all features as the daemon describes them. Raises Unavailable, Forbidden."""
        return [json.loads(line) for line in self.ask("show") if line]

    def feature(self, name: str) -> JSON:
        """Return one feature as the daemon describes it. Raises Unavailable, Forbidden, Declined."""
        lines = [line for line in self.ask("show", name) if line]
        if not lines:
            raise Unavailable("kubesyncd", f"{name}: Docker has not reported its containers yet; ask again")
        found: JSON = json.loads(lines[0])
        return found

    def cluster(self) -> JSON:
        """Return the daemon's view of master, labels and kubelet. Raises Unavailable, Forbidden."""
        found: JSON = json.loads(self.ask("cluster")[0])
        return found

    @property
    def host_socket(self) -> Path:
        """Path of the daemon's host socket."""
        return Path(self._socket)

    # ---- Redis ----------------------------------------------------------------------------------

    @cached_property
    def schema(self) -> Schema:
        """The configured spelling of the fields."""
        from kubesyncd.adapters.db_schema import schema

        return schema(self.settings.schema.names)

    @cached_property
    def _place(self) -> Place:
        from kubesyncd.adapters.redis_place import locate

        return locate(self.settings.redis)

    @cached_property
    def _databases(self) -> tuple[Client, Client]:
        """Clients of CONFIG_DB and STATE_DB."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        place = self._place
        return tuple(  # type: ignore[return-value]
            Redis.from_url(
                place.url,
                db=db,
                protocol=2,
                socket_timeout=REDIS_S,
                socket_connect_timeout=REDIS_S,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
                encoding_errors="replace",
            )
            for db in (place.config_db, place.state_db)
        )

    def feature_names(self) -> list[str]:
        """Return the valid names of all FEATURE rows in CONFIG_DB. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import FEATURE

        with _redis_edge("CONFIG_DB"):
            keys = self._databases[0].scan_iter(match=f"{FEATURE}*", count=SCAN_COUNT)
            names = {key.removeprefix(FEATURE) for key in keys}
        return sorted(name for name in names if valid_feature_name(name))

    def stored(self, feature: str) -> Stored:
        """Return one feature's rows. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import FEATURE
        from kubesyncd.adapters.redis_place import on_switch

        config, state = self._hash(0, f"{FEATURE}{feature}"), self._hash(1, f"{FEATURE}{feature}")
        problems: list[str] = []
        means = on_switch(self._place, self.schema.decode_config(_normal(config), problems))
        row = self.schema.decode_row(_normal(state), problems)
        return Stored(config, state, means, row, tuple(problems))

    def master(self) -> tuple[Mapping[str, str], Mapping[str, str], MasterConfig]:
        """Return the master's rows in CONFIG_DB and STATE_DB, and the first one parsed. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import MASTER

        config, state = self._hash(0, MASTER), self._hash(1, MASTER)
        return config, state, parse_master_config(config)

    def rows(self) -> dict[str, Mapping[str, str]]:
        """Return all FEATURE rows of CONFIG_DB unparsed. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import FEATURE

        return {name: self._hash(0, f"{FEATURE}{name}") for name in self.feature_names()}

    def labels_of_ctrmgrd(self) -> Mapping[str, str]:
        """Return the labels that were requested from SONiC's ctrmgrd. Raises Unavailable, Refused."""
        from kubesyncd.cli.rules.ctrmgrd import LABELS_KEY

        return self._hash(1, LABELS_KEY)

    def device_metadata(self) -> Mapping[str, str]:
        """Return the device's metadata in CONFIG_DB. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import METADATA

        return self._hash(0, METADATA)

    def write_feature(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of the feature's CONFIG_DB row, all in one write. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import FEATURE

        self._write(f"{FEATURE}{feature}", fields)

    def replace_feature(self, feature: str, fields: Mapping[str, str]) -> None:
        """Replace the feature's CONFIG_DB row by `fields`; delete it if they are empty. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import FEATURE

        key = f"{FEATURE}{feature}"
        with _redis_edge(f"CONFIG_DB {key}"):
            pipe = self._databases[0].pipeline(transaction=True)
            pipe.delete(key)
            if fields:
                pipe.hset(key, mapping=dict(fields))
            pipe.execute()

    def remove_state(self, feature: str) -> None:
        """Remove the feature's STATE_DB row, including fields of other programs. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import FEATURE

        key = f"{FEATURE}{feature}"
        with _redis_edge(f"STATE_DB {key}"):
            self._databases[1].delete(key)

    def write_master(self, fields: Mapping[str, str]) -> None:
        """Set these fields of the master's CONFIG_DB row, all in one write. Raises Unavailable, Refused."""
        from kubesyncd.adapters.redis_client import MASTER

        self._write(MASTER, fields)

    def notify_flags(self) -> str:
        """Return the keyspace events that Redis publishes. Raises Unavailable."""
        with _redis_edge("notify-keyspace-events"):
            flags: str = self._databases[0].config_get("notify-keyspace-events")["notify-keyspace-events"]
        return flags

    def config_loaded(self) -> bool:
        """Return whether CONFIG_DB is marked as fully loaded. Raises Unavailable."""
        from kubesyncd.adapters.redis_client import INITIALIZED

        with _redis_edge(INITIALIZED):
            return bool(self._databases[0].get(INITIALIZED) == "1")

    def _hash(self, database: int, key: str) -> dict[str, str]:
        with _redis_edge(f"{'STATE_DB' if database else 'CONFIG_DB'} {key}"):
            found: dict[str, str] = self._databases[database].hgetall(key)
        return found

    def _write(self, key: str, fields: Mapping[str, str]) -> None:
        """Write fields; one stored in another spelling (`IP`, `ip`) keeps it, so that no field is stored twice."""
        from kubesyncd.adapters.db_schema import normal

        there = {normal(name): name for name in self._hash(0, key)}
        with _redis_edge(f"CONFIG_DB {key}"):
            self._databases[0].hset(
                key, mapping={there.get(normal(name), name): value for name, value in fields.items()}
            )

    # ---- the rest of the switch -----------------------------------------------------------------

    def has_unit(self, feature: str) -> bool:
        """Return whether systemd knows a service for the feature. Raises Unavailable."""
        return self._systemd(lambda units: units.has_unit(feature))

    def in_use(self, feature: str) -> bool:
        """Return whether the feature's unit is enabled or running. Raises Unavailable."""
        return any(
            self._systemd(ask) for ask in (lambda u: u.starts_at_boot(feature), lambda u: u.active(feature))
        )

    def kubelet_running(self) -> bool:
        """Return whether the kubelet's unit is active. Raises Unavailable."""
        return self._systemd(lambda units: units.kubelet_running())

    def _systemd(self, question: Callable[[Any], Coroutine[Any, Any, bool]]) -> bool:
        import asyncio

        from kubesyncd.adapters.systemd import SystemdUnits

        return asyncio.run(question(SystemdUnits(self.settings.systemd, look_s=SYSTEMCTL_S)))

    def docker_version(self) -> str:
        """Return the Docker engine's version. Raises Unavailable, Forbidden."""
        from kubesyncd.adapters.docker_sync import docker_version

        return docker_version(self.settings.docker.url, DOCKER_S)

    def kubernetes_installed(self) -> bool:
        """Return whether the Kubernetes packages are installed; without them every feature is local."""
        from kubesyncd.adapters.kube_lean import available

        return available()

    def admin(self, *, insecure: bool) -> KubeAdmin:
        """Return access to the cluster, with the kubelet's credential if admin.conf is missing."""
        from kubesyncd.adapters.kube_lists import KubeAdmin

        kube = self.settings.kube
        admin_conf, kubeconfig = Path(kube.admin_conf), Path(kube.kubeconfig)
        return KubeAdmin(admin_conf if _exists(admin_conf) else kubeconfig, insecure=insecure)


def certificate_ends_at(kubeconfig: Path) -> float:
    """Return when the client certificate in or named by `kubeconfig` expires, in seconds since the epoch.

    Raises Forbidden if this user may not read it, Unavailable if it has no usable certificate.
    """
    from kubesyncd.adapters.kubeconfig import SERVICE, current_context, pem

    try:
        with kubeconfig.open("rb"):
            pass  # distinguish an unreadable file from an invalid kubeconfig
        _, user = current_context(kubeconfig)
        return not_after(pem(kubeconfig.parent, user, "client-certificate"))
    except PermissionError as error:
        raise Forbidden(SERVICE, f"{error.filename} may be read by root only; use sudo") from error
    except (KeyError, ValueError, OSError) as error:
        raise Unavailable(SERVICE, f"{kubeconfig} has no usable client certificate ({error})") from error


def _exists(path: Path) -> bool:
    with suppress(PermissionError):
        return path.exists()
    return True


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@contextmanager
def _daemon_edge(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise Forbidden("kubesyncd", f"{path}: permission denied; use sudo, or join its group") from error
    except TimeoutError as error:
        detail = "the daemon does not answer in time; look at: systemctl status kubesyncd"
        raise Unavailable("kubesyncd", detail) from error
    except OSError as error:
        detail = f"the daemon is not running ({path}); start it: systemctl start kubesyncd"
        raise Unavailable("kubesyncd", detail) from error
    except protocol.BadRequest as error:
        raise Unavailable("kubesyncd", f"{path} uses another protocol ({error})") from error


@contextmanager
def _redis_edge(what: str) -> Iterator[None]:
    from redis.exceptions import RedisError, ResponseError

    try:
        yield
    except ResponseError as error:
        if "WRONGTYPE" in str(error):
            raise Refused("Redis", f"{what}: invalid key type, only a hash is allowed; delete it") from error
        raise Unavailable("Redis", f"{what}: {error}") from error
    except (RedisError, OSError) as error:
        if _denied(error):
            detail = "its socket may not be used by this user; use sudo, or join its group"
            raise Forbidden("Redis", detail) from error
        raise Unavailable("Redis", "does not answer; start it: systemctl start database") from error


def _denied(error: BaseException | None) -> bool:
    """Return whether a PermissionError is the cause; redis-py wraps it."""
    while error is not None and not isinstance(error, PermissionError):
        error = error.__cause__ or error.__context__
    return error is not None


def _normal(fields: Mapping[str, str]) -> dict[str, str]:
    from kubesyncd.adapters.db_schema import normal

    return {normal(name): value for name, value in fields.items()}


def _plain(text: str) -> str:
    """Return the daemon's error without the client's name in front."""
    for prefix in ("container: ", "label: ", "kubernetes: "):
        text = text.removeprefix(prefix)
    return text
