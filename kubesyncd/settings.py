"""Read /etc/kubesyncd/kubesyncd.toml as one frozen, checked value.

Knows no client and no coroutine. Every key is optional; an unknown key, section, an invalid value or combination is
an error that names key, file and what is allowed. All errors are found here, and all at once: the daemon does not start
half-configured, and no other module judges a setting. Commands use what is left, with defaults for the rest.

One class is one section, one field one key: its type, default, range, and the sentence below it, which says what a
change does. `make settings` writes docs/settings.md and the shipped file from them; sentences cost nothing at run time.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from kubesyncd.core.model import Timing
from kubesyncd.core.setting_range import count, seconds
from kubesyncd.core.setting_rules import RULES
from kubesyncd.core.setting_text import (
    NOT_EMPTY,
    admin_url,
    ca_hash,
    cri_url,
    docker_url,
    feature_names,
    form_of,
    https_url,
    namespace_names,
    public_key,
    redis_url,
    redis_user,
    secret_path,
    service,
    socket_path,
)
from kubesyncd.core.setting_text import (
    path as path_key,
)
from kubesyncd.core.setting_values import allowed, converted, fits
from kubesyncd.core.text import HIDDEN, public_text, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubesyncd.core.setting_rules import SettingRule

SAID_MAX = 120
DEFAULT_FILE = Path("/etc/kubesyncd/kubesyncd.toml")


class SettingsError(Exception):
    """The settings file cannot be used. `problems`: one line per error: which key, where, and what is allowed."""

    def __init__(self, *problems: str) -> None:
        more = f" ({len(problems) - 1} more: kubesyncd --check)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Addresses of the databases."""

    url: str = redis_url("")
    """Address of the Redis server, for example `unix:///run/redis.sock`, used with `config_db` and `state_db`. Empty:
    the daemon reads `database_config`, and without that file it uses `unix:///var/run/redis/redis.sock`."""
    user: str = redis_user("")
    """User at Redis, for the password in `password_file`. Empty: Redis' default user. `docs/security.md` lists the
    rights that it needs."""
    password_file: str = secret_path("")
    """File with the password of the user at Redis, which only root should be able to read. A changed password is read
    at the next connection. Empty: no password, or the one in `url`."""
    config_db: int = count(4)
    """Number of CONFIG_DB. It has no effect where `database_config` is used."""
    state_db: int = count(6)
    """Number of STATE_DB. It has no effect where `database_config` is used."""
    database_config: str = path_key("/var/run/redis/sonic-db/database_config.json")
    """SONiC's file of database addresses, read if it exists and `url` is empty. On a switch with several ASICs,
    `database_global.json` is read from the same folder."""


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """Address of the Docker engine."""

    url: str = docker_url("unix:///var/run/docker.sock")
    """Address of the Docker engine whose containers the daemon manages; only `unix://` addresses work."""


@dataclass(frozen=True, slots=True)
class SocketsSettings:
    """Sockets for clients. Only the folder of `container` is mounted into containers."""

    host: str = socket_path("/run/kubesyncd/host.sock")
    """Path of the socket for the host's clients, open to root and `group`. Under systemd, change it in
    kubesyncd.socket as well."""
    container: str = socket_path("/run/kubesyncd/container/container.sock")
    """Path of the socket for clients in containers, which mount its folder and nothing else. Under systemd, change it
    in kubesyncd-container.socket as well, and change the mounts of all containers."""
    group: str = "docker"
    """Group that may use `host` besides root; by default the users of Docker. Empty: only root. Under systemd, change
    it in kubesyncd.socket as well."""


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """The node's name in the cluster, and how it joins.

    A node joins with an administrator's credential, a bootstrap token, or a client certificate installed on the switch.
    """

    node_name: str = ""
    """Name under which this node joins the cluster. A joined node keeps its name until `config kube join -f`. Empty:
    the host's name in lower case."""
    namespaces: tuple[str, ...] = namespace_names("sonic")
    """Namespaces whose pods run features. A pod of another namespace is never taken for a feature's, whatever its
    containers are called, and is refused when it asks for one. List the namespaces of all your DaemonSets."""
    kubeconfig: str = path_key("/etc/kubernetes/kubelet.conf")
    """File of the kubelet's own credential, with which the daemon uses the API server."""
    admin_conf: str = path_key("/etc/sonic/kube_admin.conf")
    """File of the administrator's credential. It is used to join, to reset and by `show kubernetes nodes`."""
    keep_admin_conf: bool = True
    """`false`: the daemon removes `admin_conf` when the node has joined. `true`: the file stays until a reset."""
    admin_conf_url: str = admin_url("https://{ip}/admin.conf")
    """Address from which a join downloads the administrator's credential; `{ip}` and `{port}` are the master's."""
    ca_file: str = path_key("", optional=True)
    """File of the certificate authorities that a join accepts for the API server and for `admin_conf_url`. A join by
    client certificate needs it, or `ca_cert_hash`. Empty: the system's authorities for `admin_conf_url`."""
    bootstrap_token_file: str = secret_path("")
    """File with a bootstrap token. If set, the node joins with it, without an administrator's credential; this needs
    `ca_cert_hash`."""
    ca_cert_hash: str = ca_hash("")
    """Hash of the cluster's certificate authority, `sha256:...`, as kubeadm prints it. If set, every join accepts only
    this authority: of those in the master's answer, in an `admin.conf` and in `ca_file`. A join by client certificate
    without `ca_file` asks the master for its authority."""
    client_certificate: str = path_key("", optional=True)
    """File of a client certificate. If set, and `bootstrap_token_file` is not, the node joins with it; this needs
    `client_key`, and `ca_file` or `ca_cert_hash`. Empty: where the master does not serve `admin_conf_url`, the node
    joins with `credentials/restapiserver.crt` and `.key` beside `admin_conf`, if they exist."""
    client_key: str = secret_path("")
    """File of the private key of `client_certificate`."""
    cri_socket: str = cri_url("")
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


@dataclass(frozen=True, slots=True)
class SystemdSettings:
    """Programs and the kubelet's unit. Programs are argument lists: tests replace them."""

    systemctl: tuple[str, ...] = field(default=("systemctl",), metadata=NOT_EMPTY)
    """Program that starts, stops and shows units, as a list of its path and first arguments."""
    kubeadm: tuple[str, ...] = field(default=("kubeadm",), metadata=NOT_EMPTY)
    """Program that joins the cluster and resets the node, as a list of its path and first arguments."""
    kubelet_unit: str = service("kubelet.service")
    """Unit of the kubelet, which the daemon starts and stops."""


@dataclass(frozen=True, slots=True)
class FeaturesSettings:
    """Features with special rules."""

    always_local: tuple[str, ...] = feature_names("database")
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
    names_file: str = path_key("/usr/share/sonic/templates/ctr_image_names.json")
    """SONiC's file of image names, from which the daemon learns the local image of a feature without a local
    container."""


@dataclass(frozen=True, slots=True)
class SchemaSettings:
    """Names of kubesyncd's database fields."""

    names: Literal["auto", "hld", "sonic"] = "auto"
    """`hld`: kubesyncd reads and writes the field names of the design document. `sonic`: it uses those that SONiC's
    own tools read and write today. `auto`: `sonic` where the file of `[paths] sonic_version` exists, else `hld`. A
    switch that has used `hld` keeps it."""


@dataclass(frozen=True, slots=True)
class PackagesSettings:
    """Source of service packages."""

    url: str = https_url("")
    """Address (https) of the metadata of service packages. Empty: no package is downloaded or installed."""
    interval_s: float = seconds(300.0, least=0.1)
    """Interval between requests for the metadata. A smaller value finds a new package earlier and loads the server
    more."""
    pubkey: str = public_key("")
    """Public key of minisign. If set, the daemon refuses metadata without a signature by this key."""
    ca_file: str = path_key("", optional=True)
    """File of the certificate authorities that check the package server's certificate. Empty: the system's."""
    unit: str = service("kubesyncd-packages.service")
    """Unit that installs packages outside the daemon's sandbox; the daemon starts it when the metadata has changed."""


@dataclass(frozen=True, slots=True)
class PathsSettings:
    """Folders and files."""

    state_dir: str = path_key("/var/lib/kubesyncd")
    """Folder of the files that survive a boot, such as the label queue and the services that were installed. Move the
    files as well: the daemon does not look for them in the old folder."""
    run_dir: str = path_key("/run/kubesyncd")
    """Folder of the files that must not survive a boot: the ledger, and the files of a join. The daemon does not look
    for them in the old folder."""
    hooks_dir: str = path_key("/etc/kubesyncd/hooks")
    """Folder of the check scripts and reboot hooks. Scripts in another folder do not run."""
    carry_dir: str = path_key("/etc/sonic/kubesyncd")
    """Folder to which a prepared reboot saves the context backup. Another SONiC image must find it: use a folder below
    `/etc/sonic`."""
    upgrade_dir: str = path_key("/host/old_config")
    """Folder that becomes `/etc/sonic` of another SONiC image at its first boot. If it exists, the context backup is
    saved there as well."""
    kubelet_dir: str = path_key("/var/lib/kubelet")
    """Folder of the kubelet's configuration and certificates, which a join changes and a prepared reboot saves."""
    boot_id: str = path_key("/proc/sys/kernel/random/boot_id")
    """File that identifies the current boot. When its content differs from the one in the ledger, the daemon ignores
    what it recorded before."""
    sonic_version: str = path_key("/etc/sonic/sonic_version.yml")
    """File from which the node label `sonic_version` is read. Where it exists, `[schema] names` is
    `sonic` by default."""
    install_root: str = path_key("/")
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


@dataclass(frozen=True, slots=True)
class CheckedSettings:
    """A settings file after its check: `settings` has the default for each key that cannot be used.

    `problems`: one line per error, which names the file, the key and what is allowed.
    """

    settings: Settings
    problems: tuple[str, ...] = ()

    def valid(self) -> Settings:
        """Return the settings of a file without errors. Raises SettingsError."""
        if self.problems:
            raise SettingsError(*self.problems)
        return self.settings


def load(path: Path, *, required: bool = False) -> Settings:
    """Read and check the file. A missing file means all defaults, unless `required`.

    Raises SettingsError.
    """
    return read(path, required=required).valid()


def read(path: Path, *, required: bool = False) -> CheckedSettings:
    """Read the file, and find all its errors. Raises SettingsError where a `required` file is missing."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise SettingsError(f"{path}: no such file; give an existing one with --config") from None
        return CheckedSettings(Settings())
    except OSError as error:
        return CheckedSettings(Settings(), (f"{path}: cannot be read: {error}",))
    return decode(data, str(path))


def decode(data: bytes, where: str) -> CheckedSettings:
    """Find all errors in a file's content; `where` names the file."""
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        return CheckedSettings(Settings(), (f"{where}: not TOML: {shortened(str(error), SAID_MAX)}",))
    return check(tables, where)


def check(tables: Mapping[str, Any], where: str) -> CheckedSettings:
    """Find all errors in decoded tables; `where` names them."""
    sections, kinds = {key.name for key in fields(Settings)}, get_type_hints(Settings)
    chosen: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    wrong: set[tuple[str, str]] = set()
    for name, table in tables.items():
        if name not in sections:
            allowed_names = ", ".join(sorted(sections))
            problems.append(
                f"unknown section [{shortened(repr(public_text(name))[1:-1], SAID_MAX)}]; allowed: {allowed_names}"
            )
        elif not isinstance(table, dict):
            problems.append(f"{name} must be a section: [{name}]")
        else:
            chosen[name], errors = _section(kinds[name], name, table)
            wrong |= {(name, key) for key in errors}
            problems += errors.values()

    def made(section: str) -> Any:
        return kinds[section](**chosen.get(section, {}))

    def broken() -> list[SettingRule]:
        return [rule for rule in RULES if not rule.holds(made(rule.section))]

    # A key with an error of its own has its default by now, which no rule is about.
    problems += [
        _combination(rule, made(rule.section))
        for rule in broken()
        if not wrong & {(rule.section, key) for key in rule.keys}
    ]
    # Each round takes at least one key away: all defaults together obey every rule.
    while rules := broken():
        for key in rules[0].keys:
            chosen[rules[0].section].pop(key, None)
    settings = Settings(**{name: made(name) for name in chosen})
    return CheckedSettings(settings, tuple(f"{where}: {problem}" for problem in problems))


def _section(kind: type[Any], name: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the usable values of one section's keys, and the error of each other key."""
    hints = get_type_hints(kind)
    keys = {key.name: key for key in fields(kind)}
    chosen: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for key, value in table.items():
        if key not in keys:
            errors[key] = f"unknown key {_shown(key)} in [{name}]; allowed: {', '.join(sorted(keys))}"
        elif not fits(hints[key], keys[key], value):
            form = form_of(keys[key])
            said = _shown(value) if form is None else _shown(value, form.public)
            errors[key] = f"[{name}] {key} = {said}; allowed: {allowed(hints[key], keys[key])}"
        else:
            chosen[key] = converted(hints[key], value)
    return chosen, errors


def _combination(rule: SettingRule, section: Any) -> str:
    """Describe a combination of valid values that breaks a rule."""
    values = ", ".join(f"{key} = {_shown(getattr(section, key))}" for key in rule.keys)
    return f"[{rule.section}] {values}; allowed: {rule.says}"


def _shown(value: Any, public: Callable[[str], str] = public_text) -> str:
    """Return the value, shortened for one line, and without what may be secret in a text."""
    try:
        if isinstance(value, str):
            return shortened(repr(public(value)), SAID_MAX)
        text = f"{value:g}" if isinstance(value, float) else repr(value)
        # A list's or a table's may be anywhere in it.
        text = text if public(text) == text else HIDDEN
    except ValueError:
        text = "a number of thousands of digits"
    return shortened(text, SAID_MAX)
