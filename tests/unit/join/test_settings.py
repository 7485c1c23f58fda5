"""Check what the process of a join does with settings that it cannot use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd.join.__main__ import EXIT_SETTINGS, main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("job", ["join", "reset"])
def test_an_invalid_redis_url_ends_the_job_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    file = tmp_path / "kubesyncd.toml"
    file.write_text(
        f'[paths]\nstate_dir = "{tmp_path}"\nrun_dir = "{tmp_path}"\n[redis]\nurl = "redis://host:port/4"\n'
    )
    assert main([job, "--config", str(file)]) == EXIT_SETTINGS
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kubesyncd.join: {file}: [redis] url = 'redis://host:port/4'; allowed: ")
