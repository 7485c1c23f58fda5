"""Find the calls in scripts that do not reach a container of Kubernetes, and name the replacement of each.

Pure: no file, no Docker. A local container has its feature's name; the one that Kubernetes deploys has another, so a
call by name misses it. Calls by ID, on images, and on `database` need no change. Mark a deliberate call with
`# docker is meant` at the end of its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.cli.rules.script_text import (
    LINE_CHARS_MAX,
    Line,
    in_same_string,
    is_message,
    python_code,
    shell_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MEANT = "# docker is meant"
CALLS_A_LINE_MAX = 20

# Docker verbs that `container` has too.
REPLACED = ("start", "stop", "kill", "wait", "inspect", "exec")
# Verbs that take the ID instead of the name.
BY_ID = ("cp", "logs", "top", "stats", "port", "diff", "export", "attach", "commit")
# Verbs that take several names.
MANY = ("start", "stop", "kill", "wait", "inspect", "restart", "rm", "pause", "unpause", "stats", "update")
_OTHERS = {
    "restart": "systemctl restart NAME",
    "rm": "container stop NAME first: docker rm removes the local container only",
    "rename": "nothing: kubesyncd knows a local container by its feature's name",
    "pause": "nothing: kubesyncd does not support paused containers",
    "unpause": "nothing: kubesyncd does not support paused containers",
    "update": "docker update $(container id NAME) ...; limits of a Kubernetes container belong in its manifest",
}
# Verbs that the docker front passes to the container of Kubernetes (docs/sonic.md).
CARRIED = frozenset({"exec", "inspect", *BY_ID}) - {"commit"}
LISTED = "container id NAME (fails where there is none): a Kubernetes container has another name"
ASKED = "ask for the container by the ID that `container id NAME` prints"
WAITED = (
    "keep each feature that it names local (kubesync config feature NAME owner local): it ends as soon as one of"
    " the local containers is not running; for one feature of Kubernetes, container wait NAME"
)
AT_START = (
    "nothing for a local feature; for one of Kubernetes, the image's start does this (docs/containers.md): its"
    " container is usually not deployed yet"
)
# What upstream's scripts do to the local container just before and after its start.
START_ACTIONS = frozenset({"preStartAction", "postStartAction", "updateSyslogConf"})
TAGGED = 'kubesync reboot prepare "$REBOOT_TYPE" || exit 1, before any container ends (docs/reboot.md)'
UNTAGGED = (
    "nothing: remove the call. ctrmgrd's tool removes stopped local containers, which are the fallback. A script that"
    " makes a warm or fast reboot runs kubesync reboot prepare (docs/reboot.md)"
)
# What SONiC's scripts wait for together, by variables.
PEERS = frozenset({"swss", "syncd", "gbsyncd", "teamd"})
# Scripts that need no change: kubesyncd ends a container that update-containers starts, writes to STATE_DB what
# container_checker reads, and leaves the memory limit of a Kubernetes container to its manifest (memory_checker).
NO_CHANGE = frozenset({"update-containers", "container_checker", "memory_checker"})

_PROGRAM = r"(?P<path>(?:/usr(?:/local)?)?/bin/)?docker"
_VERBS = "|".join((*REPLACED, *BY_ID, *_OTHERS))
_SHELL = re.compile(
    rf"(?<![\w./-]){_PROGRAM}\s+(?:container\s+)?"
    rf"(?:(?:-[cHl]|--(?:context|host|log-level|config))\s+\S+\s+|-(?![cHl]\s)\S+\s+)*(?P<verb>{_VERBS})(?![\w.=-])"
)
_WAITER = re.compile(r"(?:(?<![\w./-])|/bin/)docker-(?P<verb>wait-any(?:-rs)?|rs[\s-]+wait)(?![\w-])")
_LISTING = re.compile(
    r"(?:(?<![\w./-])|/bin/)docker\s+(?:container\s+)?(?:ps|ls|list)\b"
    r"[^|;&\n]*\s(?:--filter[=\s]|-[aqlns]*f[=\s]?)\s*[\"']?name=[\"']?\^"
)
# Python inside a shell script, and Python that Python 3 cannot read.
_LIST = re.compile(rf"""["'](?:/\S+/)?docker["']\s*,\s*["'](?P<verb>{_VERBS})["']""")
_LIBRARY = re.compile(r"\b(?:containers|ctrs)\.get\(")
_TOOL = "ctrmgr_tools.py"
_TAG_VERBS = ("tag", "tag-all", "kill-all")
_TAGS = re.compile(rf"{re.escape(_TOOL)}[\"']?\s+[\"']?(?:{'|'.join(_TAG_VERBS)})(?![\w.=-])")
# A script of warm and fast reboots tells the kinds apart by these words. A plain `reboot` has the call of the tool
# too, and never gets to it.
_KINDS = re.compile(r"[\"'](?:warm|fast|fastfast|express)-reboot[\"']")
_TAGS_OFF, _TAGS_ON = (re.compile(rf"^\s*TAG_LATEST=[\"']?{word}\b", re.MULTILINE) for word in ("no", "yes"))
# A script that ends or creates what it lists or removes: its own checks of the local container are right.
_ENDS = re.compile(r"container\s+(?:stop|kill)\b|\.sh\s+(?:stop|kill)\b|^\s*stop\s*$", re.MULTILINE)
_UNIT_STOPPED = re.compile(r"\bsystemctl\s+stop\s+[\"']?([\w$@{}-]+)")
_CREATES = re.compile(r"docker\s+(?:container\s+)?(?:create|run)\b")
_WORD = re.compile(r"""(?:\$\([^()]*\)|[^\s"'`;|&()<>\\]|\\.|"[^"]*"|'[^']*')+""")
_VALUED = frozenset(
    (
        *("-e", "--env", "--env-file", "-u", "--user", "-w", "--workdir", "--detach-keys", "-t", "--time"),
        *("--timeout", "-s", "--signal", "-f", "--format", "--type", "-n", "--tail", "--since", "--until"),
        *("-a", "--author", "-m", "--message", "-c", "--change", "-o", "--output", "--cpus", "--memory"),
        "--restart",
    )
)
_FLAGS = {
    "exec": "-t -e",
    "cp": "-a",
    "inspect": "-s",
    "attach": "-a",
    "rm": "-f",
    "logs": "-f -t",
    "stats": "-a",
    "wait-any": "-s",
}
_IDS = re.compile(
    r"""^\s*(?:local\s+|export\s+|readonly\s+)*(\w+)=["'`]*\$?\(?\s*"""
    r"(?P<lists>docker\s+(?:container\s+)?(?:ps|ls)\b|docker\s+(?:container\s+)?(?:create|run)\b"
    r"|(?:/\S+/)?container\s+id\b)(?P<rest>.*)"
)
_LOOP = re.compile(r"\bfor\s+(\w+)\s+in\s+(.*)")
# What Docker itself lists: IDs, or names of existing containers.
_ID_OPTION = re.compile(r"\s-\w*q|--quiet|\.(?:ID|Names)\b")
_ASSIGNED = re.compile(
    r"""^\s*(?:local\s+|export\s+|readonly\s+|declare\s+\S+\s+)*(\w+)=["']?([a-z][\w-]*)["']?\s*$"""
)
_VARIABLE = re.compile(r"\$\{?(\w+)")
_IMAGE = re.compile(r"image|[:/]|^docker-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """A remaining call: its line, its text and its replacement."""

    line: int
    text: str
    instead: str


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of features: those that always run by plain docker, and Kubernetes' own (None: not known).

    `front`: the docker front is installed, so a call of `docker` without its path reaches Kubernetes' container too.
    """

    local: frozenset[str] = frozenset({"database"})
    kube: frozenset[str] | None = None
    front: bool = False


ANY = Features()


@dataclass(frozen=True, slots=True)
class Names:
    """What a script says about its variables, which units it stops, and what is known of features.

    `tagged`: the replacement of ctrmgrd's tool; empty if the script never gets to it.
    """

    ids: frozenset[str]
    values: dict[str, str]
    stopped: frozenset[str]
    features: Features
    tagged: str

    def waits_for_kubernetes(self, operands: list[str]) -> bool:
        """Return whether one of the features that docker-wait-any names may be run by Kubernetes."""
        if self.features.kube is None:
            return True
        named = {
            self.values.get(found[1], "") if (found := _VARIABLE.match(one)) else one for one in operands
        }
        return not self.features.kube.isdisjoint(named | PEERS)

    def passes(self, name: str) -> bool:
        """Return whether a container's name needs no change: it is an ID, or a feature that is always local."""
        bare = name.strip("\"'")
        if bare.startswith(("$(container id", "$(docker ps", "$(docker container ls")):
            return True
        if (found := _VARIABLE.match(bare)) is not None:
            if found[1] in self.ids:
                return True
            bare = self.values.get(found[1], bare)
        # database0, database$DEV, database-chassis, databasedpu1
        return any(
            re.fullmatch(rf"{re.escape(one)}(?:[-$\d{{].*|dpu.*)?", bare) for one in self.features.local
        )


def check_script(text: str, name: str = "", features: Features = ANY) -> Iterator[Call]:
    """Yield the calls in one script, in order. `name`: the script's file name."""
    if name in NO_CHANGE:
        return
    meant = {number for number, line in enumerate(text.split("\n"), 1) if MEANT in line}
    said: set[Call] = set()
    for call in _calls(text, name, features):
        if call.line not in meant and call not in said:
            said.add(call)
            yield call


def _calls(text: str, name: str, features: Features) -> Iterator[Call]:
    if name.endswith(".py") or re.match(r"#!.*python", text):
        try:
            yield from _python(text, features)
        except ValueError:
            pass
        else:
            return
    lines = list(shell_lines(text))
    names = _names(lines, features, _tagged(text))
    ends, creates = _ENDS.search(text) is not None, _CREATES.search(text) is not None
    for line in lines:
        if any(re.search(rf"\w == [\"']{one}[\"']", test) for one in features.local for test in line.only_if):
            continue
        for call in _on_line(line, names, ends=ends, creates=creates):
            yield replace(call, instead=AT_START) if line.function in START_ACTIONS else call
        if (listed := _LIST.search(line.text)) is not None:
            yield _call(line, _instead(listed["verb"]))
        if _LIBRARY.search(line.text):
            yield _call(line, ASKED)


def _on_line(line: Line, names: Names, *, ends: bool, creates: bool) -> Iterator[Call]:
    """Yield the calls on a line of shell code."""
    text = line.text[:LINE_CHARS_MAX]
    if (found := _TAGS.search(text)) is not None and names.tagged and not is_message(text[: found.start()]):
        yield _call(line, names.tagged)
    for count, found in enumerate(_SHELL.finditer(text)):
        if count == CALLS_A_LINE_MAX:
            break
        verb, rest = found["verb"], in_same_string(text[: found.start()], text[found.end() :])
        carried = names.features.front and verb in CARRIED and not found["path"]
        if carried or (verb == "rm" and creates) or is_message(text[: found.start()]):
            continue
        if instead := _replacement(verb, rest, names):
            yield _call(line, instead)
    for found in _WAITER.finditer(text):
        if not is_message(text[: found.start()]):
            named = _operands("wait-any", text[found.end() :])
            single = found["verb"].startswith("rs")
            if single and not any(names.passes(name) for name in named):
                yield _call(line, "container wait NAME")
            elif not single and names.waits_for_kubernetes(named):
                yield _call(line, WAITED)
    if not ends and (listing := _LISTING.search(text)) is not None:
        searched = text[listing.end() :].lstrip("/")
        if not names.passes(searched.partition('$"')[0].rstrip("$\"' ")):
            yield _call(line, LISTED)


def _replacement(verb: str, rest: str, names: Names) -> str:
    """Return the replacement of a call, from its verb and the text after it; empty if there is nothing to replace."""
    if verb == "inspect" and re.search(r"--type[= ](?:image|network|volume|container)\b", rest):
        return ""
    operands = _operands(verb, rest)
    if verb == "cp":
        operands = [one.partition(":")[0] for one in operands if ":" in one]
    if not operands and verb in (*BY_ID, *_OTHERS):
        return ""
    # Where the unit has been stopped, a kill is for what may be left of the local container.
    if verb in ("kill", "stop") and operands and names.stopped.issuperset(operands):
        return ""
    if operands and all(names.passes(one) for one in (operands if verb in ("cp", *MANY) else operands[:1])):
        return ""
    if verb == "inspect" and operands and _IMAGE.search(operands[0]) and "{}" not in operands[0]:
        return ""
    return _instead(verb)


def _instead(verb: str) -> str:
    if verb in REPLACED:
        return f"container {verb} ..."
    if verb in BY_ID:
        return (
            "docker cp with $(container id NAME)" if verb == "cp" else f"docker {verb} $(container id NAME)"
        )
    return _OTHERS[verb]


def _operands(verb: str, rest: str) -> list[str]:
    """Return the words after a verb that are no options."""
    found: list[str] = []
    takes = _VALUED - set(_FLAGS.get(verb, "").split())
    skip = False
    at = 0
    while (word := _WORD.match(rest, at + len(rest[at:]) - len(rest[at:].lstrip()))) is not None:
        at = word.end()
        if skip:
            skip = False
        elif word[0].startswith("-"):
            skip = word[0] in takes
        elif word[0].isdigit() and rest[at : at + 1] == ">":
            break  # a redirection
        else:
            found.append(word[0].strip("\"'"))
            if verb == "exec":
                break
    return found


def _tagged(text: str) -> str:
    """Return the replacement of ctrmgrd's tool in a script; empty if the script never gets to it."""
    if _TAGS_OFF.search(text) is not None and _TAGS_ON.search(text) is None:
        return ""
    return TAGGED if _KINDS.search(text) is not None else UNTAGGED


def _names(lines: list[Line], features: Features, tagged: str) -> Names:
    """Read which variables hold IDs, and the constant values of the others."""
    ids: set[str] = set()
    values: dict[str, str] = {}
    for line in lines:
        if (found := _IDS.match(line.text)) is not None:
            if not found["lists"].endswith(("ps", "ls")) or _ID_OPTION.search(found["rest"]):
                ids.add(found[1])
        elif (found := _LOOP.search(line.text)) is not None:
            listed = _VARIABLE.match(found[2].strip("\"' "))
            if (listed is not None and listed[1] in ids) or (
                "docker ps" in found[2] and _ID_OPTION.search(found[2])
            ):
                ids.add(found[1])
        elif (found := _ASSIGNED.match(line.text)) is not None:
            values.setdefault(found[1], found[2])
    stopped = {found[1] for line in lines for found in _UNIT_STOPPED.finditer(line.text)}
    return Names(frozenset(ids), values, frozenset(stopped), features, tagged)


def _python(text: str, features: Features) -> Iterator[Call]:
    """Yield the calls of a Python script. Raises ValueError if it is none."""
    strings, lists, asked = python_code(text)
    source = text.split("\n")
    names = Names(frozenset(), {}, frozenset(), features, _tagged(text))
    found: list[Call] = []
    for line in strings:
        # A command begins the string, or follows the words of another one.
        found += _on_line(line, names, ends=bool(_ENDS.search(text)), creates=False)
    for one in lists:
        line = Line(one.number, "", source[one.number - 1].strip())
        found += [_call(line, instead) for instead in _listed(one.words, names)]
    for number, name in asked:
        if name is None or not names.passes(name):
            found.append(_call(Line(number, "", source[number - 1].strip()), ASKED))
    yield from sorted(found, key=lambda call: call.line)


def _listed(words: tuple[str | None, ...], names: Names) -> Iterator[str]:
    """Yield the replacement of a command that is a list of words."""
    for at, word in enumerate(words[:-1]):
        verb = words[at + 1]
        if word is not None and word.rpartition("/")[2] == _TOOL and verb in _TAG_VERBS and names.tagged:
            yield names.tagged
        if word is None or word.rpartition("/")[2] != "docker" or verb is None:
            continue
        if verb in (*REPLACED, *BY_ID, *_OTHERS) and not (
            names.features.front and verb in CARRIED and word == "docker"
        ):
            rest = " ".join(
                "{}" if one is None else f"'{one}'" if " " in one else one for one in words[at + 2 :]
            )
            if instead := _replacement(verb, " " + rest, names):
                yield instead


def _call(line: Line, instead: str) -> Call:
    return Call(line.number, " ".join(line.shown.split())[:120], instead)
