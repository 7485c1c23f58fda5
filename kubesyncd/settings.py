"""Read /etc/kubesyncd/kubesyncd.toml as one frozen, checked value.

Knows no client and no coroutine. Every key is optional; an unknown key, section or a wrong type is a
`SettingsError` that names key, file and what is allowed: the daemon does not start half-configured.
"""

from __future__ import annotations

import socket
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kubesyncd.core.model import Timing

SAID_MAX = 120
DEFAULT_FILE = Path("/etc/kubesyncd/kubesyncd.toml")


class SettingsError(Exception):
    """The settings file cannot be used; the message says which key, where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Addresses of the databases; SONiC's database_config.json is used where it exists and `url` is not set."""

    url: str = ""
    config_db: int = 4
    state_db: int = 6
    database_config: str = "/var/run/redis/sonic-db/database_config.json"


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """Address of the Docker engine."""

    url: str = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class SocketsSettings:
    """Sockets for clients. Only the folder of `container` is mounted into containers."""

    host: str = "/run/kubesyncd/host.sock"
    container: str = "/run/kubesyncd/container/container.sock"
    group: str = "docker"


def _host_name() -> str:
    return socket.gethostname().lower()


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """The node's name in the cluster, and how it joins: with the admin.conf at `admin_conf_url` ({ip}, {port} are
    the master's), or a bootstrap token, or a client certificate installed on the switch.
    """

    node_name: str = field(default_factory=_host_name)
    kubeconfig: str = "/etc/kubernetes/kubelet.conf"
    admin_conf: str = "/etc/sonic/kube_admin.conf"
    keep_admin_conf: bool = True
    admin_conf_url: str = "https://{ip}/admin.conf"
    ca_file: str = ""
    bootstrap_token_file: str = ""
    ca_cert_hash: str = ""
    client_certificate: str = ""
    client_key: str = ""
    cri_socket: str = ""
    ignore_preflight_errors: tuple[str, ...] = ()
    join_boot_delay_s: float = 300.0
    join_retry_s: float = 30.0
    join_retry_s_max: float = 600.0


@dataclass(frozen=True, slots=True)
class SystemdSettings:
    """Commands for units: argument lists, replaceable in tests."""

    systemctl: tuple[str, ...] = ("systemctl",)
    kubeadm: tuple[str, ...] = ("kubeadm",)
    kubelet_unit: str = "kubelet.service"


@dataclass(frozen=True, slots=True)
class FeaturesSettings:
    """Features with special rules."""

    always_local: tuple[str, ...] = ("database",)


@dataclass(frozen=True, slots=True)
class ImagesSettings:
    """Whether a stable image of Kubernetes becomes the local one, whether the kubelet may remove images that
    its own containers do not use, and the file of SONiC's image names.
    """

    adopt: bool = True
    kubelet_gc: bool = False
    names_file: str = "/usr/share/sonic/templates/ctr_image_names.json"


@dataclass(frozen=True, slots=True)
class SchemaSettings:
    """Names of our database fields: those of the design document or of today's SONiC."""

    names: Literal["hld", "sonic"] = "hld"


@dataclass(frozen=True, slots=True)
class PackagesSettings:
    """Source of service packages; none, unless `url` (of the metadata, https) is set.

    `interval_s`: how often the metadata is asked for. `pubkey`: a minisign public key that must have signed it.
    `ca_file`: the CA certificates for the server, instead of the system's. `unit`: the systemd unit that
    installs, outside the daemon's sandbox.
    """

    url: str = ""
    interval_s: float = 300.0
    pubkey: str = ""
    ca_file: str = ""
    unit: str = "kubesyncd-packages.service"


@dataclass(frozen=True, slots=True)
class PathsSettings:
    """Folders and files: `state_dir` outlives a boot, `run_dir` does not, and `carry_dir` (context backup) outlives an
    upgrade to another SONiC, which finds its copy of /etc/sonic in `upgrade_dir`. `boot_id`: the file of the boot's ID,
    `sonic_version`: the file of the SONiC version.
    Units and scripts of installed features go below `install_root`.
    """

    state_dir: str = "/var/lib/kubesyncd"
    run_dir: str = "/run/kubesyncd"
    hooks_dir: str = "/etc/kubesyncd/hooks"
    carry_dir: str = "/etc/sonic/kubesyncd"
    upgrade_dir: str = "/host/old_config"
    kubelet_dir: str = "/var/lib/kubelet"
    boot_id: str = "/proc/sys/kernel/random/boot_id"
    sonic_version: str = "/etc/sonic/sonic_version.yml"
    install_root: str = "/"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and level of the log."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections of the settings file."""

    redis: RedisSettings = field(default_factory=RedisSettings)
    docker: DockerSettings = field(default_factory=DockerSettings)
    sockets: SocketsSettings = field(default_factory=SocketsSettings)
    kube: KubeSettings = field(default_factory=KubeSettings)
    systemd: SystemdSettings = field(default_factory=SystemdSettings)
    timing: Timing = field(default_factory=Timing)
    features: FeaturesSettings = field(default_factory=FeaturesSettings)
    images: ImagesSettings = field(default_factory=ImagesSettings)
    schema: SchemaSettings = field(default_factory=SchemaSettings)
    packages: PackagesSettings = field(default_factory=PackagesSettings)
    paths: PathsSettings = field(default_factory=PathsSettings)
    log: LogSettings = field(default_factory=LogSettings)


def load(path: Path, *, required: bool = False) -> Settings:
    """Read and check the file. A missing file means all defaults, unless `required`.

    Raises SettingsError.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise SettingsError(f"{path}: no such file; give an existing one with --config") from None
        return Settings()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    return decode(data, str(path))


def decode(data: bytes, where: str) -> Settings:
    """Read and check a file's content; `where` names it in errors. Raises SettingsError."""
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: not TOML: {_short(str(error))}") from error
    return parse(tables, where)


def parse(tables: dict[str, Any], where: str) -> Settings:
    """Check already decoded tables; `where` names them in errors. Raises SettingsError."""
    sections = {f.name: f for f in fields(Settings)}
    hints = get_type_hints(Settings)
    chosen: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in sections:
            raise SettingsError(f"{where}: unknown section [{name}]; allowed: {', '.join(sorted(sections))}")
        if not isinstance(table, dict):
            raise SettingsError(f"{where}: {name} must be a section: [{name}]")
        chosen[name] = _section(hints[name], name, table, where)
    return Settings(**chosen)


def _section(kind: type[Any], name: str, table: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    chosen: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise SettingsError(
                f"{where}: unknown key {key!r} in [{name}]; allowed: {', '.join(sorted(hints))}"
            )
        chosen[key] = _value(hints[key], f"[{name}] {key}", value, where)
    return kind(**chosen)


def _value(hint: Any, key: str, value: Any, where: str) -> Any:
    """`value` as the type `hint`. Raises a SettingsError that names the key."""
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise SettingsError(f"{where}: {key} = {_said(value)}; allowed: {', '.join(map(repr, allowed))}")
        return value
    if get_origin(hint) is tuple:
        # A program needs a name; other lists may be empty.
        least = "a non-empty list" if key.startswith("[systemd]") else "a list"
        strings = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        if not strings or (not value and least != "a list"):
            raise SettingsError(f"{where}: {key} = {_said(value)}; allowed: {least} of strings")
        return tuple(value)
    assert get_origin(hint) not in (UnionType, NoneType), f"{key}: no rule for {hint}"
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**7:
            raise SettingsError(
                f"{where}: {key} = {_said(value)}; allowed: seconds, above 0 and at most 10000000"
            )
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**6:
            raise SettingsError(f"{where}: {key} = {_said(value)}; allowed: a whole number from 0 to 1000000")
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{where}: {key} = {_said(value)}; allowed: true or false")
        return value
    assert hint is str, f"{key}: no rule for {hint}"
    if not isinstance(value, str):
        raise SettingsError(f"{where}: {key} = {_said(value)}; allowed: a string")
    return value


def _said(value: Any) -> str:
    """An invalid value, shortened for one line."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= SAID_MAX else f"{text[: SAID_MAX - 3]}..."
