"""Check that the only container of a feature is not ended: Kubernetes keeps it until a local one can exist."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.actions import (
    Admit,
    EndContainer,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
)
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.failed_action import START_AGES_S, ActionKind, FailedAction
from kubesyncd.core.health import Complaint, Health
from kubesyncd.core.model import FailurePolicy, FeatureConfig, LabelView, Mode, Owner, SystemState
from kubesyncd.core.record import (
    Cause,
    Record,
    falls_back,
    lacking,
    repaired,
    returns_to_local,
    ruling_owner,
    with_mode,
)
from kubesyncd.core.state import State
from kubesyncd.core.verbs import Start, accept, outcome
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NO_IMAGE,
    NOW,
    OFF,
    ON,
    ROLLBACK,
    TIMING,
    down,
    granted,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.actions import Action
    from kubesyncd.core.observation import Observation

SWITCH = FailurePolicy.SWITCH_TO_LOCAL
LOST = observed(kube(), label=ON, no_way_back=NO_IMAGE)


@pytest.mark.parametrize("config", [LOCAL_CONFIG, ROLLBACK])
def test_the_only_container_is_kept(config: FeatureConfig) -> None:
    record = granted(rolled_back=config is ROLLBACK, failure="bad" if config is ROLLBACK else "")
    decided = plan(config, record, LOST)
    assert (decided.action, decided.state) == (None, State.KUBE_RUNNING)
    record, seen = look(config, record, LOST)
    assert record.no_way_back
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert found.kind is ConditionKind.NO_WAY_BACK
    assert found.text == (
        f"no way back: {NO_IMAGE}, so the kube container is kept, also with owner local or a failure; "
        "restore its image (docker load, docker pull), or create a container named snmp"
    )


def test_the_reason_is_told() -> None:
    assert "set_owner=local, but no local container exists" in plan(LOCAL_CONFIG, granted(), LOST).why
    assert plan(KUBE_CONFIG, granted(adopted="x"), LOST).why == "the kube container runs, as configured"


def test_it_is_kept_over_a_crash_of_its_container_and_until_a_local_one_can_exist() -> None:
    record, _ = look(LOCAL_CONFIG, granted(), LOST)
    crashed, _ = look(LOCAL_CONFIG, record, replace(LOST, containers=()))
    assert crashed.no_way_back
    assert ruling_owner(LOCAL_CONFIG, crashed) is Owner.KUBE
    unknown = replace(LOST, containers=(), label=LabelView())
    assert plan(LOCAL_CONFIG, record, unknown).action == RequestLabel(on=True), "Kubernetes must run it again"
    found = replace(LOST, no_way_back="")
    assert plan(LOCAL_CONFIG, record, found).action == RequestLabel(on=False)
    made = observed(kube(), local(running=False))
    freed, _ = look(LOCAL_CONFIG, record, made)
    assert not freed.no_way_back
    ends = plan(LOCAL_CONFIG, freed, made, NOW + TIMING.kube_stop_grace_s)
    assert ends.action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)


def test_only_a_container_that_owns_the_feature_is_kept() -> None:
    assert not look(LOCAL_CONFIG, up(mode=Mode.READY), LOST)[0].no_way_back
    assert not look(LOCAL_CONFIG, down(), LOST)[0].no_way_back
    assert not look(LOCAL_CONFIG, down(grant=KUBE), LOST)[0].no_way_back, "a stop ends it all the same"


# ---- pruned while Kubernetes runs it ------------------------------------------------------------------

GONE = replace(LOST, containers=())


def test_the_pod_s_end_restarts_no_unit_and_changes_no_wish_without_an_image() -> None:
    """Its script would fail, systemd would end the feature, and the pod that comes back would be stopped."""
    record, seen = look(FALLBACK, granted(), LOST)
    assert [c.kind for c in conditions("snmp", record, seen, TIMING, NOW)] == [ConditionKind.NO_WAY_BACK]
    at = NOW
    for wait_s in (0.0, TIMING.fallback_after_s + 1.0, 3600.0):
        at += wait_s
        made = plan(FALLBACK, record, GONE, at)
        assert (made.action, made.state) == (None, State.KUBE_READY)
        assert made.wake_at is None, "no fallback is promised"
        assert made.why.endswith(f"{NO_IMAGE}, so nothing can fall back")
        record, seen = look(FALLBACK, record, GONE, at)
        assert record.system_state is SystemState.UP
    back = observed(kube(KUBE2), label=ON, no_way_back=NO_IMAGE, waiting=frozenset({KUBE2}))
    assert plan(FALLBACK, record, back, at).action == Admit(KUBE2)


def test_the_fallback_comes_as_soon_as_the_image_is_back() -> None:
    record, _ = look(FALLBACK, granted(), LOST)
    record, _ = look(FALLBACK, record, GONE)
    found = replace(GONE, no_way_back="")
    late = NOW + TIMING.fallback_after_s
    early, due = plan(FALLBACK, record, found), plan(FALLBACK, record, found, late)
    assert (early.action, early.wake_at) == (None, late)
    assert due.action == SetMode(Mode.NONE)
    record, _ = look(FALLBACK, record, found, late)
    assert conditions("snmp", record, found, TIMING, late) == ()
    assert plan(FALLBACK, with_mode(record, Mode.NONE), found, late).action == RestartUnit()


WAITING = up(mode=Mode.READY, local_due=True, failure="bad", idle_since=1.0)
RESTORED = up(mode=Mode.NONE, failure="bad", rolled_back=True, restored="x")


@pytest.mark.parametrize(
    ("config", "record", "without", "with_image"),
    [
        (FALLBACK, up(mode=Mode.NONE), SetMode(Mode.READY), RestartUnit()),
        (LOCAL_CONFIG, up(mode=Mode.NONE), None, RestartUnit()),
        (FALLBACK, WAITING, None, SetMode(Mode.NONE)),
        (ROLLBACK, RESTORED, None, RestartUnit()),
    ],
)
def test_no_unit_is_restarted_whose_script_lacks_its_image(
    config: FeatureConfig, record: Record, without: Action | None, with_image: Action
) -> None:
    seen = replace(GONE, joined=False)
    assert plan(config, record, seen).action == without
    assert plan(config, record, replace(seen, no_way_back="")).action == with_image


def test_a_unit_that_lacked_its_image_was_not_restarted_in_vain() -> None:
    """A start notes that the script is making the container; without an image it makes none."""
    record = accept(Start(), FALLBACK, down(), look(FALLBACK, down(), observed())[1])
    assert isinstance(record, Record)
    assert record.unit_restarted
    record, _ = look(FALLBACK, record, GONE)
    assert not record.unit_restarted
    record, _ = look(FALLBACK, replace(record, unit_restarted=True), replace(GONE, no_way_back=""))
    assert record.unit_restarted


def test_where_nothing_runs_only_kubernetes_can_run_it() -> None:
    record, seen = look(FALLBACK, up(mode=Mode.READY), GONE)
    assert not record.no_way_back
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert f"{NO_IMAGE}, so nothing can run it here but Kubernetes" in found.text
    stuck = outcome(Start(), LOCAL_CONFIG, *look(LOCAL_CONFIG, up(), GONE))
    assert stuck is not None
    assert stuck.text.startswith(f"it should run locally, but {NO_IMAGE}; ")


def test_an_unhealthy_kube_container_is_kept_without_a_way_back() -> None:
    said = Complaint(KUBE, "container", "no answer")
    record = granted(health=Health(complaints=(said,)), failure="it is unhealthy")
    made = plan(FALLBACK, record, LOST)
    assert (made.action, made.why) == (None, f"it is unhealthy; {NO_IMAGE}: the kube container is kept")
    able = observed(kube(), local(running=False), label=ON)
    assert plan(FALLBACK, record, able).action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)


# ---- not known ----------------------------------------------------------------------------------------

SILENT = "it is not known whether a local container can be made (systemd: no answer)"
UNSURE = observed(kube(), label=ON, way_back_unknown=SILENT)


@pytest.mark.parametrize("config", [LOCAL_CONFIG, ROLLBACK])
def test_the_only_container_is_kept_while_its_way_back_is_not_known_and_no_image_is_blamed(
    config: FeatureConfig,
) -> None:
    record = granted(rolled_back=config is ROLLBACK, failure="bad" if config is ROLLBACK else "")
    made = plan(config, record, UNSURE)
    assert (made.action, made.state) == (None, State.KUBE_RUNNING)
    assert made.why.endswith(f", but {SILENT}: the kube container is kept")
    record, seen = look(config, record, UNSURE)
    assert conditions("snmp", record, seen, TIMING, NOW) == ()
    assert lacking(record, seen) == "", "the operators' commands promise no loss either"
    over, _ = look(config, record, replace(UNSURE, way_back_unknown=""))
    assert ruling_owner(config, over) is Owner.LOCAL


def test_a_way_back_that_is_not_known_any_more_is_no_alert_after_a_restart() -> None:
    record, seen = look(FALLBACK, granted(no_way_back=True), UNSURE)
    assert record.no_way_back
    assert conditions("snmp", record, seen, TIMING, NOW) == ()


def test_an_unhealthy_kube_container_is_kept_while_its_way_back_is_not_known() -> None:
    said = Complaint(KUBE, "container", "no answer")
    record = granted(health=Health(complaints=(said,)), failure="it is unhealthy")
    made = plan(FALLBACK, record, UNSURE)
    assert (made.action, made.why) == (None, f"it is unhealthy; {SILENT}: the kube container is kept")


def test_no_unit_is_restarted_while_it_is_not_known_what_its_script_can_do() -> None:
    gone, at = replace(UNSURE, containers=()), NOW + 3600.0
    record, _ = look(FALLBACK, granted(), UNSURE)
    record, _ = look(FALLBACK, record, gone)
    made = plan(FALLBACK, record, gone, at)
    assert (made.action, made.wake_at) == (None, None)
    assert made.why.endswith(f"{SILENT}, so nothing falls back until it is")
    assert plan(FALLBACK, record, replace(gone, way_back_unknown=""), at).action == SetMode(Mode.NONE)
    assert plan(LOCAL_CONFIG, up(), replace(gone, label=OFF)).action is None


def test_a_unit_whose_way_back_is_not_known_was_restarted_all_the_same() -> None:
    """`once`: a silent systemd must not make it a restart after each silence."""
    seen = replace(UNSURE, containers=(), label=OFF)
    record, _ = look(LOCAL_CONFIG, up(unit_restarted=True), seen)
    assert record.unit_restarted
    assert plan(LOCAL_CONFIG, record, replace(seen, way_back_unknown="")).action is None


FAILED = Health(failed_image="sha256:bad")


@pytest.mark.parametrize("seen", [LOST, replace(LOST, containers=())])
def test_a_rollback_restores_the_image_from_before_while_the_local_one_is_missing(seen: Observation) -> None:
    """`docker rmi docker-snmp:latest`, while docker-snmp:kubesyncd-previous exists."""
    record = granted(rolled_back=True, failure="bad", health=FAILED)
    record, _ = look(ROLLBACK, record, LOST)
    made = plan(ROLLBACK, record, seen)
    assert made.action == RestoreImage("sha256:bad"), "before anything ends"
    assert plan(ROLLBACK, record, replace(seen, working=True)).action is None
    tried = replace(record, restored="sha256:bad")
    assert plan(ROLLBACK, tried, seen).action is None, "none was kept"
    restored = plan(ROLLBACK, tried, replace(seen, no_way_back="", joined=False))
    ends = EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)
    assert restored.action == (ends if seen.containers else SetMode(Mode.NONE))


def test_a_rollback_restores_the_image_from_before_where_the_local_container_does_not_start() -> None:
    record = granted(rolled_back=True, failure="bad", health=FAILED)
    assert plan(ROLLBACK, record, DEAD).action == RestoreImage("sha256:bad")
    assert plan(ROLLBACK, replace(record, restored="sha256:bad"), DEAD).action is None


# ---- a local container that does not start ------------------------------------------------------------

BROKEN = FailedAction(
    ActionKind.START_LOCAL, LOCAL, "Docker: no such program", at=1.0, again_at=2.0, refused=True
)
DEAD = observed(kube(), local(running=False), label=ON, failures=(BROKEN,))


@pytest.mark.parametrize("config", [LOCAL_CONFIG, ROLLBACK, FALLBACK])
def test_a_local_container_that_does_not_start_is_no_way_back(config: FeatureConfig) -> None:
    rolled_back = config is ROLLBACK
    record = granted(rolled_back=rolled_back, failure="bad" if rolled_back else "", adopted="x")
    made = plan(config, record, DEAD)
    assert (made.action, made.state) == (None, State.KUBE_RUNNING)
    record, seen = look(config, record, DEAD)
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert found.text == (
        "no way back: its local container does not start: Docker: no such program, so the kube container is kept, "
        "also with owner local or a failure; run: docker rm snmp, and its unit makes another one, or repair it and "
        "run: kubesync clear snmp"
    )
    record, seen = look(config, record, replace(DEAD, failures=()))
    assert record.no_way_back, "over a restart of the daemon"
    assert lacking(record, seen) == "its local container does not start: Docker: no such program"
    mended, seen = look(config, repaired(record), replace(DEAD, failures=()))
    assert not mended.no_way_back
    assert lacking(mended, seen) == ""


FULL = replace(BROKEN, text="Docker: no space left on device", at=NOW, passing=True)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("config", [LOCAL_CONFIG, ROLLBACK, FALLBACK])
def test_no_time_ends_a_kube_container_for_a_start_that_was_hindered(
    config: FeatureConfig, *, restarted: bool
) -> None:
    """Docker blames the host (500) for many reasons that last; nothing has tried another start since."""
    rolled_back, sick = config is ROLLBACK, Complaint(KUBE, "container", "no answer")
    health = Health(complaints=(sick,)) if config is FALLBACK else Health()
    record = granted(rolled_back=rolled_back, failure="bad", health=health)
    record, seen = look(config, record, replace(DEAD, failures=(FULL,)))
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert found.text.endswith("repair it and run: kubesync clear snmp")
    later = replace(DEAD, failures=() if restarted else (FULL,))
    for after_s in (START_AGES_S, 100 * START_AGES_S):
        made = plan(config, record, later, NOW + after_s)
        assert (made.action, made.state) == (None, State.KUBE_RUNNING)
        record, _ = look(config, record, later, NOW + after_s)
        assert record.no_way_back
    mended, seen = look(config, repaired(record), replace(DEAD, failures=()))
    assert conditions("snmp", mended, seen, TIMING, NOW) == ()


def test_a_start_that_the_host_has_hindered_counts_as_untried_after_a_while() -> None:
    """The disk may be free again, and no kube container runs that would be ended for it."""
    stopped = observed(local(running=False), label=ON)
    record, _ = look(KUBE_CONFIG, up(mode=Mode.READY), replace(stopped, failures=(FULL,)))
    assert look(KUBE_CONFIG, record, stopped, NOW + START_AGES_S - 1.0)[0].unstartable is not None
    assert plan(KUBE_CONFIG, record, stopped).wake_at == NOW + START_AGES_S
    freed, seen = look(KUBE_CONFIG, record, stopped, NOW + START_AGES_S)
    assert freed.unstartable is None
    assert lacking(freed, seen) == ""


STOPPED = observed(local(running=False), label=ON)


def test_the_local_container_is_tried_again_at_once_when_kube_s_ends_and_a_pod_may_come_back() -> None:
    """Over a restart of the daemon, too, when nothing knows the refusal but the record."""
    record, _ = look(LOCAL_CONFIG, granted(), replace(DEAD, failures=(FULL,)))
    late = NOW + 2 * START_AGES_S
    ended, seen = look(LOCAL_CONFIG, record, STOPPED, late)
    assert ended.no_way_back
    (found,) = conditions("snmp", ended, seen, TIMING, late)
    assert ", so nothing can run it here but Kubernetes; run: docker rm snmp" in found.text
    assert plan(LOCAL_CONFIG, ended, STOPPED, late).action == SetMode(Mode.NONE)
    tried = with_mode(ended, Mode.NONE)
    assert plan(LOCAL_CONFIG, tried, STOPPED, late).action == StartLocal(LOCAL), "the label stays meanwhile"
    again = replace(FULL, at=late, again_at=late + 30.0)
    refused = replace(STOPPED, failures=(again,))
    assert plan(LOCAL_CONFIG, tried, refused, late).action == SetMode(Mode.READY)
    waits = with_mode(tried, Mode.READY)
    assert plan(LOCAL_CONFIG, waits, refused, late).wake_at == late + 30.0
    assert plan(LOCAL_CONFIG, waits, replace(refused, label=OFF), late).action == RequestLabel(on=True)
    assert plan(LOCAL_CONFIG, waits, refused, late + 30.0).action == StartLocal(LOCAL)
    pod = replace(refused, containers=(*refused.containers, kube(KUBE2)), waiting=frozenset({KUBE2}))
    assert plan(LOCAL_CONFIG, waits, pod, late).action == Admit(KUBE2)
    runs = replace(STOPPED, containers=(local(),))
    assert plan(LOCAL_CONFIG, waits, runs, late).action == SetMode(Mode.NONE)
    assert plan(LOCAL_CONFIG, with_mode(waits, Mode.NONE), runs, late).action == RequestLabel(on=False)


def test_a_pod_may_come_back_where_the_kube_container_has_made_room_for_one_that_does_not_start() -> None:
    """`kubesync clear`, or a start that nothing had tried before: only Docker's answer to it tells."""
    record, _ = look(LOCAL_CONFIG, granted(), replace(DEAD, failures=(FULL,)))
    ending = replace(repaired(record), asked=(KUBE, Cause.STOP))
    without = replace(STOPPED, label=OFF)
    ended, _ = look(LOCAL_CONFIG, ending, without)
    assert not ended.no_way_back
    record = with_mode(ended, Mode.NONE)
    assert plan(LOCAL_CONFIG, record, without).action == StartLocal(LOCAL)
    refused = replace(without, failures=(replace(FULL, again_at=NOW + 30.0),))
    record, _ = look(LOCAL_CONFIG, record, refused)
    assert record.no_way_back
    assert plan(LOCAL_CONFIG, record, refused).action == SetMode(Mode.READY)
    assert plan(LOCAL_CONFIG, with_mode(record, Mode.READY), refused).action == RequestLabel(on=True)


def test_what_never_ran_in_kubernetes_gets_no_label_for_a_start_that_is_refused() -> None:
    refused = replace(STOPPED, label=OFF, failures=(FULL,))
    record, _ = look(LOCAL_CONFIG, up(), refused)
    assert not record.no_way_back
    assert ruling_owner(LOCAL_CONFIG, record) is Owner.LOCAL


def test_owner_local_forgets_a_failure_and_no_refused_start() -> None:
    """A restart of the daemon may come between: only the record knows the refusal then."""
    record, _ = look(FALLBACK, granted(failure="bad"), DEAD)
    record, _ = look(LOCAL_CONFIG, record, replace(DEAD, failures=()))
    assert (record.failure, record.no_way_back) == ("", True)
    record, _ = look(LOCAL_CONFIG, record, replace(DEAD, failures=()))
    assert record.no_way_back


def test_a_reset_ends_no_kube_container_early_for_a_start_that_was_refused_before_a_restart() -> None:
    record, _ = look(FALLBACK, granted(), DEAD)
    leaving = replace(DEAD, failures=(), leaving=True, joined=False)
    assert plan(FALLBACK, record, leaving).action is None
    assert not returns_to_local(FALLBACK, record, leaving)


def test_a_start_that_its_own_program_forbids_stays_in_the_way() -> None:
    record, _ = look(LOCAL_CONFIG, granted(), DEAD)
    later, _ = look(LOCAL_CONFIG, record, replace(DEAD, failures=()), NOW + 100 * START_AGES_S)
    assert later.no_way_back


def test_a_local_container_that_may_yet_start_is_a_way_back() -> None:
    unanswered = replace(DEAD, failures=(replace(BROKEN, refused=False),))
    assert not look(LOCAL_CONFIG, granted(), unanswered)[0].no_way_back
    assert not look(KUBE_CONFIG, granted(), DEAD)[0].no_way_back, "nothing promises one"
    assert not look(LOCAL_CONFIG, up(), replace(DEAD, containers=(local(running=False),)))[0].no_way_back


def test_the_image_of_the_local_container_is_remembered() -> None:
    made = observed(local(running=False, image="docker-snmp:latest"))
    record, _ = look(FALLBACK, up(), made)
    record, _ = look(FALLBACK, record, observed(kube()))
    assert record.local_image == "docker-snmp:latest"
    record, _ = look(FALLBACK, record, observed(local(image="sha256:00", unread="no answer")))
    assert record.local_image == "docker-snmp:latest"


def test_what_promises_a_local_container_needs_a_way_back() -> None:
    assert not falls_back(KUBE_CONFIG, up())
    for config in (LOCAL_CONFIG, FALLBACK, ROLLBACK, replace(KUBE_CONFIG, failure_policy=SWITCH)):
        assert falls_back(config, up())
    assert falls_back(LOCAL_CONFIG, up(no_way_back=True))
    assert falls_back(KUBE_CONFIG, up(boot_fallback=True))
