"""Which fixtures does every test know, and which tests need a real engine?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

pytest_plugins = [
    "tests.cli_fixtures",
    "tests.lab.redis_fixtures",
    "tests.real.docker_engine",
    "tests.real.installed_fixtures",
    "tests.real.kube_fixtures",
    "tests.real.switch_fixtures",
]

# A machine that is busy with something else must not fail a test. What keeps a change from landing must be about the
# change: new inputs are drawn by people, and by `make fuzz`, not by CI.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("any machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for the engines a test is marked with before any of its fixtures starts one."""
    # Imported late: pytest must have rewritten the assertions of the fixtures' modules first.
    from tests.real.engines import require

    for mark in item.iter_markers("real"):
        require(*mark.args)
