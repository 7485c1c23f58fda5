"""Give tests a real Docker engine: one for each worker.

A test that asks for it is marked `real("docker")`. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.places import remove
from tests.system.docker_engine import RealDocker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def real_docker() -> Iterator[RealDocker]:
    """The worker's dockerd; a test that uses it removes its containers."""
    folder = Path(tempfile.mkdtemp(prefix="kd-"))
    engine = RealDocker(folder)
    try:
        engine.start()
        engine.import_image()
        yield engine
    finally:
        engine.stop()
        remove(folder)
