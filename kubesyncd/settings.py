"""Read /etc/kubesyncd/kubesyncd.toml as one frozen, checked value.

Knows no client and no coroutine. Every key is optional; an unknown key, section or an invalid value is a
`SettingsError` that names key, file and what is allowed: the daemon does not start half-configured.

One class is one section, one field one key: its type, default, range, and the sentence below it, which says what a
change does. `make settings` writes docs/settings.md and the shipped file from them; sentences cost nothing at run time.
"""

from __future__ import annotations

import socket
import tomllib
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kubesyncd.core.model import Timing
from kubesyncd.core.setting_range import count, range_of, seconds
from kubesyncd.core.text import shortened

SAID_MAX = 120
DEFAULT_FILE = Path("/etc/kubesyncd/kubesyncd.toml")


class SettingsError(Exception):
    """The settings file cannot be used; the message says which key, where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Addresses of the databases."""

    url: str = ""
    """Address of the Redis server, for example `unix:///run/redis.sock`, used with `config_db` and `state_db`. Empty:
    the daemon reads `database_config`, and without that file it uses `unix:///var/run/redis/redis.sock`."""
    config_db: int = count(4)
    """Number of CONFIG_DB. It has no effect where `database_config` is used."""
    state_db: int = count(6)
    """Number of STATE_DB. It has no effect where `database_config` is used."""
    database_config: str = "/var/run/redis/sonic-db/database_config.json"
    """SONiC's file of database addresses, read if it exists and `url` is empty. On a switch with several ASICs,
    `database_global.json` is read from the same folder."""


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """Address of the Docker engine."""

    url: str = "unix:///var/run/docker.sock"
    """Address of the Docker engine whose containers the daemon manages; only `unix://` addresses work."""


@dataclass(frozen=True, slots=True)
class SocketsSettings:
    """Sockets for clients. Only the folder of `container` is mounted into containers."""

    host: str = "/run/kubesyncd/host.sock"
    """Path of the socket for the host's clients, open to root and `group`. Under systemd, change it in
    kubesyncd.socket as well."""
    container: str = "/run/kubesyncd/container/container.sock"
    """Path of the socket for clients in containers, which mount its folder and nothing else. Under systemd, change it
    in kubesyncd-container.socket as well, and change the mounts of all containers."""
    group: str = "docker"
    """Group that may use `host` besides root; by default the users of Docker. Empty: only root. Under systemd, change
    it in kubesyncd.socket as well."""


def _host_name() -> str:
    return socket.gethostname().lower()


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """The node's name in the cluster, and how it joins.

    A node joins with an administrator's credential, a bootstrap token, or a client certificate installed on the switch.
    """

    node_name: str = field(default_factory=_host_name)
    """Name of this node in the cluster. Run `config kube reset` before a change: the node of the old name would stay in
    the cluster."""
    kubeconfig: str = "/etc/kubernetes/kubelet.conf"
    """File of the kubelet's own credential, with which the daemon uses the API server."""
    admin_conf: str = "/etc/sonic/kube_admin.conf"
    """File of the administrator's credential. It is used to join, to reset and by `show kubernetes nodes`."""
    keep_admin_conf: bool = True
    """`false`: the daemon removes `admin_conf` when the node has joined. `true`: the file stays until a reset."""
    admin_conf_url: str = "https://{ip}/admin.conf"
    """Address from which a join downloads the administrator's credential; `{ip}` and `{port}` are the master's."""
    ca_file: str = ""
    """File of the certificate authorities that a join accepts for the API server and for `admin_conf_url`. A join by
    client certificate needs it. Empty: the system's authorities for `admin_conf_url`."""
    bootstrap_token_file: str = ""
    """File with a bootstrap token. If set, the node joins with it, without an administrator's credential; this needs
    `ca_cert_hash`."""
    ca_cert_hash: str = ""
    """Hash of the cluster's certificate authority, `sha256:...`, that a join by bootstrap token checks."""
    client_certificate: str = ""
    """File of a client certificate. If set, and `bootstrap_token_file` is not, the node joins with it; this needs
    `client_key` and `ca_file`."""
    client_key: str = ""
    """File of the private key of `client_certificate`."""
    cri_socket: str = ""
    """Address of the container runtime that `kubeadm` uses. Empty: `kubeadm` selects it."""
    ignore_preflight_errors: tuple[str, ...] = ()
    """Checks of `kubeadm` that may fail during a join. A failure of any other check ends the join."""
    join_boot_delay_s: float = seconds(300.0)
    """Largest delay of the first join after a boot. The delay is random, so that a fleet does not join at the same
    moment after a power cut; a smaller value connects one switch earlier and loads the API server more."""
    join_retry_s: float = seconds(30.0)
    """Limit of the delay before a failed join is tried again. Each delay is random, and the limit doubles with each
    failure up to `join_retry_s_max`."""
    join_retry_s_max: float = seconds(600.0)
    """Largest limit of the delay before a failed join is tried again. A larger value loads the master less, and
    connects the switch later when the master is back."""


_NOT_EMPTY = {"not_empty": True}


@dataclass(frozen=True, slots=True)
class SystemdSettings:
    """Programs and the kubelet's unit. Programs are argument lists: tests replace them."""

    systemctl: tuple[str, ...] = field(default=("systemctl",), metadata=_NOT_EMPTY)
    """Program that starts, stops and shows units, as a list of its path and first arguments."""
    kubeadm: tuple[str, ...] = field(default=("kubeadm",), metadata=_NOT_EMPTY)
    """Program that joins the cluster and resets the node, as a list of its path and first arguments."""
    kubelet_unit: str = "kubelet.service"
    """Unit of the kubelet, which the daemon starts and stops."""


@dataclass(frozen=True, slots=True)
class FeaturesSettings:
    """Features with special rules."""

    always_local: tuple[str, ...] = ("database",)
    """Features that run with Docker alone, also while Redis does not answer. Kubernetes can never own them. Keep
    `database`, which is Redis itself."""


@dataclass(frozen=True, slots=True)
class ImagesSettings:
    """The images of features, and their removal."""

    adopt: bool = True
    """`true`: an image that Kubernetes deployed and that is healthy for `tag_after_s` becomes the local one. `false`:
    local images stay as the switch brought them; rollbacks still work."""
    kubelet_gc: bool = False
    """`false`: a join turns off the kubelet's own removal of images. `true`: the cluster's configuration applies, and
    the kubelet may remove the local images of features."""
    names_file: str = "/usr/share/sonic/templates/ctr_image_names.json"
    """SONiC's file of image names, from which the daemon learns the local image of a feature without a local
    container."""


@dataclass(frozen=True, slots=True)
class SchemaSettings:
    """Names of kubesyncd's database fields."""

    names: Literal["hld", "sonic"] = "hld"
    """`hld`: kubesyncd reads and writes the field names of the design document. `sonic`: it uses those that SONiC's
    own tools read and write today."""


@dataclass(frozen=True, slots=True)
class PackagesSettings:
    """Source of service packages."""

    url: str = ""
    """Address (https) of the metadata of service packages. Empty: no package is downloaded or installed."""
    interval_s: float = seconds(300.0, least=0.1)
    """Interval between requests for the metadata. A smaller value finds a new package earlier and loads the server
    more."""
    pubkey: str = ""
    """Public key of minisign. If set, the daemon refuses metadata without a signature by this key."""
    ca_file: str = ""
    """File of the certificate authorities that check the package server's certificate. Empty: the system's."""
    unit: str = "kubesyncd-packages.service"
    """Unit that installs packages outside the daemon's sandbox; the daemon starts it when the metadata has changed."""


@dataclass(frozen=True, slots=True)
class PathsSettings:
    """Folders and files."""

    state_dir: str = "/var/lib/kubesyncd"
    """Folder of the files that survive a boot, such as the label queue and the services that were installed. Move the
    files as well: the daemon does not look for them in the old folder."""
    run_dir: str = "/run/kubesyncd"
    """Folder of the files that must not survive a boot: the ledger, and the files of a join. The daemon does not look
    for them in the old folder."""
    hooks_dir: str = "/etc/kubesyncd/hooks"
    """Folder of the check scripts and reboot hooks. Scripts in another folder do not run."""
    carry_dir: str = "/etc/sonic/kubesyncd"
    """Folder to which a prepared reboot saves the context backup. Another SONiC image must find it: use a folder below
    `/etc/sonic`."""
    upgrade_dir: str = "/host/old_config"
    """Folder that becomes `/etc/sonic` of another SONiC image at its first boot. If it exists, the context backup is
    saved there as well."""
    kubelet_dir: str = "/var/lib/kubelet"
    """Folder of the kubelet's configuration and certificates, which a join changes and a prepared reboot saves."""
    boot_id: str = "/proc/sys/kernel/random/boot_id"
    """File that identifies the current boot. When its content differs from the one in the ledger, the daemon ignores
    what it recorded before."""
    sonic_version: str = "/etc/sonic/sonic_version.yml"
    """File from which the node label `sonic_version` is read."""
    install_root: str = "/"
    """Folder below which `config feature install` writes units and scripts. systemd only finds them below `/`."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and level of the log, which goes to standard error."""

    format: Literal["json", "console"] = "json"
    """`json`: one JSON object per line, for journald. `console`: lines for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged. `warning` and `error` leave out what the daemon does successfully."""


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
        raise SettingsError(f"{where}: not TOML: {shortened(str(error), SAID_MAX)}") from error
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
    keys = {key.name: key for key in fields(kind)}
    chosen: dict[str, Any] = {}
    for key, value in table.items():
        if key not in keys:
            raise SettingsError(
                f"{where}: unknown key {key!r} in [{name}]; allowed: {', '.join(sorted(keys))}"
            )
        if not _fits(hints[key], keys[key], value):
            said = f"[{name}] {key} = {_said(value)}"
            raise SettingsError(f"{where}: {said}; allowed: {allowed(hints[key], keys[key])}")
        chosen[key] = _converted(hints[key], value)
    return kind(**chosen)


def allowed(hint: Any, key: Field[Any]) -> str:
    """Describe the values that a key of this type accepts."""
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a non-empty list of strings" if key.metadata == _NOT_EMPTY else "a list of strings"
    if hint is float:
        return f"a number {range_of(key)}"
    if hint is int:
        return f"a whole number {range_of(key)}"
    return "true or false" if hint is bool else "a string"


def _fits(hint: Any, key: Field[Any], value: Any) -> bool:
    """Return whether a key of this type accepts the value."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        strings = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        return strings and (bool(value) or key.metadata != _NOT_EMPTY)
    # TOML's true and false are no numbers, but Python's are.
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return number and value in range_of(key)
    assert hint in (bool, str), f"{key.name}: no rule for {hint}"
    return isinstance(value, hint)


def _converted(hint: Any, value: Any) -> Any:
    """Convert the value to the type of its key."""
    if hint is float:
        return float(value)
    return tuple(value) if get_origin(hint) is tuple else value


def _said(value: Any) -> str:
    """Return the invalid value, shortened for one line."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return shortened(text, SAID_MAX)
