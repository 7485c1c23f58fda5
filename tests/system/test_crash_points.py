"""Check that the whole story ends the same after a SIGKILL following any of the daemon's effects.

One story for one feature: local, to kube, stopped while the master is away, started when it is back, local again.
The system tier plays every ninth point, the deep tier those between.
Each time it is played, the daemon dies without a goodbye after its n-th effect, a label PATCH and a kubelet toggle
counted too, and is started again. No container may start oftener than in an undisturbed run.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.system.test_switch_faults import ended
from tests.system.test_switch_kube import master

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.switch import Switch

POINTS_MAX = 80
UNAVAILABLE = 69
# A story takes seconds.
STRIDE = 9
FIRST_POINTS = [1, *(pytest.param(first, marks=pytest.mark.deep) for first in range(2, STRIDE + 1))]


class Mortal:
    """A switch whose daemon dies once, and is started again by the next wait."""

    def __init__(self, switch: Switch, effects: int) -> None:
        """Start the daemon that dies after so many effects; those of its own start count as well."""
        self.switch = switch
        self.died = False
        try:
            switch.daemon.start(crash_after=effects)
        except AssertionError:
            if not ended(switch):
                raise

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it, whether or not the daemon dies meanwhile."""

        def holds() -> object:
            if ended(self.switch):
                self.died = True
                self.switch.daemon.start()
            return condition()

        self.switch.wait_for(holds, what)

    def done(self, verb: str, feature: str) -> None:
        """Have the `container` script do it, whether or not the daemon dies meanwhile.

        A client whose request the dying daemon has not read waits 2 s for a later one. Where it meets none it is
        refused, and asked again.
        """
        lived = not self.died
        code, said = self._asked(verb, feature)
        if lived and self.died and code == UNAVAILABLE and "kubesyncd is not running" in said:
            code, said = self._asked(verb, feature)
        assert code == 0, f"container {verb} {feature}: {code}, {said}\n{self.switch.told()}"

    def _asked(self, verb: str, feature: str) -> tuple[int, str]:
        """The client's exit code, and what it says."""
        client = self.switch.spawn(verb, feature)
        self.until(lambda: client.poll() is not None, f"the {verb} has returned")
        return client.wait(), "".join(client.communicate())

    def kubelet_runs(self) -> bool:
        """Whether the daemon itself says so: then it has outlived that it started it."""
        with suppress(OSError, AssertionError):
            return json.loads(self.switch.ask("cluster")[1][0])["kubelet"] is True
        return False


def story(mortal: Mortal, feature: str) -> None:
    """All of it, for a feature that is LOCAL now."""
    switch = mortal.switch

    def ups(*owners: str) -> Callable[[], bool]:
        """Exactly these have got past `state up`, and the last one owns the feature."""
        return lambda: (
            switch.ups(feature) == [*owners] and switch.row(feature).get("current_owner") == owners[-1]
        )

    switch.config(feature, set_owner="kube")
    mortal.until(ups("local", "kube"), "kube has taken over")
    master(switch).stop_api()
    mortal.until(lambda: switch.connected == "False", "the outage is noticed")
    mortal.done("stop", feature)
    mortal.until(lambda: not switch.running(feature), "nothing runs")
    master(switch).start()
    mortal.until(
        lambda: switch.pending == "" and switch.kubelet_runs and mortal.kubelet_runs(),
        "the queue is empty, the kubelet runs",
    )
    mortal.done("start", feature)
    mortal.until(ups("local", "kube", "kube"), "kube runs it again")
    switch.config(feature, set_owner="local")
    mortal.until(
        ups("local", "kube", "kube", "local"), "local again, and no container has started once too often"
    )


@pytest.mark.slow("the whole story for each of several effects")
@pytest.mark.parametrize("first", FIRST_POINTS)
def test_the_whole_story_ends_the_same_whichever_effect_the_daemon_is_killed_after(
    lab_kube_switch: Switch, first: int
) -> None:
    switch = lab_kube_switch
    for effects in range(first, POINTS_MAX, STRIDE):
        feature = f"snmp{effects}"
        switch.boot_local(feature)
        switch.master.deploy(feature)
        switch.daemon.stop()
        mortal = Mortal(switch, effects)
        story(mortal, feature)
        mortal.until(
            lambda f=feature: switch.master.label_of(f) == "" and switch.pending == "", "the label is off"
        )
        mortal.until(lambda f=feature: len(switch.running(f)) == 1, "only the local container runs")
        assert switch.containers.twice(feature) == ""
        if not mortal.died:
            assert effects > 15, "the story has hardly any effects: they are not counted"
            return
    raise AssertionError(f"the story has more than {POINTS_MAX} effects")
