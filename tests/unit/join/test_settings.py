"""Check what the process of a join does with settings that it cannot use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kubesyncd.join.__main__ import EXIT_SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 180.0


@pytest.mark.parametrize("job", ["join", "reset"])
def test_an_invalid_redis_url_ends_the_job_with_one_line(tmp_path: Path, job: str) -> None:
    file = tmp_path / "kubesyncd.toml"
    file.write_text(
        f'[paths]\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n[redis]\nurl = "redis://host:port/4"\n'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "kubesyncd.join", job, "--config", str(file)],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == EXIT_SETTINGS
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"kubesyncd.join: {file}: [redis] url = 'redis://host:port/4'; allowed: ")
