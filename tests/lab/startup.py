"""Do what an image made for today's SONiC does at its start: `startup.py -f NAME -o OWNER -v VERSION`.

It stands for container_startup.py of sonic-ctrmgrd, which images bring along in /usr/share/sonic/scripts. A local
container reports itself in STATE_DB and goes on. One that Kubernetes has deployed is frozen where the owner is local,
the unit is not up or KUBE_LABELS names its version as the local one; else it writes its version and, unless the row
says so already, remote_state=pending, and polls until the row says ready. It gives up for ever where the row has
another version. Then it reports itself as the owner; with cgroup v2 it finds no ID of its own.

Needs nothing but Python: a real image has swsscommon. REDIS_SOCKET is the switch's Redis, POLL_S the time between two
looks (the real one: 2 s), ITS_ID what it takes for its ID, FROZEN the file that tells of one that waits for ever.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from typing import BinaryIO

CONFIG_DB, STATE_DB = 4, 6


class Redis:
    """One connection to one database."""

    def __init__(self, path: str, database: int) -> None:
        self._link = socket.socket(socket.AF_UNIX)
        self._link.settimeout(30)
        self._link.connect(path)
        self._file: BinaryIO = self._link.makefile("rb")
        self.ask("SELECT", str(database))

    def ask(self, *words: str) -> list[bytes]:
        parts = [f"*{len(words)}\r\n".encode()]
        parts += [b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words]
        self._link.sendall(b"".join(parts))
        return self._answer()

    def row(self, key: str) -> dict[str, str]:
        found = [value.decode() for value in self.ask("HGETALL", key)]
        return dict(zip(found[::2], found[1::2], strict=True))

    def write(self, key: str, **fields: str) -> None:
        self.ask("HSET", key, *(word for pair in fields.items() for word in pair))

    def _answer(self) -> list[bytes]:
        line = self._file.readline().rstrip(b"\r\n")
        if line[:1] == b"*":
            return [part for _ in range(int(line[1:])) for part in self._answer()]
        if line[:1] == b"$":
            return [self._file.read(int(line[1:]) + 2)[:-2]] if int(line[1:]) >= 0 else []
        if line[:1] not in (b"+", b":"):
            raise OSError(line.decode() or "Redis has ended")
        return [line[1:]]


def freeze(why: str) -> None:
    """Wait for ever: the feature's program must not start."""
    with open(os.environ["FROZEN"], "a") as marks:
        marks.write(f"{why}\n")
    while True:
        time.sleep(60)


def up(feature: str, owner: str, version: str) -> None:
    path, poll_s = os.environ["REDIS_SOCKET"], float(os.environ.get("POLL_S", "2"))
    key = f"FEATURE|{feature}"
    config, state = Redis(path, CONFIG_DB), Redis(path, STATE_DB)
    set_owner, row = config.row(key).get("set_owner", "local"), state.row(key)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    if not row.get("system_state"):
        return
    if owner == "local":
        state.write(
            key, current_owner="local", container_id=feature, update_time=now, container_version=version
        )
        state.write("KUBE_LABELS|SET", **{f"{feature}_local": version})
        return
    if set_owner == "local":
        freeze("set_owner is local")
    if row["system_state"] != "up":
        freeze("the unit is not up")
    if state.row("KUBE_LABELS|SET").get(f"{feature}_local") == version:
        freeze("this version runs locally")
    state.write(key, container_version=version)
    mode = row.get("remote_state", "none")
    if mode in ("none", "running", "stopped"):
        state.write(key, remote_state="pending")
        mode = "pending"
    while mode != "ready":
        time.sleep(poll_s)
        row = state.row(key)
        mode = row.get("remote_state", "none")
        if row.get("container_version", "") != version:
            freeze("another version has been deployed")
    mine = {"current_owner": "kube", "container_id": os.environ.get("ITS_ID", ""), "update_time": now}
    state.write(key, **mine, container_version=version, remote_state="running")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-f", dest="feature", required=True)
    parser.add_argument("-o", dest="owner", choices=("local", "kube"), required=True)
    parser.add_argument("-v", dest="version", required=True)
    given = parser.parse_args(argv)
    up(given.feature, given.owner, given.version)


if __name__ == "__main__":
    main(sys.argv[1:])
