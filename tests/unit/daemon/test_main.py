"""Check what the process of the daemon does with settings that it cannot use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 60.0
EXIT_SETTINGS = 78


@pytest.mark.parametrize("section", ["redis", "docker", "packages"])
def test_an_address_that_cannot_be_used_ends_the_start_with_one_line(tmp_path: Path, section: str) -> None:
    file = tmp_path / "kubesyncd.toml"
    file.write_text(
        f'[paths]\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n[{section}]\nurl = "gopher:x"\n'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "kubesyncd", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == EXIT_SETTINGS, ended
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"kubesyncd: {file}: [{section}] url"), line
