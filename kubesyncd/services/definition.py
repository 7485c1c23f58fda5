"""Turn the description of a Kubernetes-only feature into the files that make it a service of this switch.

Pure: knows no systemd, no Redis and no disk; `installer` puts the files in place. A description is arguments or
YAML (seed, section Service install, proposal 2), checked to the last word: everything here ends up in a unit or a
script that root runs. Commands are argument lists; none of them sees a shell's syntax.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.parse import shown
from kubesyncd.runtime import yaml_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# systemd looks here after /etc and before /usr/lib: an image's own unit of that name is hidden, never touched, and
# unlike in /etc it can be masked, as SONiC's featured does with what is disabled.
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
# A feature's name, but none with an ASIC's number: Kubernetes runs one container of it per switch.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
PACKAGE_FILE = re.compile(r"\./[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")

LISTS = ("pre_start", "post_start", "pre_stop", "post_stop", "warm_reboot", "fast_reboot")
NAME_RULE = "a name begins with a letter and has lower-case letters, digits, - and _, at most 63"


class InvalidService(Exception):
    """The description cannot be used; the message says what is wrong in it and what is allowed."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its argument list, program first."""

    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command as a shell reads it back, word by word. A bare program's name is looked up by `env`: it
        must never be a shell's own word."""
        words = self.words if "/" in self.words[0] else ("env", *self.words)
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a feature's service needs. `requires`: it runs only while all of these do. `dependents`: they are
    stopped with it. The commands run on the host, as root, around start and stop and before a reboot.
    """

    name: str
    description: str = ""
    requires: tuple[str, ...] = DEFAULT_REQUIRES
    dependents: tuple[str, ...] = ()
    pre_start: tuple[Command, ...] = ()
    post_start: tuple[Command, ...] = ()
    pre_stop: tuple[Command, ...] = ()
    post_stop: tuple[Command, ...] = ()
    warm_reboot: tuple[Command, ...] = ()
    fast_reboot: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """One file of a service: absolute path, permissions, content."""

    path: str
    mode: int
    content: bytes = field(repr=False)


def service(name: str, requires: Iterable[str] = DEFAULT_REQUIRES) -> ServiceSpec:
    """The description that `config feature install NAME required …` means. Raises InvalidService."""
    return _checked(ServiceSpec(_service_name("name", name), requires=_services("required", list(requires))))


def parse(text: bytes, *, packaged: frozenset[str] = frozenset()) -> ServiceSpec:
    """The description in a YAML file. `packaged`: names of files that come with it; `./NAME` runs one of them.

    Raises InvalidService.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidService(f"the file has {len(text)} bytes; at most {TEXT_BYTES_MAX} are allowed")
    try:
        tree = yaml_reader.parse(text)
    except ValueError as error:
        raise InvalidService(f"the file is no YAML: {shown(str(error))}") from error
    if not isinstance(tree, dict):
        raise InvalidService("the file must have `name: …` at its top level, and other keys beside it")
    return _checked(_spec(_keys(tree), packaged))


def _keys(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The file's keys, `pre-start` as `pre_start`."""
    allowed = [f.name for f in fields(ServiceSpec)]
    keys: dict[str, Any] = {}
    for key, value in tree.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            raise InvalidService(f"unknown key {shown(str(key))}; allowed: {', '.join(allowed)}")
        if name in keys:
            raise InvalidService(f"{name} is there twice; keep one")
        keys[name] = value
    if "name" not in keys:
        raise InvalidService("there is no `name: …`; give the feature one")
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
            raise InvalidService(f"{key}: {spec.name} cannot need itself; take it out")
    both = sorted(set(spec.requires) & set(spec.dependents))
    if both:
        raise InvalidService(f"{both[0]} is in requires and in dependents; it can only be in one of them")
    return spec


def _service_name(key: str, value: object) -> str:
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise InvalidService(f"{key}: {shown(str(value))} is no service's name; {NAME_RULE}")
    assert valid_feature_name(value), "every name allowed here is allowed everywhere"
    return value


def _services(key: str, value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > SERVICES_MAX:
        raise InvalidService(f"{key}: must be a list of at most {SERVICES_MAX} services")
    names = (item.removesuffix(".service") if isinstance(item, str) else item for item in listed)
    return tuple(dict.fromkeys(_service_name(key, name) for name in names))


def _description(value: object) -> str:
    # A backslash at the end of a unit's line would take the next line into it.
    if not isinstance(value, str) or len(value) > DESCRIPTION_MAX or not value.isprintable() or "\\" in value:
        raise InvalidService(
            f"description: must be one line of at most {DESCRIPTION_MAX} letters, without a backslash"
        )
    return value


def _commands(key: str, value: object, packaged: frozenset[str]) -> tuple[Command, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > COMMANDS_MAX:
        raise InvalidService(f"{key}: must be a list of at most {COMMANDS_MAX} commands")
    return tuple(_command(key, item, packaged) for item in listed)


def _command(key: str, value: object, packaged: frozenset[str]) -> Command:
    """A command is a list of words, or one text that is split as a shell splits words, and no more than that."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidService(f"{key}: {shown(str(value))}: {error}; close what is open") from error
    if not isinstance(words, list) or not 0 < len(words) <= WORDS_MAX:
        raise InvalidService(f"{key}: a command is a text or a list of 1 to {WORDS_MAX} words")
    for word in words:
        if not isinstance(word, str) or len(word) > WORD_MAX or not (word.isprintable() or word == ""):
            rule = f"a word is one line of at most {WORD_MAX} letters; a number has to be in quotes"
            raise InvalidService(f"{key}: {shown(str(word))} is no word of a command; {rule}")
    return Command((_program(key, words[0], packaged), *words[1:]))


def _program(key: str, word: str, packaged: frozenset[str]) -> str:
    if PACKAGE_FILE.fullmatch(word):
        if word[2:] not in packaged:
            raise InvalidService(f"{key}: {word} is not in the package; give the program's whole path")
        return word
    if word.startswith("/") and ".." not in word.split("/"):
        return word
    if PROGRAM.fullmatch(word):
        return word
    rule = "a program is a name like systemctl, or a whole path; for a shell's syntax: [/bin/sh, -c, '…']"
    raise InvalidService(f"{key}: {shown(word)} is no program; {rule}")


# ---- files ----------------------------------------------------------------------------------------


def files(spec: ServiceSpec, packaged: Mapping[str, bytes] | None = None) -> tuple[File, ...]:
    """The service's files: unit, script, a hook per kind of reboot that it wants to prepare for, and `packaged`."""
    home = f"{SCRIPT_FOLDER}/{spec.name}"
    placed = {key: tuple(_placed(c, home) for c in getattr(spec, key)) for key in LISTS}
    known = {"spec": spec, "script": script_path(spec.name), **placed}
    made = [
        File(unit_path(spec.name), 0o644, _rendered("unit.service.j2", known)),
        File(script_path(spec.name), 0o755, _rendered("service.sh.j2", known)),
    ]
    for kind in ("warm", "fast"):
        if commands := placed[f"{kind}_reboot"]:
            hook = _rendered("reboot-hook.sh.j2", {"spec": spec, "kind": kind, "commands": commands})
            made.append(File(f"{HOOK_FOLDER}/{kind}-reboot.d/50-{spec.name}", 0o755, hook))
    made += [File(f"{home}/{name}", 0o755, content) for name, content in sorted((packaged or {}).items())]
    return tuple(made)


def unit_path(name: str) -> str:
    """Where the service's unit is."""
    return f"{UNIT_FOLDER}/{name}.service"


def script_path(name: str) -> str:
    """Where the service's script is."""
    return f"{SCRIPT_FOLDER}/{name}.sh"


def row(sonic_fields: Mapping[str, str]) -> dict[str, str]:
    """The CONFIG_DB row of a new Kubernetes-only feature: `sonic_fields` are ours, spelled as the switch spells
    them; the others are what SONiC's featured needs to leave the unit as it is.
    """
    return {"state": "enabled", "auto_restart": "enabled", **sonic_fields}


# Ours, in the design document's words: kube-managed with no fallback and no failure check (seed, section
# config FEATURE install).
KUBE_ONLY = {"set_owner": "kube", "fallback_to_local": "false", "kube_failure_detection": "0"}


def _placed(command: Command, home: str) -> str:
    """The command's line, a package's own file by the path it will have."""
    first, *rest = command.words
    return Command((f"{home}/{first[2:]}", *rest)).line if first.startswith("./") else command.line


@cache
def _environment() -> Environment:
    # Shell and unit files have their own escapes (shlex, `percent`); HTML's would only break them.
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
