"""Check how kube containers that ask by STATE_DB's row are admitted.

`Script` does what the start-up script of SONiC's images does (container_startup.py of sonic-ctrmgrd): it writes its
version and `pending`, polls until the row says `ready`, gives up for ever where the row has another version, and then
reports itself as the owner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Admit, EndContainer, Plan, RequestLabel, SetMode, StartLocal, WriteRow
from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.gate import GateWatch
from kubesyncd.core.model import Container, FeatureConfig, LabelView, Mode, Owner, Row, Startup, SystemState
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Record, project, with_grant, with_mode
from kubesyncd.core.revision import Revision
from kubesyncd.core.row_gate import (
    given_up,
    see_startup,
    shown,
    stuck,
    told_since,
    waits_at_row,
    watch_row,
    with_row_asks,
)
from kubesyncd.core.state import State
from kubesyncd.core.unverified import Unverified
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    OFF,
    ON,
    TIMING,
    down,
    granted,
    kube,
    local,
    up,
)

OLD_VERSION, NEW_VERSION = "20240510.1", "20251110.7"
LOCAL_CONTAINER = local(version=OLD_VERSION)
LOCAL_STOPPED = local(running=False, version=OLD_VERSION)
ADMITS = Revision(admits=True)


@dataclass
class Switch:
    """One feature: what is remembered, what runs, and the row. Docker does at once what it is asked."""

    config: FeatureConfig = KUBE_CONFIG
    record: Record = up(mode=Mode.READY)  # noqa: RUF009 - a frozen value
    containers: tuple[Container, ...] = ()
    row: Row | None = None
    waiting: frozenset[str] = frozenset()
    now: float = NOW
    label: LabelView = ON
    by_row: bool = True

    def __post_init__(self) -> None:
        if self.row is None:
            self.row = project(self.record, self.observed())

    def observed(self) -> Observation:
        return Observation(
            by_row=self.by_row,
            row=self.row,
            containers=self.containers,
            waiting=self.waiting,
            label=self.label,
            joined=True,
            kubelet=True,
        )

    def look(self) -> Plan:
        observed = with_row_asks(self.record, self.observed())
        self.record = absorb(self.record, self.config, observed, TIMING, self.now)
        return decide(self.config, self.record, observed, TIMING, self.now, "snmp")

    def settle(self) -> list[str]:
        """Plan and act until nothing is left to do; return what was done."""
        done = []
        for _ in range(20):
            plan = self.look()
            match plan.action:
                case None:
                    return done
                case WriteRow(row):
                    self.row = row
                    continue
                case SetMode(mode):
                    self.record = with_mode(self.record, mode)
                    done.append(f"mode {mode.value}")
                case Admit(container_id):
                    self.record = with_grant(self.record, container_id, self.now, by_row=self.by_row)
                    done.append(f"admit {container_id[:4]}")
                case EndContainer(container_id):
                    self.record = replace(self.record, asked=(container_id, Cause.STOP))
                    self.end(container_id)
                    done.append(f"end {container_id[:4]}")
                case RequestLabel(on):
                    self.label = ON if on else OFF
                case StartLocal():
                    self.containers = (*(c for c in self.containers if c.id != LOCAL), LOCAL_CONTAINER)
                    done.append("start local")
                case other:
                    raise AssertionError(other)
        raise AssertionError(f"it does not come to rest: {done}")

    def run(self, *containers: Container) -> None:
        self.containers = (*self.containers, *containers)

    def end(self, container_id: str) -> None:
        ended = tuple(c for c in self.containers if c.id != container_id)
        stays = container_id == LOCAL
        self.containers = (*ended, LOCAL_STOPPED) if stays else ended

    def script(self, version: str = NEW_VERSION, *, its_id: str = "") -> Script:
        script = Script(self, version, its_id)
        script.begin()
        return script


@dataclass
class Script:
    """The start-up script of one kube container. `its_id`: what it finds as its ID; with cgroup v2, nothing."""

    switch: Switch
    version: str
    its_id: str = ""
    passed: bool = False
    frozen: bool = False

    def begin(self) -> None:
        row = self.switch.row
        assert row is not None
        if row.system_state is SystemState.ABSENT:
            self.passed = True
            return
        if self.switch.config.owner is Owner.LOCAL or row.system_state is SystemState.DOWN:
            self.frozen = True
            return
        asks = row.startup is Startup.NONE
        self.switch.row = replace(row, version=self.version)
        if asks:
            self.switch.row = replace(self.switch.row, startup=Startup.WAIT, transition_mode=Mode.PENDING)
        if row.startup is Startup.GO:
            self.report()

    def poll(self) -> None:
        row = self.switch.row
        assert row is not None
        if self.passed or self.frozen:
            return
        if row.version != self.version:
            self.frozen = True
        elif row.startup is Startup.GO:
            self.report()

    def report(self) -> None:
        self.passed = True
        assert self.switch.row is not None
        self.switch.row = replace(
            self.switch.row,
            current_owner=Owner.KUBE,
            docker_id=self.its_id,
            transition_mode=Mode.READY,
            startup=Startup.NONE,
            version=self.version,
        )


def pod(container_id: str = KUBE, version: str = NEW_VERSION, started: str = "2026-01-02") -> Container:
    return kube(container_id, version=version, started=started)


@pytest.mark.parametrize("its_id", ["", KUBE[:12], "f00d" * 3, "docker-1a2b3"])
def test_a_script_that_asks_is_admitted_and_its_report_confirmed(its_id: str) -> None:
    switch = Switch()
    assert switch.row == Row(SystemState.UP, Owner.NONE, Mode.READY, version="", startup=Startup.NONE)
    switch.run(pod())
    script = switch.script(its_id=its_id if its_id != "docker-1a2b3" else "")
    assert not script.passed, "nothing lets it through before it is admitted"
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    wanted = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE, version=NEW_VERSION, startup=Startup.GO)
    assert switch.row is not None
    assert replace(switch.row, update_ts=0, revision=0) == wanted
    script.poll()
    assert script.passed
    switch.settle()
    assert (switch.row.docker_id, switch.row.current_owner) == (KUBE, Owner.KUBE)
    made_up = its_id.startswith("f00d")
    assert switch.record.unconfirmed is made_up, "a made-up ID confirms nothing"


def test_a_hand_over_ends_the_local_container_first() -> None:
    switch = Switch(FALLBACK, up(local_id=LOCAL), (LOCAL_CONTAINER,))
    switch.settle()
    assert switch.row is not None
    assert (switch.row.startup, switch.row.version) == (Startup.NONE, OLD_VERSION)
    switch.run(pod())
    script = switch.script()
    assert switch.settle() == ["mode kube_pending", f"end {LOCAL[:4]}", f"admit {KUBE[:4]}"]
    script.poll()
    assert script.passed
    assert switch.settle() == []
    assert (switch.row.startup, switch.row.version) == (Startup.NONE, NEW_VERSION)


@pytest.mark.parametrize(
    "record",
    [
        up(local_id=LOCAL, refuse_until=NOW + 60.0, crashes=1),
        up(local_id=LOCAL, rolled_back=True, failure="failed"),
    ],
    ids=["refused", "rolled back"],
)
def test_one_that_is_refused_waits_on(record: Record) -> None:
    switch = Switch(FALLBACK, record, (LOCAL_CONTAINER,))
    switch.settle()
    switch.run(pod())
    script = switch.script()
    for _ in range(3):
        assert "admit" not in str(switch.settle())
        assert switch.row is not None
        assert (switch.row.startup, switch.row.version) == (Startup.WAIT, NEW_VERSION)
        assert switch.row.current_owner is Owner.LOCAL
        script.poll()
        assert not script.passed
        assert not script.frozen, "its version stays in the row while it waits"
    switch.end(KUBE)
    switch.settle()
    assert (switch.row.startup, switch.row.version) == (Startup.NONE, OLD_VERSION), "what runs, again"


def test_a_row_that_no_kube_container_can_have_written_changes_nothing() -> None:
    asks = {"startup": Startup.WAIT, "transition_mode": Mode.PENDING}
    for containers, version in (
        ((LOCAL_CONTAINER,), NEW_VERSION),
        ((LOCAL_CONTAINER, pod(version="3.0")), NEW_VERSION),
        ((LOCAL_CONTAINER, pod()), ""),
        ((LOCAL_CONTAINER, pod()), OLD_VERSION),
        ((LOCAL_CONTAINER, pod(version="")), ""),
    ):
        switch = Switch(FALLBACK, up(local_id=LOCAL), containers)
        switch.settle()
        right = switch.row
        assert right is not None
        switch.row = replace(right, version=version, **asks)  # type: ignore[arg-type]
        assert switch.settle() == []
        assert switch.row == right


def test_an_image_without_a_version_is_believed_where_it_alone_can_have_asked() -> None:
    switch = Switch()
    switch.run(pod(version=""))
    script = switch.script("7")
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    script.poll()
    assert script.passed
    switch.settle()
    assert switch.record.version == "7"


def test_a_container_that_asks_over_the_socket_is_not_told_by_the_row() -> None:
    switch = Switch(waiting=frozenset({KUBE}))
    switch.run(pod())
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    assert switch.row is not None
    assert switch.row.startup is Startup.NONE


def test_of_two_none_is_admitted_until_one_has_ended() -> None:
    switch = Switch()
    switch.run(pod(), SECOND)
    first, second = switch.script(), switch.script()
    assert switch.settle() == []
    assert switch.row is not None
    assert switch.row.startup is Startup.WAIT
    observed = with_row_asks(switch.record, switch.observed())
    found = conditions("snmp", switch.record, observed, TIMING, NOW)
    assert [c.kind for c in found] == [ConditionKind.GATE_SHARED]
    for script in (first, second):
        script.poll()
    assert not first.passed
    assert not second.passed
    switch.end(KUBE)
    assert switch.settle() == [f"admit {KUBE2[:4]}"]
    second.poll()
    assert second.passed


def test_a_second_one_takes_the_permission_back() -> None:
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    switch.run(SECOND)
    assert switch.settle() == []
    assert switch.row is not None
    assert switch.row.startup is Startup.WAIT
    second = switch.script()
    for each in (script, second):
        each.poll()
    assert not script.passed
    assert not second.passed
    switch.end(KUBE2)
    switch.settle()
    script.poll()
    assert script.passed


def test_a_local_container_takes_the_permission_back_until_it_is_ended() -> None:
    """Someone starts it by hand, or Docker may still start it, before the script has read its permission."""
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    switch.run(LOCAL_CONTAINER)
    first = switch.look()
    assert isinstance(first.action, WriteRow)
    assert first.action.row.startup is Startup.WAIT
    assert switch.settle() == [f"end {LOCAL[:4]}"]
    switch.record = replace(switch.record, start=asked_start(LOCAL, None, NOW))
    assert project(switch.record, switch.observed()).startup is Startup.WAIT
    switch.record = replace(switch.record, start=None)
    switch.settle()
    script.poll()
    assert script.passed


def test_one_beside_an_owner_waits_and_takes_over_from_it() -> None:
    switch = Switch(record=granted(version=OLD_VERSION))
    switch.run(pod(version=OLD_VERSION))
    switch.settle()
    switch.run(SECOND)
    script = switch.script()
    assert switch.settle() == []
    assert switch.row is not None
    assert (switch.row.current_owner, switch.row.docker_id) == (Owner.KUBE, KUBE)
    assert (switch.row.startup, switch.row.version) == (Startup.WAIT, NEW_VERSION)
    switch.end(KUBE)
    assert switch.settle() == [f"admit {KUBE2[:4]}"]
    script.poll()
    assert script.passed


def test_the_owner_may_ask_once_more() -> None:
    """supervisord runs start.sh again, or start.sh calls both start-up scripts."""
    switch = Switch(record=granted(version=NEW_VERSION))
    switch.run(pod())
    switch.settle()
    script = switch.script()
    assert switch.settle() == []
    script.poll()
    assert script.passed
    switch.settle()
    assert switch.row is not None
    assert (switch.row.startup, switch.record.unconfirmed) == (Startup.NONE, False)


@pytest.mark.parametrize("version", [NEW_VERSION, OLD_VERSION])
def test_the_row_of_another_one_that_has_ended_is_no_request_of_the_owner(version: str) -> None:
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    script.poll()
    switch.settle()
    for _ in range(2):
        switch.run(pod(KUBE2, version, started="2026-01-03"))
        switch.script(version)
        switch.settle()
        assert switch.row is not None
        assert (switch.row.startup, switch.row.version) == (Startup.WAIT, version)
        switch.end(KUBE2)
        written, switch.row = switch.row, None
        switch.look()
        switch.row = written
        switch.look()
        assert switch.settle() == []
        assert (switch.row.startup, switch.row.version) == (Startup.NONE, NEW_VERSION)
        assert not switch.record.unconfirmed
    script = switch.script()
    switch.settle()
    script.poll()
    assert script.passed, "what it writes itself still counts"


def test_what_another_one_wrote_and_ended_unseen_is_no_request_of_the_owner() -> None:
    switch = Switch(record=granted(version=NEW_VERSION), containers=(pod(),))
    switch.settle()
    switch.script("3.0")
    assert switch.settle() == []
    assert switch.row is not None
    assert (switch.row.startup, switch.row.version) == (Startup.NONE, NEW_VERSION)


def test_the_owner_asks_once_more_beside_one_that_cannot_have_asked() -> None:
    switch = Switch(record=granted(version=NEW_VERSION), containers=(pod(),))
    switch.run(pod(KUBE2, OLD_VERSION, started="2026-01-03"))
    switch.settle()
    script = switch.script()
    switch.settle()
    script.poll()
    assert not script.passed
    switch.end(KUBE2)
    switch.settle()
    script.poll()
    assert script.passed


def test_it_is_remembered_over_the_loss_of_the_row_and_one_that_gave_up_is_ended() -> None:
    switch = Switch(FALLBACK, up(local_id=LOCAL, refuse_until=NOW + 60.0, crashes=1), (LOCAL_CONTAINER,))
    switch.settle()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    switch.row = Row()
    script.poll()
    assert script.frozen, "as the real one: it will never go on"
    assert switch.settle() == [f"end {KUBE[:4]}"], "the kubelet starts it again, and that one asks"
    switch.run(SECOND)
    again = switch.script()
    switch.now += 61.0
    assert switch.settle() == ["mode kube_pending", f"end {LOCAL[:4]}", f"admit {KUBE2[:4]}"]
    again.poll()
    assert again.passed


@pytest.mark.parametrize("sees_it", [False, True])
def test_an_admitted_one_is_not_ended_where_the_row_loses_its_version(sees_it: bool) -> None:
    """Whether its script gives up is not known: it looks every 2 s, and its program may run without it."""
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    switch.row = Row()
    if sees_it:
        script.poll()
    assert switch.settle() == []
    assert switch.row == project(switch.record, switch.observed())
    script.poll()
    assert script.passed is not sees_it
    switch.settle()
    switch.now += TIMING.gate_after_s
    assert switch.settle() == []
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert [c.kind for c in found] == [ConditionKind.NOT_GONE_ON] * sees_it


def test_one_that_gave_up_counts_no_longer_once_it_is_admitted() -> None:
    gates = (GateWatch(KUBE, NOW, asked=True, asks=NEW_VERSION, given_up=True),)
    switch = Switch(record=granted(gates=gates, version=NEW_VERSION), containers=(pod(),))
    assert switch.settle() == []
    assert not switch.record.gates[0].given_up


def test_two_aborted_pods_or_a_flush_end_no_container_that_serves() -> None:
    switch = Switch(record=granted(gates=(WAITING,), version=NEW_VERSION), containers=(pod(),))
    switch.settle()
    for started in ("2026-01-03", "2026-01-04"):
        switch.run(pod(KUBE2, OLD_VERSION, started))
        switch.script(OLD_VERSION)
        assert switch.settle() == []
        switch.end(KUBE2)
        assert switch.settle() == []
    switch.row = Row()
    assert switch.settle() == []


def test_one_that_does_not_go_on_is_one_alert_and_nothing_else() -> None:
    switch = Switch()
    switch.run(pod())
    switch.script()
    switch.settle()
    wake_at = switch.look().wake_at
    assert wake_at is not None
    switch.now += TIMING.gate_after_s
    assert wake_at <= switch.now
    assert switch.settle() == []
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert [c.kind for c in found] == [ConditionKind.NOT_GONE_ON]
    assert f"docker kill {KUBE[:12]}" in found[0].text
    assert switch.row is not None
    assert switch.row.startup is Startup.NONE, "no later pod reads that it may go on"
    for _ in range(2):
        switch.now += TIMING.gate_after_s
        switch.row = replace(switch.row, update_ts=1)
        assert switch.settle() == []
        assert switch.record.unconfirmed, "the row that says so is this daemon's"
    again = switch.script()
    switch.settle()
    again.poll()
    assert again.passed, "its script is run again"
    switch.settle()
    assert not conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)


def test_the_time_of_a_script_begins_when_it_is_told() -> None:
    """A second pod beside it takes the permission back for long."""
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    switch.settle()
    switch.run(SECOND)
    switch.settle()
    switch.now += 2 * TIMING.gate_after_s
    switch.settle()
    switch.end(KUBE2)
    switch.settle()
    switch.now += 1.0
    switch.settle()
    script.poll()
    assert script.passed


def test_an_owner_that_asks_once_more_and_is_late_is_told_too() -> None:
    """It has asked over the socket first: its image has both."""
    switch = Switch(record=granted(version=NEW_VERSION), containers=(pod(),))
    switch.now += 10 * TIMING.gate_after_s
    switch.settle()
    switch.script()
    switch.settle()
    assert not conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    switch.now += TIMING.gate_after_s
    assert switch.settle() == []
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert [c.kind for c in found] == [ConditionKind.NOT_GONE_ON]
    assert switch.row is not None
    assert switch.row.startup is Startup.NONE


def test_what_never_asked_and_runs_alone_is_told_too_until_it_is_stable() -> None:
    """Its ask may have been lost: the row said `pending` for another container then."""
    switch = Switch()
    switch.run(pod())
    switch.settle()
    switch.now += TIMING.gate_after_s
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    assert switch.row is not None
    assert switch.row.startup is Startup.GO
    switch.now += TIMING.kube_stable_s
    switch.settle()
    assert switch.row.startup is Startup.NONE


@pytest.mark.parametrize("said", [Startup.WAIT, Startup.GO])
def test_a_lost_ledger_forgets_no_script(said: Startup) -> None:
    switch = Switch()
    switch.run(pod())
    script = switch.script()
    if said is Startup.GO:
        switch.settle()
        assert switch.row is not None
        switch.row = replace(switch.row, revision=0)
    switch.record = Record(unverified=Unverified(lost=True))
    switch.settle()
    script.poll()
    switch.settle()
    assert script.passed
    assert switch.record.grant == KUBE
    assert not switch.record.unconfirmed


def test_nothing_is_admitted_for_an_owner_local_or_a_unit_that_is_down() -> None:
    for config, record in ((LOCAL_CONFIG, up(local_id=LOCAL)), (KUBE_CONFIG, Record(SystemState.DOWN))):
        switch = Switch(config, record, (LOCAL_CONTAINER,) if config is LOCAL_CONFIG else ())
        switch.run(pod())
        script = switch.script()
        assert script.frozen
        assert "admit" not in str([switch.look().why for _ in range(3)])


def test_the_report_of_a_local_container_changes_no_owner() -> None:
    """Its script reports owner, name, version and time at once, and waits for nothing."""
    switch = Switch(LOCAL_CONFIG, up(local_id=LOCAL), (LOCAL_CONTAINER,))
    switch.settle()
    right = switch.row
    assert right is not None
    switch.row = replace(
        right, current_owner=Owner.LOCAL, docker_id="", update_ts=1_700_000_000, version=OLD_VERSION
    )
    assert switch.settle() == []
    assert switch.row == right


def test_the_version_is_kept_after_the_end_of_what_ran() -> None:
    switch = Switch(LOCAL_CONFIG, up(local_id=LOCAL), (LOCAL_CONTAINER,))
    switch.settle()
    switch.end(LOCAL)
    switch.settle()
    assert switch.row is not None
    assert (switch.row.current_owner, switch.row.version) == (Owner.NONE, OLD_VERSION)


def ended_before_it_went_on(config: FeatureConfig) -> Switch:
    """A kube container has been admitted and ends before its script has read that, and Docker has not told of it."""
    switch = Switch(config)
    switch.run(pod(), LOCAL_STOPPED)
    switch.script()
    switch.settle()
    switch.end(KUBE)
    return switch


def test_the_permission_ends_with_the_container_before_anything_else_starts() -> None:
    switch = ended_before_it_went_on(FALLBACK)
    first = switch.look()
    assert isinstance(first.action, WriteRow)
    assert first.action.row.startup is Startup.NONE
    switch.settle()
    switch.run(SECOND)
    assert not switch.script().passed


def read_unseen() -> Switch:
    """The next one reads the permission of the admitted one before Docker tells of either."""
    switch = ended_before_it_went_on(FALLBACK)
    assert switch.script().passed
    switch.run(SECOND)
    return switch


def test_one_that_has_gone_on_unseen_counts_as_admitted() -> None:
    switch = read_unseen()
    assert switch.settle() == []
    assert switch.record.grant == KUBE2
    assert switch.look().state is State.KUBE_RUNNING
    assert (switch.row.current_owner, switch.row.docker_id) == (Owner.KUBE, KUBE2)
    switch.now += TIMING.gate_after_s + 1
    switch.settle()
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert ConditionKind.GATE_IGNORED not in {each.kind for each in found}


@pytest.mark.parametrize("config", [LOCAL_CONFIG, FALLBACK])
def test_no_local_container_starts_beside_one_that_has_gone_on_unseen(config: FeatureConfig) -> None:
    switch = read_unseen()
    switch.config = config
    switch.record = replace(switch.record, failure="crash-looping: 3 ends within 10 min")
    assert switch.settle() == []
    assert switch.record.grant == KUBE2


@pytest.mark.parametrize(
    "to", [{"config": LOCAL_CONFIG}, {"record": down(revision=ADMITS, version=NEW_VERSION)}]
)
def test_what_is_to_end_is_not_told_to_go_on(to: dict[str, object]) -> None:
    switch = Switch(FALLBACK, up(mode=Mode.READY, revision=ADMITS, version=NEW_VERSION))
    switch = replace(switch, **to)  # type: ignore[arg-type]
    switch.run(pod(KUBE2))
    switch.look()
    assert (switch.record.grant, switch.record.unconfirmed) == (KUBE2, False)


def test_one_that_has_read_nothing_is_told_after_all() -> None:
    switch = ended_before_it_went_on(KUBE_CONFIG)
    switch.run(SECOND)
    switch.settle()
    assert (switch.record.grant, switch.record.unconfirmed) == (KUBE2, True)
    assert switch.row.startup is Startup.GO
    assert switch.script().passed


def test_one_that_may_have_gone_on_ends_no_local_container() -> None:
    """STATE_DB is not read for long, and the local container has taken over meanwhile."""
    switch = Switch(FALLBACK, up(local_id=LOCAL, revision=ADMITS), (LOCAL_CONTAINER,))
    switch.row = None
    switch.run(pod(KUBE2))
    observed = switch.observed()
    for _ in range(2):
        switch.record = absorb(switch.record, switch.config, replace(observed, row=None), TIMING, switch.now)
    assert (switch.record.grant, switch.record.gates[0].maybe_past) == ("", True)
    ended = replace(observed, row=None, containers=(pod(KUBE2), LOCAL_STOPPED))
    assert absorb(switch.record, switch.config, ended, TIMING, switch.now).grant == KUBE2


def test_what_starts_after_the_permission_was_taken_back_has_read_nothing() -> None:
    switch = ended_before_it_went_on(KUBE_CONFIG)
    assert switch.settle() == []
    assert not switch.record.revision.admits, "the row was read without it"
    switch.run(SECOND)
    switch.settle()
    assert switch.record.grant == ""
    assert not switch.record.gates[0].maybe_past


def test_it_may_have_been_read_until_the_row_is_read_without_it() -> None:
    """Docker told of the end, and the next one started, before the row was written."""
    switch = ended_before_it_went_on(FALLBACK)
    first = switch.look()
    assert switch.script().passed
    assert isinstance(first.action, WriteRow)
    switch.row = first.action.row
    switch.run(SECOND)
    switch.settle()
    assert switch.record.grant == KUBE2


def test_a_container_of_the_version_that_runs_locally_is_a_dry_run() -> None:
    """SONiC's script keeps it waiting for ever: it does not ask, and what it would run does not run."""
    switch = Switch(FALLBACK, up(local_id=LOCAL), (LOCAL_CONTAINER,))
    switch.run(pod(version=OLD_VERSION))
    switch.settle()
    switch.now += TIMING.gate_after_s
    assert switch.settle() == []
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert [c.kind for c in found] == [ConditionKind.DRY_RUN]
    assert "(a dry run)" in found[0].text


@pytest.mark.parametrize("config", [KUBE_CONFIG, FALLBACK], ids=["kube", "fallback"])
def test_a_container_without_a_gate_is_the_owner_also_with_the_version_of_the_local_one(
    config: FeatureConfig,
) -> None:
    """The local container has been made from the kube image: what runs serves, and nothing starts beside it."""
    switch = Switch(config, containers=(LOCAL_STOPPED,))
    switch.run(pod(version=OLD_VERSION))
    switch.settle()
    switch.now += TIMING.gate_after_s
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    found = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert [c.kind for c in found] == [ConditionKind.GATE_IGNORED]
    switch.now += TIMING.fallback_after_s
    assert switch.settle() == []


def test_a_container_of_the_local_version_that_asks_is_admitted() -> None:
    """An image with kubesyncd's start hook asks, whatever its version is."""
    switch = Switch(containers=(LOCAL_STOPPED,), waiting=frozenset({KUBE}))
    switch.run(pod(version=OLD_VERSION))
    assert switch.settle() == [f"admit {KUBE[:4]}"]


def test_a_container_that_has_not_asked_may_have_started_at_the_wrong_moment() -> None:
    """While the owner is local, the unit is down or CONFIG_DB is loaded, SONiC's script waits for ever."""
    switch = Switch(containers=(pod(),))
    switch.settle()
    switch.now += TIMING.gate_after_s
    switch.settle()
    (found,) = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert found.kind is ConditionKind.GATE_IGNORED
    assert f"docker kill {KUBE[:12]}" in found.text


def test_a_row_that_is_behind_is_no_request() -> None:
    """STATE_DB takes no writes: the row still has the version of a kube container that has ended."""
    switch = Switch(FALLBACK, up(local_id=LOCAL, version=NEW_VERSION), (LOCAL_CONTAINER,))
    stale = switch.row
    assert stale is not None
    switch.settle()
    switch.row = stale
    switch.run(pod())
    assert not with_row_asks(switch.record, switch.observed()).row_asks


def test_without_the_names_of_sonic_nothing_of_this_is() -> None:
    """Whatever versions images have, and whatever the ledger says after a change of the names."""
    before = granted(
        gates=(replace(WAITING, given_up=True, late=True),), version=NEW_VERSION, unconfirmed=True
    )
    switch = Switch(record=before, containers=(pod(),), by_row=False)
    assert switch.settle() == []
    assert switch.record.gates == (GateWatch(KUBE, NOW, asked=True),)
    assert (switch.record.unconfirmed, switch.record.version) == (False, "")
    switch = Switch(FALLBACK, up(local_id=LOCAL), (LOCAL_CONTAINER,), by_row=False)
    switch.run(pod(version=OLD_VERSION))
    switch.settle()
    switch.now += TIMING.gate_after_s
    switch.settle()
    (found,) = conditions("snmp", switch.record, switch.observed(), TIMING, switch.now)
    assert found.kind is ConditionKind.GATE_IGNORED
    assert "container_startup" not in found.text
    switch = Switch(containers=(pod(),), by_row=False)
    switch.settle()
    switch.script()
    switch.now += TIMING.gate_after_s
    assert switch.settle() == [f"admit {KUBE[:4]}"]
    assert switch.row is not None
    assert (switch.row.startup, switch.row.version) == (Startup.NONE, "")
    assert (switch.record.unconfirmed, switch.record.version) == (False, "")


# ---- single facts --------------------------------------------------------------------------------

WAITING = GateWatch(KUBE, NOW, asked=True, asks=NEW_VERSION)
OTHER = GateWatch(KUBE2, NOW, asked=True)
SECOND = pod(KUBE2, started="2026-01-03")
ADMITTED = granted(unconfirmed=True, gates=(WAITING, OTHER), proven=False)
SAYS_GO = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE, startup=Startup.GO, version=NEW_VERSION)
REPORTS = Row(SystemState.UP, Owner.KUBE, Mode.READY, version=NEW_VERSION)


@pytest.mark.parametrize(
    ("record", "row", "containers", "waiting", "unconfirmed"),
    [
        (ADMITTED, SAYS_GO, (pod(),), (), True),
        (ADMITTED, REPORTS, (pod(),), (), False),
        (ADMITTED, replace(REPORTS, current_owner=Owner.NONE), (pod(),), (), True),
        (ADMITTED, replace(REPORTS, docker_id=KUBE2), (pod(),), (), True),
        (ADMITTED, None, (pod(),), (), True),
        (ADMITTED, SAYS_GO, (pod(),), (KUBE,), False),
        (ADMITTED, SAYS_GO, (), (), False),
        (replace(ADMITTED, proven=True), SAYS_GO, (pod(),), (), True),
        (replace(ADMITTED, proven=True, gates=(GateWatch(KUBE, NOW), OTHER)), SAYS_GO, (pod(),), (), False),
        (replace(ADMITTED, gates=(GateWatch(KUBE, NOW),)), SAYS_GO, (pod(),), (), True),
        (granted(), replace(REPORTS, startup=Startup.WAIT), (pod(),), (), True),
        (granted(), replace(REPORTS, startup=Startup.WAIT), (pod(), SECOND), (), False),
        (granted(), replace(REPORTS, startup=Startup.WAIT, current_owner=Owner.NONE), (pod(),), (), False),
        (granted(), replace(REPORTS, startup=Startup.WAIT), (), (), False),
        (granted(), REPORTS, (pod(),), (), False),
        (granted(), None, (pod(),), (), False),
    ],
)
def test_what_says_that_a_script_has_gone_on(
    record: Record,
    row: Row | None,
    containers: tuple[Container, ...],
    waiting: tuple[str, ...],
    unconfirmed: bool,
) -> None:
    seen = Observation(by_row=True, row=row, containers=containers, waiting=frozenset(waiting))
    assert see_startup(record, seen, 60.0, NOW).unconfirmed is unconfirmed


def test_the_version_is_that_of_the_owner_as_far_as_docker_describes_it() -> None:
    seen = Observation(
        by_row=True, row=None, containers=(replace(LOCAL_CONTAINER, version="", unread="500"),)
    )
    assert see_startup(up(version="1"), seen, 60.0, NOW).version == "1"
    assert (
        see_startup(
            up(version="1"), Observation(by_row=True, row=None, containers=(LOCAL_CONTAINER,)), 60.0, NOW
        ).version
        == OLD_VERSION
    )
    asked = replace(ADMITTED, gates=(OTHER, replace(WAITING, asks="7")))
    assert (
        see_startup(asked, Observation(by_row=True, row=None, containers=(pod(),)), 60.0, NOW).version == "7"
    )


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (ADMITTED, Startup.GO),
        (replace(ADMITTED, system_state=SystemState.DOWN), Startup.WAIT),
        (replace(ADMITTED, unconfirmed=False), Startup.NONE),
        (replace(ADMITTED, grant=KUBE2), Startup.NONE),
    ],
)
def test_what_the_row_says_to_the_admitted_one(record: Record, said: Startup) -> None:
    assert shown(record, Observation(by_row=True, row=None, containers=(pod(),)))[0] is said


def test_one_that_gave_up_is_ended_once_and_only_alone() -> None:
    record = up(gates=(OTHER, replace(WAITING, given_up=True)))
    seen = Observation(by_row=True, row=None, containers=(pod(),))
    assert given_up(record, seen) == KUBE
    assert given_up(record, replace(seen, stopping=frozenset({KUBE}))) == ""
    assert given_up(record, replace(seen, containers=(pod(), SECOND))) == ""
    assert given_up(up(gates=(WAITING,)), seen) == ""


def test_a_row_without_the_version_is_given_up_by_those_who_wait_alone() -> None:
    lost = Observation(by_row=True, row=Row(), containers=(pod(),))
    assert watch_row((WAITING,), up(), lost)[0].given_up
    assert not watch_row((WAITING,), ADMITTED, lost)[0].given_up, "it may serve"
    assert not watch_row((replace(WAITING, given_up=True),), granted(), lost)[0].given_up
    assert not watch_row((WAITING,), up(), replace(lost, row=None))[0].given_up, "Redis does not answer"
    asks_here = watch_row((replace(WAITING, given_up=True),), up(), replace(lost, waiting=frozenset({KUBE})))
    assert asks_here == (replace(WAITING, asks=""),)


def test_only_a_script_that_is_late_is_stuck() -> None:
    late = (replace(WAITING, late=True), OTHER)
    assert stuck(replace(ADMITTED, gates=late))
    assert not stuck(ADMITTED)
    assert not stuck(replace(ADMITTED, gates=late, unconfirmed=False))
    assert not stuck(replace(ADMITTED, gates=late, grant=KUBE2))


@pytest.mark.parametrize(
    ("row", "container", "since"),
    [
        (SAYS_GO, pod(), NOW),
        (replace(SAYS_GO, startup=Startup.WAIT), pod(), None),
        (None, pod(), None),
        (SAYS_GO, replace(pod(), paused=True), None),
    ],
)
def test_a_script_has_its_time_from_when_it_can_read_that_it_may_go_on(
    row: Row | None, container: Container, since: float | None
) -> None:
    seen = Observation(by_row=True, row=row, containers=(container,))
    told = see_startup(ADMITTED, seen, 60.0, NOW)
    assert told_since(told) == since
    if since is not None:
        assert told_since(see_startup(told, seen, 60.0, NOW + 59.0)) == NOW
        assert not stuck(see_startup(told, seen, 60.0, NOW + 59.0))
        late = see_startup(told, seen, 60.0, NOW + 60.0)
        assert stuck(late)
        assert told_since(late) is None
        assert see_startup(late, seen, 60.0, NOW + 60.0) == late


def test_only_one_that_has_not_asked_over_the_socket_waits_at_the_row() -> None:
    gates = (OTHER, WAITING)
    assert waits_at_row(up(gates=gates), KUBE)
    assert not waits_at_row(up(gates=gates), KUBE2)
    assert waits_at_row(up(gates=(GateWatch(KUBE, NOW), OTHER)), KUBE)


ASKS = Row(SystemState.UP, Owner.NONE, Mode.PENDING, startup=Startup.WAIT, version=NEW_VERSION)


@pytest.mark.parametrize(
    ("record", "row", "containers", "waiting", "asks"),
    [
        (up(mode=Mode.READY), ASKS, (pod(),), (), (KUBE,)),
        (up(mode=Mode.READY), ASKS, (pod(version=""),), (), (KUBE,)),
        (up(mode=Mode.READY), ASKS, (pod(),), (KUBE,), ()),
        (up(mode=Mode.READY), ASKS, (pod(),), (KUBE2,), (KUBE,)),
        (up(mode=Mode.READY), None, (pod(),), (), ()),
        # This daemon has written `pending` itself, for a container that asks over the socket.
        (up(mode=Mode.PENDING), ASKS, (pod(version=""),), (), ()),
        (up(mode=Mode.PENDING, version=NEW_VERSION), ASKS, (pod(),), (), ()),
        (up(mode=Mode.PENDING), ASKS, (pod(),), (), (KUBE,)),
        # It has written it for another container that asks by the row.
        (up(gates=(WAITING,)), ASKS, (pod(), replace(SECOND, version="")), (), (KUBE,)),
        # The script of a container beside the owner writes its version, and `pending`.
        (granted(grant=KUBE2), replace(ASKS, current_owner=Owner.KUBE), (pod(), SECOND), (), (KUBE,)),
        # The owner's version differs from what is remembered: no request.
        (up(mode=Mode.READY), replace(REPORTS, docker_id=KUBE), (pod(),), (), ()),
        (up(mode=Mode.READY), replace(REPORTS, current_owner=Owner.NONE), (pod(),), (), (KUBE,)),
        (
            up(mode=Mode.READY, version=NEW_VERSION),
            replace(REPORTS, current_owner=Owner.NONE),
            (pod(),),
            (),
            (),
        ),
    ],
)
def test_who_asks_by_the_row(
    record: Record,
    row: Row | None,
    containers: tuple[Container, ...],
    waiting: tuple[str, ...],
    asks: tuple[str, ...],
) -> None:
    seen = Observation(by_row=True, row=row, containers=containers, waiting=frozenset(waiting))
    assert tuple(c for c, _ in with_row_asks(record, seen).row_asks) == asks
