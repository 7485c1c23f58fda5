"""Configure every test run: fixtures, tiers, engines, and the check for leftovers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers, sample, tiers
from tests.lab.places import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = [
    "tests.unit.cli.cli_fixtures",
    "tests.lab.redis_fixtures",
    "tests.system.docker_fixtures",
    "tests.system.installed_fixtures",
    "tests.system.kube_fixtures",
    "tests.system.switch_fixtures",
]

# A machine that is busy with something else must not fail a test. What keeps a change from landing must be about the
# change: new inputs are drawn by people, and by `make test-deep`, not by CI.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("any machine")

RUN_FOLDER = pytest.StashKey["Path"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of a sample."""
    sample.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the run its own folders, before workers start and before pytest chooses where `tmp_path` lies."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    if RUN in os.environ:
        # A run that a test of another run has started; what it leaves is the other one's.
        os.environ.pop(sample.UNTIL, None)
        base = Path(os.environ["TMPDIR"], leftovers.BASETEMP)
        config.option.basetemp = config.option.basetemp or base / f"nested-{os.getpid()}"
        return
    config.stash[RUN_FOLDER] = leftovers.begin()
    sample.begin(config)
    # Imported late, as below. All workers play the same seeds, whatever the time.
    from tests.sim.storm import SEED_FROM, seeds_of_the_day

    os.environ[SEED_FROM] = str(seeds_of_the_day()[0])
    # Short, for a socket's path has 107 bytes at most.
    config.option.basetemp = config.option.basetemp or config.stash[RUN_FOLDER] / leftovers.BASETEMP


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a flaky test several times."""
    if next(metafunc.definition.iter_markers("flaky"), None):
        metafunc.fixturenames.append("attempt")
        metafunc.parametrize("attempt", range(tiers.FLAKY_TRIES))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests with their tier before `-m` chooses some of them."""
    tiers.refuse_stale_flakes(items)
    tiers.assign(items)
    sample.order(config, items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for the engines a test is marked with before any of its fixtures starts one."""
    sample.skip_if_over()
    # Imported late: pytest must have rewritten the assertions of the fixtures' modules first.
    from tests.system.engines import require

    for mark in item.iter_markers("real"):
        require(*mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A flaky test that fails is told and does not fail the run; a slow one without a reason is told."""
    report = yield
    flaky = item.get_closest_marker("flaky")
    if flaky and report.failed:
        report.outcome, report.wasxfail = "skipped", f"flaky, see {flaky.args[0]}"
    limit_s = tiers.SLOW_S.get(tiers.tier_of(item))
    if (
        report.when == "call"
        and limit_s
        and report.duration > limit_s
        and not item.get_closest_marker("slow")
    ):
        report.user_properties.append(("slow", f"{report.duration:.1f} s {item.nodeid}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what a sample has played, and which tests took longer than their tier allows and give no reason."""
    found = [r for same in terminalreporter.stats.values() for r in same]
    reports = [r for r in found if isinstance(r, pytest.TestReport)]
    sample.tell(config, reports, terminalreporter)
    if any("the_seeds_of_the_day" in report.nodeid for report in reports):
        terminalreporter.line(f"storm seeds: from KUBESYNCD_SEED_FROM={os.environ['KUBESYNCD_SEED_FROM']} on")
    slow = {text for r in reports for name, text in r.user_properties if name == "slow"}
    if slow:
        terminalreporter.section("slow without a reason: the machine is busy, or mark.slow is missing")
    for line in sorted(slow):
        terminalreporter.line(line)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail a run that leaves processes, mounts or files behind, once its workers have ended."""
    yield
    folder = session.config.stash.get(RUN_FOLDER, None)
    if folder is None:
        return
    if left := leftovers.found(folder):
        print(f"\nthe test run has left behind, in or below {folder}:", *left, sep="\n  ")
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if session.config.stash.get(sample.PLAYED, 1) == 0:
        print("\nthe sample has played no test")
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        leftovers.end(folder)
