"""Run a join or reset: `python -m kubesyncd.join join|reset [-f]`.

Composition root: assembles the job and decides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd import settings
from kubesyncd.adapters.kube_credential import CertifiedName
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.adapters.sonic_files import field_names
from kubesyncd.core import protocol
from kubesyncd.core.model import MasterConfig
from kubesyncd.join.files import JoinFiles
from kubesyncd.join.node_names import node_names
from kubesyncd.join.plan import Job, address, plan_join, plan_reset
from kubesyncd.join.progress import JobPhase, Progress
from kubesyncd.join.runner import JobRunner
from kubesyncd.join.steps import SwitchSteps
from kubesyncd.ports import Lasting, PortError, Unavailable
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.runtime.clock import boottime
from kubesyncd.runtime.log import log_libraries, logger
from kubesyncd.runtime.log_stream import take_over_stderr

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.join.plan import JobPlan
    from kubesyncd.settings import Settings

EXIT_SETTINGS = 78  # sysexits' EX_CONFIG
CONFIGURATION_S_MAX = 15.0


def main(argv: list[str] | None = None) -> int:
    """Run the job. Return the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kubesyncd.join", description="Join a Kubernetes master, or leave it."
    )
    parser.add_argument("job", type=Job, choices=tuple(Job), metavar="join|reset")
    parser.add_argument(
        "-f", "--force", action="store_true", help="join again even if the switch has joined already"
    )
    parser.add_argument("--config", type=Path, help=f"the settings file (default {settings.DEFAULT_FILE})")
    given = parser.parse_args(argv)
    stderr = take_over_stderr()
    try:
        current = settings.load(given.config or settings.DEFAULT_FILE, required=given.config is not None)
    except settings.SettingsError as error:
        return _unusable(error)
    log = logger(current.log, stderr).bind(job=given.job.value)
    log_libraries(log)
    try:
        return asyncio.run(_run(given.job, current, log, force=given.force))
    except asyncio.CancelledError:
        return protocol.EXIT_FAILED
    except PortError as error:
        log.error("not_begun", why=str(error))
        return protocol.EXIT_FAILED


def _unusable(error: settings.SettingsError) -> int:
    for problem in error.problems:
        print(f"kubesyncd.join: {problem}", file=sys.stderr)
    return EXIT_SETTINGS


async def _run(job: Job, current: Settings, log: FilteringBoundLogger, *, force: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    files = JoinFiles(current)
    names = node_names(current, files, CertifiedName(files.kubeconfig))
    with files.locked():
        force = files.take_request() or force
        master = await _configuration(job, current, log)
        progress = Progress(job, address(master) if master.ip else "", force, boottime())
        files.report(progress)
        try:
            plan = _plan(job, master, files, names.problem(), force=force)
        except PortError as error:
            log.error("refused", why=error.detail)
            files.report(progress.ended(JobPhase.FAILED, error.detail, boottime()))
            return protocol.EXIT_FAILED
        log.info("begins", master=progress.master, force=force, why=plan.why)
        try:
            steps = SwitchSteps(job, current, master, files, names, log)
            ended = await JobRunner(steps, files.report, boottime, log).carry_out(plan, progress)
        finally:
            # Leave no administrator's credential behind, whatever the outcome.
            with suppress(Unavailable):
                files.forget(files.credential)
    return protocol.EXIT_DONE if ended.phase is JobPhase.DONE else protocol.EXIT_FAILED


def _plan(job: Job, master: MasterConfig, files: JoinFiles, name_problem: str, *, force: bool) -> JobPlan:
    found = files.found()
    if job is Job.RESET:
        return plan_reset(found)
    return plan_join(master, found, force=force, name_problem=name_problem)


async def _configuration(job: Job, current: Settings, log: FilteringBoundLogger) -> MasterConfig:
    """Read the master's row in CONFIG_DB. Without Redis a reset continues without it. Raises Unavailable.

    What an operator has to mend is not waited for.
    """
    rng = random.SystemRandom()
    store = RedisStore(current.redis, field_names(current).names, rng, frozenset())
    backoff, why = Backoff(rng, 0.8, 4.0), ""
    try:
        async with asyncio.timeout(CONFIGURATION_S_MAX):
            while True:
                try:
                    return await store.master()
                except Lasting as error:
                    why = error.detail
                    break
                except Unavailable as error:
                    why = error.detail
                await asyncio.sleep(backoff.next_s())
    except TimeoutError:
        pass
    finally:
        await store.close()
    if job is Job.RESET:
        log.warning("no_configuration", why=why)
        return MasterConfig()
    raise Unavailable("Redis", why)


if __name__ == "__main__":
    sys.exit(main())
