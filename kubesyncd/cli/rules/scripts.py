"""Find the docker calls in feature scripts that would bypass Kubernetes: shell and Python, line by line.

Knows no file and no Docker. It understands neither language: it finds the words that act on a container, says what
to write instead, and is quiet about what is fine. A line that is meant ends with the mark `# docker is meant`.
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

# What docker calls a verb, and what `container` makes of it.
REPLACED = ("start", "stop", "kill", "wait", "inspect", "exec")
_OTHERS = {
    "restart": "container stop NAME && container start NAME, or systemctl restart NAME",
    "rm": "container stop NAME first: a container that Kubernetes deployed has another name",
    "pause": "nothing: kubesyncd does not know of paused containers",
    "attach": "container exec NAME ...",
    "cp": "docker cp with $(container id NAME)",
    "logs": "docker logs $(container id NAME)",
    "top": "docker top $(container id NAME)",
}
# Docker's own name for it, and SONiC's waiters.
_SHELL = re.compile(
    r"(?<![\w./-])(?:sudo\s+(?:-\S+\s+)*)?(?:(?:/usr(?:/local)?)?/bin/)?docker\s+(?:container\s+)?"
    r"(?:-[cHl]\s+\S+\s+|-(?![cHl]\s)\S+\s+)*(?P<verb>" + "|".join((*REPLACED, *_OTHERS)) + r")(?![\w.-])"
)
_WAITER = re.compile(r"(?:(?<![\w./-])|/bin/)docker-(?:rs(?:\s+|-))?wait(?:-any)?(?:-rs)?(?![\w-])")
# ["docker", "exec", ...] in Python; docker's own library.
_LIST = re.compile(r"""["']docker["']\s*,\s*["'](?P<verb>""" + "|".join((*REPLACED, *_OTHERS)) + r""")["']""")
_LIBRARY = re.compile(r"\bcontainers\.get\(|\bdocker\.(?:from_env|DockerClient)\(")
# Looks at containers by a part of their name; what Kubernetes deploys is named k8s_...
_LISTING = re.compile(
    r"(?:(?<![\w./-])|/bin/)docker\s+(?:container\s+)?(?:ps|ls|list)\b"
    r"[^|;&\n]*\s(?:--filter[=\s]|-[aqlns]*f[=\s]?)\s*[\"']?name="
)
# Of an image or a network there is nothing to hand over; a script asks so whether it has to create a container.
_FINE = re.compile(r"--type[= ](?:image|network|volume|container)\b")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is left: where, what stands there, and what to write."""

    line: int
    text: str
    instead: str


def check_script(text: str) -> Iterator[Call]:
    """The calls in one script, in order."""
    for number, line in enumerate(text.split("\n")[:LINES_MAX], 1):
        shown = line[:LINE_CHARS_MAX]
        if MEANT in shown or shown.lstrip().startswith("#"):
            continue
        instead = _instead(shown)
        if instead:
            yield Call(number, shown.strip()[:120], instead)


def _instead(line: str) -> str:
    """What to write in place of a line's first call; empty where there is nothing to replace."""
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
