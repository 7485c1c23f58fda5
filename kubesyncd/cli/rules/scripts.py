"""Find the docker calls in feature scripts that would bypass Kubernetes: shell and Python, line by line.

Pure: no file, no Docker. It parses neither language: it finds the words that act on a container and names the
replacement. Mark a deliberate call with `# docker is meant` at the end of its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEANT = "# docker is meant"
LINES_MAX = 100_000
LINE_CHARS_MAX = 4_096

# Docker verbs that `container` has too; then the others, with their replacement.
REPLACED = ("start", "stop", "kill", "wait", "inspect", "exec")
_OTHERS = {
    "restart": "container stop NAME && container start NAME, or systemctl restart NAME",
    "rm": "container stop NAME first: a container that Kubernetes deployed has another name",
    "pause": "nothing: kubesyncd does not support paused containers",
    "attach": "container exec NAME ...",
    "cp": "docker cp with $(container id NAME)",
    "logs": "docker logs $(container id NAME)",
    "top": "docker top $(container id NAME)",
}
# The docker command, and SONiC's commands that wait for containers.
_SHELL = re.compile(
    r"(?<![\w./-])(?:sudo\s+(?:-\S+\s+)*)?(?:(?:/usr(?:/local)?)?/bin/)?docker\s+(?:container\s+)?"
    r"(?:-[cHl]\s+\S+\s+|-(?![cHl]\s)\S+\s+)*(?P<verb>" + "|".join((*REPLACED, *_OTHERS)) + r")(?![\w.-])"
)
_WAITER = re.compile(r"(?:(?<![\w./-])|/bin/)docker-(?:rs(?:\s+|-))?wait(?:-any)?(?:-rs)?(?![\w-])")
# ["docker", "exec", ...] in Python; docker's own library.
_LIST = re.compile(r"""["']docker["']\s*,\s*["'](?P<verb>""" + "|".join((*REPLACED, *_OTHERS)) + r""")["']""")
_LIBRARY = re.compile(r"\bcontainers\.get\(|\bdocker\.(?:from_env|DockerClient)\(")
# Lists containers by a part of their name; Kubernetes names its containers k8s_...
_LISTING = re.compile(
    r"(?:(?<![\w./-])|/bin/)docker\s+(?:container\s+)?(?:ps|ls|list)\b"
    r"[^|;&\n]*\s(?:--filter[=\s]|-[aqlns]*f[=\s]?)\s*[\"']?name="
)
# Images, networks and volumes need no replacement; --type=container is how a script checks whether to create one.
_FINE = re.compile(r"--type[= ](?:image|network|volume|container)\b")


@dataclass(frozen=True, slots=True)
class Call:
    """A remaining docker call: its line, its text and its replacement."""

    line: int
    text: str
    instead: str


def check_script(text: str) -> Iterator[Call]:
    """Yield the calls in one script, in order."""
    for number, line in enumerate(text.split("\n")[:LINES_MAX], 1):
        shown = line[:LINE_CHARS_MAX]
        if MEANT in shown or shown.lstrip().startswith("#"):
            continue
        instead = _instead(shown)
        if instead:
            yield Call(number, shown.strip()[:120], instead)


def _instead(line: str) -> str:
    """Return the replacement of a line's first call; empty if there is nothing to replace."""
    if (found := _SHELL.search(line)) is not None:
        if found["verb"] == "inspect" and _FINE.search(line):
            return ""
        return _replacement(found["verb"])
    if (found := _LIST.search(line)) is not None:
        return _replacement(found["verb"])
    if _WAITER.search(line):
        return "container wait NAME"
    if _LISTING.search(line):
        return "container id NAME (fails where there is none); what Kubernetes deployed has another name"
    if _LIBRARY.search(line):
        return "ask for the container by the ID that `container id NAME` prints"
    return ""


def _replacement(verb: str) -> str:
    return f"container {verb} ..." if verb in REPLACED else _OTHERS[verb]
