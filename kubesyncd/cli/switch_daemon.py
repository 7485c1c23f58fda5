"""Send requests to the daemon's host socket and decode its answers, for the `kubesync` commands.

Knows the socket protocol; must not know click or print. Every request has a deadline. Errors are those of `ports`, and
`Declined`. An answer is decoded as it is described in `core.descriptions`; keys of a newer daemon are ignored.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.ports import Forbidden, Unavailable
from kubesyncd.runtime.lock_holder import LOCKS, UNKNOWN, ask_to_look, lock_holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kubesyncd.core.descriptions import ClusterDescription, FeatureDescription

ANSWER_S = 2.0
# The daemon gives each of two files 3 s.
CHECK_FILES_S = 10.0
# A reply holds at most 512 features, each on its own line.
REPLY_BYTES_MAX = 32 << 20
AGAIN_S = 0.1


class Declined(Exception):
    """The daemon understood the request and declined it; `code` is its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class DaemonClient:
    """The requests of one command. `path`: the daemon's host socket; `folders`: those that it holds a lock on."""

    def __init__(self, path: Path, folders: tuple[Path, ...] = ()) -> None:
        self.path = path
        self._folders = folders
        # Why the daemon has refused a request for now.
        self._busy = ""

    def ask(
        self, *arguments: str, within_s: float = ANSWER_S, say: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Return the daemon's answer in lines; `say` gets each status line. Raises Unavailable, Forbidden, Declined."""
        request = protocol.encode_request(list(arguments))
        deadline = time.monotonic() + within_s
        self._busy = ""
        while True:
            lines, code = self._converse(request, deadline, say)
            if code is not None:
                break
            # No result: the daemon was restarted, or is at its limits.
            time.sleep(min(_again_s(lines), max(0.0, deadline - time.monotonic())))
        out = [text for kind, text in lines if kind == "O"]
        if code != protocol.EXIT_DONE:
            raise Declined("; ".join(_plain(text) for kind, text in lines if kind == "E"), code)
        return out

    def _converse(
        self, request: bytes, deadline: float, say: Callable[[str], None]
    ) -> tuple[list[tuple[str, str]], int | None]:
        told = 0
        data = b""
        with self._edge(), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_left(deadline))
            try:
                link.connect(str(self.path))
            except BlockingIOError:
                # Its queue of connections is full.
                return [], None
            # A daemon at its limits answers and closes without having read.
            with suppress(BrokenPipeError, ConnectionResetError):
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
                    busy = any(kind == "A" for kind, _ in lines)
                    self._busy = "".join(text for kind, text in lines if busy and kind == "S")
                    return lines, code

    def features(self, *, within_s: float = ANSWER_S) -> list[FeatureDescription]:
        """Return all features as the daemon describes them. Raises Unavailable, Forbidden.

        Without each that Docker has not reported to a just started daemon within `within_s`.
        """
        return self._described("show", within_s=within_s)

    def feature(self, name: str) -> FeatureDescription:
        """Return one feature as the daemon describes it. Raises Unavailable, Forbidden, Declined."""
        for found in self._described("show", name, within_s=ANSWER_S):
            return found
        raise Unavailable("kubesyncd", f"{name}: Docker has not reported its containers yet; ask again")

    def _described(self, *arguments: str, within_s: float) -> list[FeatureDescription]:
        """Ask again, until `within_s`, a daemon that has just started and names what Docker has not reported."""
        deadline = time.monotonic() + within_s
        while True:
            lacking: list[str] = []
            lines = self.ask(*arguments, within_s=deadline - time.monotonic(), say=lacking.append)
            if not lacking or time.monotonic() + AGAIN_S >= deadline:
                return [json.loads(line) for line in lines if line]
            time.sleep(AGAIN_S)

    def lacking(self, name: str) -> str:
        """Return why no local container can run the feature; empty where one can. Raises as `ask`.

        The daemon asks systemd and Docker; it may be that it does not know within the time.
        """
        return "".join(self.ask("way-back", name))

    def cluster(self, *, check_files: bool = False) -> ClusterDescription:
        """Return the daemon's view of master, labels and kubelet. Raises Unavailable, Forbidden.

        `check_files`: it proves first that its files can be written, which takes seconds where a disk is slow.
        """
        if check_files:
            lines = self.ask("cluster", protocol.CHECK_FILES, within_s=CHECK_FILES_S)
        else:
            lines = self.ask("cluster")
        found: ClusterDescription = json.loads(lines[0])
        return found

    @contextmanager
    def _edge(self) -> Iterator[None]:
        path = self.path
        try:
            yield
        except PermissionError as error:
            raise Forbidden("kubesyncd", f"{path}: permission denied; use sudo, or join its group") from error
        except TimeoutError as error:
            why = f" ({self._busy})" if self._busy else ""
            detail = f"the daemon does not answer in time{why}; look at: systemctl status kubesyncd"
            raise Unavailable("kubesyncd", detail) from error
        except OSError as error:
            raise Unavailable("kubesyncd", self._absence()) from error
        except protocol.BadRequest as error:
            raise Unavailable("kubesyncd", f"{path} uses another protocol ({error})") from error

    def _absence(self) -> str:
        """Return why the socket takes no connection, and ask a daemon that runs to look at it."""
        pid = lock_holder(self._folders)
        if not pid:
            return f"the daemon is not running ({self.path}); start it: systemctl start kubesyncd"
        ask_to_look(pid)
        state = "the daemon runs, but"
        if pid == UNKNOWN:
            state = (
                f"it is not known whether the daemon runs, as {LOCKS} does not tell who holds its lock, and"
            )
        return f"{state} {self.path} is gone or closed; ask again, or: systemctl restart kubesyncd"


def _again_s(lines: list[tuple[str, str]]) -> float:
    """Return the seconds after which the daemon wants to be asked again; AGAIN_S where it has not said."""
    said = [text for kind, text in lines if kind == "A"]
    with suppress(ValueError, IndexError):
        return max(AGAIN_S, float(said[-1]))
    return AGAIN_S


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _plain(text: str) -> str:
    """Return the daemon's error without the client's name in front."""
    for prefix in ("container: ", "label: ", "kubernetes: "):
        text = text.removeprefix(prefix)
    return text
