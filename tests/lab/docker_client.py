"""Call a Docker engine on its socket, for tests and scripts.

    python -IS tests/lab/docker_client.py SOCKET NAME CONFIG_FILE

makes container NAME from CONFIG_FILE unless there is one, as a service's start script does. Never used by the
product, whose adapter it checks from the other side. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ANSWER_S_MAX = 300.0


class DockerError(Exception):
    """The engine answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class DockerClient:
    """The engine that listens on `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The decoded answer. Raises DockerError."""
        text = self.text(method, path, body, **query)
        return json.loads(text) if text else None

    def text(self, method: str, path: str, body: Any = None, **query: str) -> str:
        """The answer as it is. Raises DockerError."""
        link = _Connection(self._path)
        try:
            content = None if body is None else json.dumps(body)
            target = f"{path}?{urlencode(query)}" if query else path
            link.request(method, target, content, {"Content-Type": "application/json"})
            answer = link.getresponse()
            text = answer.read().decode()
        finally:
            link.close()
        if answer.status >= 400:
            raise DockerError(answer.status, text)
        return text

    def create(self, name: str, config: dict[str, Any]) -> str:
        """A container that has not run yet; its ID."""
        return str(self.ask("POST", "/containers/create", config, name=name)["Id"])

    def do(self, verb: str, container: str, **query: str) -> None:
        """start, stop, kill, …; in that state already is success."""
        self.ask("POST", f"/containers/{container}/{verb}", **query)

    def remove(self, container: str) -> None:
        """Gone, running or not."""
        try:
            self.ask("DELETE", f"/containers/{container}", force="1")
        except DockerError as error:
            if error.status not in (404, 409):
                raise

    def exec(self, container: str, command: list[str]) -> int:
        """Run a command inside, to its end; its exit code."""
        started = self.ask("POST", f"/containers/{container}/exec", {"Cmd": command})["Id"]
        self.ask("POST", f"/exec/{started}/start", {"Detach": True})
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            found = self.ask("GET", f"/exec/{started}/json")
            if not found["Running"] and found["ExitCode"] is not None:
                return int(found["ExitCode"])
            if time.monotonic() > deadline:
                raise DockerError(504, f"{command} has not ended within {ANSWER_S_MAX:g} s")
            time.sleep(0.02)

    def commit(self, container: str, name: str, **config: Any) -> str:
        """An image of what the container is, with a config of its own (Env, Cmd, Labels); its ID."""
        repository, _, tag = name.rpartition(":")
        made = self.ask("POST", "/commit", config or None, container=container, repo=repository, tag=tag)
        return str(made["Id"])

    def remove_image(self, name: str) -> None:
        """Gone, unless a container uses it."""
        try:
            self.ask("DELETE", f"/images/{name}")
        except DockerError as error:
            if error.status not in (404, 409):
                raise

    def events(self, *actions: str) -> list[dict[str, Any]]:
        """What the engine has told of containers so far, oldest first."""
        filters = json.dumps({"type": ["container"], "event": list(actions)})
        text = self.text("GET", "/events", since="0", until=str(time.time()), filters=filters)
        return [json.loads(line) for line in text.splitlines() if line]

    def inspect(self, container: str) -> Any:
        """Everything about one."""
        return self.ask("GET", f"/containers/{container}/json")

    def list(self, **filters: list[str]) -> list[dict[str, Any]]:
        """Containers, running or not, as Docker lists them."""
        found: list[dict[str, Any]] = self.ask(
            "GET", "/containers/json", all="1", filters=json.dumps(filters)
        )
        return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=ANSWER_S_MAX)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def main() -> None:
    """The command line."""
    engine, name, config = sys.argv[1:]
    try:
        DockerClient(Path(engine)).create(name, json.loads(Path(config).read_text()))
    except DockerError as error:
        if error.status != 409:
            raise


if __name__ == "__main__":
    main()
