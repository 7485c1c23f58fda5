"""Measure the time from the return of Redis or Docker until the rows are right: `make bench BENCH_ARGS=back`.

A round takes the service away for some seconds, changes every feature while it is gone, and counts for each of them
from the service's first answer until its STATE_DB row is right. Retries are as a switch has them, not as tests do.
"""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

from kubesyncd.core.model import Timing
from tests.lab.switch import Switch
from tests.tools.bench.measure import Figure, quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.lab.engines import Docker

ROUNDS = 20
NAMES = ("bgp", "lldp", "snmp", "syncd")
# On both sides of the Redis adapter's own deadlines, 2 and 5 s.
AWAY_S = (0.5, 8.0)
TARGET_S = 2.0
PATIENCE_S = 60.0
POLL_S = 0.002
# A foreign value in a row, which only an observation of Docker can correct.
WRONG = "another_program_s"


def back_figures(
    docker: Docker, rounds: int = ROUNDS, away_s: tuple[float, float] = AWAY_S
) -> Iterator[Figure]:
    """All of them."""
    timing = {"backoff_s": Timing().backoff_s, "backoff_s_max": Timing().backoff_s_max}
    with Switch(docker, timing=timing) as switch:
        back = Back(switch, Random(1), away_s)
        for what, one_round in (
            ("Redis killed and started again", back.redis_killed),
            ("Redis silent and awake again", back.redis_silent),
            ("Docker stopped and started again", back.docker_stopped),
        ):
            taken = [seconds for _ in range(rounds) for seconds in one_round()]
            yield Figure(f"{what} → resynced, p50 of {len(taken)}", quantile(taken, 0.5), "s")
            yield Figure(
                f"{what} → resynced, p99 of {len(taken)}", quantile(taken, 0.99), "s", target=TARGET_S
            )


class Back:
    """One switch, and what befalls it. Each round returns the seconds that each feature took."""

    def __init__(self, switch: Switch, rng: Random, away_s: tuple[float, float]) -> None:
        self._switch = switch
        self._rng = rng
        self._away_s = away_s
        self._ids = {name: switch.boot_local(name) for name in NAMES}
        self._run = True

    def redis_killed(self) -> list[float]:
        """It is empty when it is back; what loads CONFIG_DB is as quick as can be."""
        redis = self._switch.redis
        redis.kill()
        expected = self._changed_by_hand()
        self._stay_away()
        redis.start()
        begun = time.monotonic()
        self._switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
        for name in NAMES:
            self._switch.config(name, set_owner="local")
        return self._until_right(begun, lambda name, found: found == expected[name])

    def redis_silent(self) -> list[float]:
        """SIGSTOP."""
        redis = self._switch.redis
        redis.pause()
        try:
            expected = self._changed_by_hand()
            self._stay_away()
        finally:
            redis.resume()
        return self._until_right(time.monotonic(), lambda name, found: found == expected[name])

    def docker_stopped(self) -> list[float]:
        """Its containers end with it, and another program writes other IDs into the rows meanwhile."""
        engine = self._switch.engine
        engine.stop()
        try:
            self._stay_away()
            for name in NAMES:
                self._switch.state_db.hset(f"FEATURE|{name}", "docker_id", WRONG)
        finally:
            engine.start()
        taken = self._until_right(time.monotonic(), lambda _, found: found == "")
        for container in self._switch.docker.list():
            self._switch.docker.remove(container["Id"])
        self._ids = {name: self._switch.boot_local(name) for name in NAMES}
        self._run = True
        return taken

    def _changed_by_hand(self) -> Mapping[str, str]:
        """Local containers are killed, in the next round started; the IDs that the rows are to have then."""
        self._run = not self._run
        for container_id in self._ids.values():
            self._switch.docker.do("start" if self._run else "kill", container_id)
        return self._ids if self._run else dict.fromkeys(NAMES, "")

    def _stay_away(self) -> None:
        time.sleep(self._rng.uniform(*self._away_s))

    def _until_right(self, begun: float, right: Callable[[str, str | None], bool]) -> list[float]:
        """Seconds since `begun` that each row took to be right, by its `docker_id` (None: there is no row yet)."""
        missing, taken = list(NAMES), []
        with self._switch.state_db as database:
            while missing:
                for name in missing[:]:
                    if right(name, database.hget(f"FEATURE|{name}", "docker_id")):
                        taken.append(time.monotonic() - begun)
                        missing.remove(name)
                assert time.monotonic() < begun + PATIENCE_S, f"{missing} not resynced\n{self._switch.told()}"
                time.sleep(POLL_S)
        return taken
