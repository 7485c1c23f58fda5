"""Turn the description of a Kubernetes-only feature into the files that make it a service of this switch.

Pure: knows no systemd, no Redis and no disk; `installer` writes the files. A description is arguments or YAML (seed,
section Service install, proposal 2). Every word of it is checked, because it ends up in a unit or a script that root
runs. Commands are argument lists; no shell interprets them.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.text import shown
from kubesyncd.runtime import yaml_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# systemd searches this folder after /etc and before /usr/lib: an image's own unit of that name is hidden, not changed.
# Unlike a unit in /etc it can be masked, as SONiC's featured does with disabled features.
UNIT_FOLDER = "/usr/local/lib/systemd/system"
SCRIPT_FOLDER = "/usr/local/lib/kubesyncd/services"
HOOK_FOLDER = "/etc/kubesyncd/hooks"

DEFAULT_REQUIRES = ("swss",)
TEXT_BYTES_MAX = 64 << 10
SERVICES_MAX = 32
COMMANDS_MAX = 32
WORDS_MAX = 64
WORD_MAX = 1024
DESCRIPTION_MAX = 120
# A feature's name without an ASIC number: Kubernetes runs one container of it per switch.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
PACKAGE_FILE = re.compile(r"\./[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")

LISTS = ("pre_start", "post_start", "pre_stop", "post_stop", "warm_reboot", "fast_reboot")
NAME_RULE = "a name begins with a letter and has lower-case letters, digits, - and _, at most 63"


class InvalidService(Exception):
    """Invalid description; the message says what is wrong in it and what is allowed."""


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """One command: its argument list, program first."""

    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as text that a shell reads back word by word.

        `env` looks up a bare program's name: it must never be a shell builtin.
        """
        words = self.words if "/" in self.words[0] else ("env", *self.words)
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """The service of a feature. `requires`: it runs only while all of these run. `dependents`: they stop with it.

    The commands run on the host, as root, around start and stop and before a reboot.
    """

    name: str
    description: str = ""
    requires: tuple[str, ...] = DEFAULT_REQUIRES
    dependents: tuple[str, ...] = ()
    pre_start: tuple[ServiceCommand, ...] = ()
    post_start: tuple[ServiceCommand, ...] = ()
    pre_stop: tuple[ServiceCommand, ...] = ()
    post_stop: tuple[ServiceCommand, ...] = ()
    warm_reboot: tuple[ServiceCommand, ...] = ()
    fast_reboot: tuple[ServiceCommand, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """One file of a service: absolute path, permissions, content."""

    path: str
    mode: int
    content: bytes = field(repr=False)


def service(name: str, requires: Iterable[str] = DEFAULT_REQUIRES) -> ServiceSpec:
    """Build the description for `config feature install NAME required …`. Raises InvalidService."""
    return _checked(ServiceSpec(_service_name("name", name), requires=_services("required", list(requires))))


def parse(text: bytes, *, packaged: frozenset[str] = frozenset()) -> ServiceSpec:
    """Parse the description in a YAML file. `packaged`: names of files that come with it; `./NAME` runs one of them.

    Raises InvalidService.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidService(f"the file has {len(text)} bytes; at most {TEXT_BYTES_MAX} are allowed")
    try:
        tree = yaml_reader.parse(text)
    except ValueError as error:
        raise InvalidService(f"invalid YAML: {shown(str(error))}") from error
    if not isinstance(tree, dict):
        raise InvalidService("the file must have `name: …` at its top level, and other keys beside it")
    return _checked(_spec(_keys(tree), packaged))


def _keys(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the file's keys, `pre-start` as `pre_start`."""
    allowed = [f.name for f in fields(ServiceSpec)]
    keys: dict[str, Any] = {}
    for key, value in tree.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            raise InvalidService(f"unknown key {shown(str(key))}; allowed: {', '.join(allowed)}")
        if name in keys:
            raise InvalidService(f"duplicate key {name}; keep one")
        keys[name] = value
    if "name" not in keys:
        raise InvalidService("`name: …` is missing; give the feature a name")
    return keys


def _spec(keys: Mapping[str, Any], packaged: frozenset[str]) -> ServiceSpec:
    return ServiceSpec(
        name=_service_name("name", keys["name"]),
        description=_description(keys.get("description", "")),
        requires=_services("requires", keys.get("requires", list(DEFAULT_REQUIRES))),
        dependents=_services("dependents", keys.get("dependents", [])),
        **{key: _commands(key, keys.get(key) or [], packaged) for key in LISTS},
    )


def _checked(spec: ServiceSpec) -> ServiceSpec:
    for key, names in (("requires", spec.requires), ("dependents", spec.dependents)):
        if spec.name in names:
            raise InvalidService(f"{key}: {spec.name} cannot depend on itself; remove it")
    both = sorted(set(spec.requires) & set(spec.dependents))
    if both:
        raise InvalidService(f"{both[0]} is in both requires and dependents; remove it from one of them")
    return spec


def _service_name(key: str, value: object) -> str:
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise InvalidService(f"{key}: invalid service name {shown(str(value))}; {NAME_RULE}")
    assert valid_feature_name(value), "every name allowed here is allowed everywhere"
    return value


def _services(key: str, value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > SERVICES_MAX:
        raise InvalidService(f"{key}: must be a list of at most {SERVICES_MAX} services")
    names = (item.removesuffix(".service") if isinstance(item, str) else item for item in listed)
    return tuple(dict.fromkeys(_service_name(key, name) for name in names))


def _description(value: object) -> str:
    # A backslash at the end of a unit's line would join the next line to it.
    if not isinstance(value, str) or len(value) > DESCRIPTION_MAX or not value.isprintable() or "\\" in value:
        raise InvalidService(
            f"description: must be one line of at most {DESCRIPTION_MAX} letters, without a backslash"
        )
    return value


def _commands(key: str, value: object, packaged: frozenset[str]) -> tuple[ServiceCommand, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > COMMANDS_MAX:
        raise InvalidService(f"{key}: must be a list of at most {COMMANDS_MAX} commands")
    return tuple(_command(key, item, packaged) for item in listed)


def _command(key: str, value: object, packaged: frozenset[str]) -> ServiceCommand:
    """Parse a command: a list of words, or one text, split as a shell splits words and without other shell syntax."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidService(f"{key}: {shown(str(value))}: {error}; close it") from error
    if not isinstance(words, list) or not 0 < len(words) <= WORDS_MAX:
        raise InvalidService(f"{key}: a command is a text or a list of 1 to {WORDS_MAX} words")
    for word in words:
        if not isinstance(word, str) or len(word) > WORD_MAX or not (word.isprintable() or word == ""):
            rule = f"a word is one line of at most {WORD_MAX} letters; a number has to be in quotes"
            raise InvalidService(f"{key}: invalid word {shown(str(word))}; {rule}")
    return ServiceCommand((_program(key, words[0], packaged), *words[1:]))


def _program(key: str, word: str, packaged: frozenset[str]) -> str:
    if PACKAGE_FILE.fullmatch(word):
        if word[2:] not in packaged:
            raise InvalidService(f"{key}: {word} is not in the package; give the program's absolute path")
        return word
    if word.startswith("/") and ".." not in word.split("/"):
        return word
    if PROGRAM.fullmatch(word):
        return word
    rule = "a program is a name like systemctl, or an absolute path; for a shell's syntax: [/bin/sh, -c, '…']"
    raise InvalidService(f"{key}: invalid program {shown(word)}; {rule}")


# ---- files ----------------------------------------------------------------------------------------


def files(spec: ServiceSpec, packaged: Mapping[str, bytes] | None = None) -> tuple[ServiceFile, ...]:
    """Build the service's files: unit, script, a hook for each kind of reboot with commands, and `packaged`."""
    home = f"{SCRIPT_FOLDER}/{spec.name}"
    placed = {key: tuple(_placed(c, home) for c in getattr(spec, key)) for key in LISTS}
    known = {"spec": spec, "script": script_path(spec.name), **placed}
    made = [
        ServiceFile(unit_path(spec.name), 0o644, _rendered("unit.service.j2", known)),
        ServiceFile(script_path(spec.name), 0o755, _rendered("service.sh.j2", known)),
    ]
    for kind in ("warm", "fast"):
        if commands := placed[f"{kind}_reboot"]:
            hook = _rendered("reboot-hook.sh.j2", {"spec": spec, "kind": kind, "commands": commands})
            made.append(ServiceFile(f"{HOOK_FOLDER}/{kind}-reboot.d/50-{spec.name}", 0o755, hook))
    made += [
        ServiceFile(f"{home}/{name}", 0o755, content) for name, content in sorted((packaged or {}).items())
    ]
    return tuple(made)


def unit_path(name: str) -> str:
    """Return the path of the service's unit."""
    return f"{UNIT_FOLDER}/{name}.service"


def script_path(name: str) -> str:
    """Return the path of the service's script."""
    return f"{SCRIPT_FOLDER}/{name}.sh"


def row(sonic_fields: Mapping[str, str]) -> dict[str, str]:
    """Build the CONFIG_DB row of a new Kubernetes-only feature.

    `sonic_fields`: kubesyncd's fields, in the switch's spelling. SONiC's featured needs the others to leave the unit
    unchanged.
    """
    return {"state": "enabled", "auto_restart": "enabled", **sonic_fields}


# kubesyncd's fields, in the design document's spelling: kube-managed with no fallback and no failure check (seed,
# section config FEATURE install).
KUBE_ONLY = {"set_owner": "kube", "fallback_to_local": "false", "kube_failure_detection": "0"}


def _placed(command: ServiceCommand, home: str) -> str:
    """Return the command's line, with a packaged file by its installed path."""
    first, *rest = command.words
    return ServiceCommand((f"{home}/{first[2:]}", *rest)).line if first.startswith("./") else command.line


@cache
def _environment() -> Environment:
    # Shell and unit files have their own escapes (shlex, `percent`); HTML escapes would break them.
    made = Environment(  # noqa: S701
        loader=PackageLoader("kubesyncd.services"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["percent"] = lambda text: text.replace("%", "%%")
    return made


def _rendered(template: str, known: Mapping[str, object]) -> bytes:
    return _environment().get_template(template).render(known).encode()
