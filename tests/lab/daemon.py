"""Run the real daemon over the lab's Docker engine; only the identification of peers differs.

    python -m tests.lab.daemon ENGINE_FOLDER --config FILE

The lab's containers are plain processes without a cgroup, so the engine's own records tell which container a
peer lives in. Everything else is the product's.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.__main__ import main
from kubesyncd.api.peer import Peer, PeerGone, identify_peer
from tests.lab.docker_programs import container_of

if TYPE_CHECKING:
    import socket


def identify_in(folder: Path, sock: socket.socket) -> Peer:
    """`identify_peer`, with the container that the engine in `folder` names. Raises PeerGone."""
    peer = identify_peer(sock)
    try:
        return replace(peer, container_id=container_of(folder, peer.pid))
    except OSError as error:
        raise PeerGone(f"process {peer.pid} has ended") from error


if __name__ == "__main__":
    engine = Path(sys.argv[1])
    sys.exit(main(sys.argv[2:], identify=lambda sock: identify_in(engine, sock)))
