"""Model one feature under every interleaving of its actors, over the real core.

The world is a value. Each function below that yields moves says in a sentence what one actor may do next, and the
world after it; the daemon's moves run the real `absorb`, `decide`, `accept` and the real label queue. Worlds of
several features share the master, the kubelet, Redis and the daemon; what is theirs is moved for all at once, by
`tests/sim/explore.py`, which walks the interleavings.

STATE_DB's row is left out: it mirrors the rest, is read by no rule, and is tested in test_planner.py. So is what a
local container says (`up local`, `down`): it only makes the reconciler look.
Time has one tick: `time_passes` makes every running clock old, and what is set afterwards is new again. Where a
container may crash again and again there is a longer one: after `window_passes` no earlier end counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, assert_never

from kubesyncd.core import verbs
from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import (
    Admit,
    AdoptImage,
    EndContainer,
    Forget,
    Plan,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    Unpause,
    WriteRow,
)
from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.feature_unit import UnitEnd
from kubesyncd.core.gate import GateWatch
from kubesyncd.core.health import Complaint, ContainerStart, Health, complain
from kubesyncd.core.label_queue import Entry, Queue
from kubesyncd.core.labels import Change
from kubesyncd.core.model import (
    Container,
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    Row,
    Startup,
    SystemState,
    Timing,
)
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide
from kubesyncd.core.record import (
    Cause,
    Exit,
    Record,
    complaint_against,
    falls_back,
    local_wanted,
    project,
    repaired,
    ruling_owner,
    state_of,
    with_grant,
    with_mode,
)
from kubesyncd.core.revision import UNTOLD, Revision, ends
from kubesyncd.core.state import State, check
from kubesyncd.core.unverified import Unverified, verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.core.label_queue import Fold

T = TypeVar("T")

NOW = 1_000_000.0
OLD = 0.0
LATER = 2_000_000.0
LONG_AGO = -2_000_000.0
# The second start in a row that did not last is a crash loop, in worlds where one may happen.
TIMING = Timing(crash_loop_starts=0)
# A container that has lived for one tick has stayed up, and its end counts until the window has passed.
LOOPING = Timing(crash_loop_starts=2, crash_window_s=1_500_000.0)
LOCAL = "10ca1" * 12 + "0000"
KUBE = ("aaaa" * 16, "bbbb" * 16)
GONE = "dead" * 16
KEY = "snmp_enabled"
VERSION = "20251110.7"
# The reconciler itself gives up after more; a shortest way to rest has eight (test_planner.py).
PLANS_MAX = 16


@cache
def _shape(kind: type) -> tuple[attrgetter[Any], dict[str, int]]:
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), {name: index for index, name in enumerate(names)}


def replace(value: T, **changes: Any) -> T:
    """What dataclasses.replace does, in a fifth of the time: an exploration does hardly anything else."""
    values_of, index = _shape(type(value))
    values = list(values_of(value))
    for name, changed in changes.items():
        values[index[name]] = changed
    return type(value)(*values)


# ---- the label queue ----------------------------------------------------------------------------


class Labels(NamedTuple):
    """The feature's part of the real queue: what is wanted in order of arrival, applied last, failed since."""

    pending: tuple[bool, ...] = ()
    applied: bool | None = None
    failed: bool = False

    @property
    def value(self) -> KubeLabel:
        """As the reconciler sees it."""
        effective = _queue(self).effective(KEY)
        if effective is KubeLabel.UNKNOWN:
            return KubeLabel.UNKNOWN
        return KubeLabel.ON if effective == "true" else KubeLabel.OFF


@cache
def _queue(labels: Labels) -> Queue:
    entries = tuple(Entry(n, Change(KEY, _text(on))) for n, on in enumerate(labels.pending))
    applied = {} if labels.applied is None else {KEY: _text(labels.applied)}
    return Queue(entries, applied, frozenset({KEY} if labels.failed else ()), len(entries))


def _labels(queue: Queue) -> Labels:
    pending = tuple(entry.change.value is not None for entry in queue.pending)
    applied = None if KEY not in queue.applied else queue.applied[KEY] is not None
    return Labels(pending, applied, KEY in queue.failed)


def _text(on: bool) -> str | None:
    return "true" if on else None


@cache
def _fold(labels: Labels, sent: int) -> Fold:
    """The PATCH that holds the first `sent` entries."""
    queue = _queue(labels)
    return replace(queue, pending=queue.pending[:sent], arrivals=sent).fold()


@cache
def _appended(labels: Labels, sent: int, on: bool) -> Labels:
    """Two deep: what is under way, and the last word behind it; those between are superseded by it."""
    after = _labels(_queue(labels).append([Change(KEY, _text(on))]))
    return after._replace(pending=after.pending[:sent] + after.pending[sent:][-1:])


@cache
def _acknowledged(labels: Labels, sent: int) -> Labels:
    return _labels(_queue(labels).acknowledge(_fold(labels, sent)))


@cache
def _in_vain(labels: Labels, sent: int) -> Labels:
    return _labels(_queue(labels).fail(_fold(labels, sent)))


@cache
def _observed(labels: Labels, on: bool) -> Labels:
    return _labels(_queue(labels).observe({KEY: "true"} if on else {}, [KEY]))


# ---- the world ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kube:
    """One kube container: whether it has called `up kube`, and whether that has returned.

    One whose image has no gate never calls it; it counts as past `up kube` from the moment it is taken for the owner.
    """

    id: str
    asked: bool = False
    past_up: bool = False
    image: str = ""


_CONFIG, _RECORD, _LABELS = FeatureConfig(), Record(), Labels()


@dataclass(frozen=True, slots=True)
class World:
    """Everything there is for one feature, as one hashable value.

    `sent`: so many queued labels are in the PATCH that is under way; `landed`: the master has taken it, and we have
    not heard so yet. `deployed`: the master has a manifest. `silent`: its image has no gate. `by_row`: its image is
    SONiC's own, and asks by STATE_DB's row, which tells of nothing else here. `script`: the unit
    makes a local container; `unsure`: systemd does not say. `local_unasked`: another program has started the local
    container while it may not run. `local_starts`: docker start of the local container
    works; `no_local`: when it is tried again after it has failed. `slow`: docker start takes long; `starting`: one
    is under way, `known` to the daemon, or `lost` over its restart. `leaving`: a reset waits for the features, or
    runs. `barred`: the Node takes no pods. `writable`: STATE_DB takes writes; `recordable`: so does the ledger's file.
    From `api` on it is shared by all features.
    """

    config: FeatureConfig = _CONFIG
    record: Record = _RECORD
    reasking: bool = False
    stopping: frozenset[str] = frozenset()
    killed: frozenset[str] = frozenset()
    unit_restarts: bool = False
    local_exists: bool = True
    local_runs: bool = False
    local_by_hand: bool = False
    local_by_policy: bool = False
    local_unasked: bool = False
    local_paused: bool = False
    silent: bool = False
    by_row: bool = False
    local_starts: bool = True
    script: bool = True
    unsure: bool = False
    no_local: float | None = None
    slow: bool = False
    starting: str = ""
    kube: tuple[Kube, ...] = ()
    server_label: bool = False
    labels: Labels = _LABELS
    sent: int = 0
    landed: bool = False
    waited: bool = False
    deployed: bool = True
    image: str = ""
    api: bool = True
    redis: bool = True
    writable: bool = True
    recordable: bool = True
    kubelet: bool = True
    joined: bool = True
    hold: bool = False
    leaving: bool = False
    barred: bool = False

    @property
    def timing(self) -> Timing:
        """A manifest with an image may crash-loop."""
        return LOOPING if self.image else TIMING


SILENT = "it is not known whether a local container can be made"


class Broken(AssertionError):
    """A promise does not hold."""


@lru_cache(maxsize=64)
def facts_of(w: World) -> Observation:
    containers = []
    if w.local_exists:
        containers.append(
            Container(
                LOCAL,
                Owner.LOCAL,
                w.local_runs,
                None if w.local_runs else 7,
                "2026-01-01",
                paused=w.local_paused,
                restart_policy="always" if w.local_by_policy else "",
                by_policy=w.local_by_policy,
            )
        )
    containers += [
        Container(
            k.id, Owner.KUBE, True, None, _started(i), image_id=k.image, version=VERSION if w.by_row else ""
        )
        for i, k in enumerate(w.kube)
    ]
    asking = frozenset(k.id for k in w.kube if k.asked and not k.past_up)
    since = OLD if w.waited else NOW
    observed = Observation(
        row=None,
        containers=tuple(containers),
        waiting=frozenset() if w.by_row else asking,
        by_row=w.by_row,
        row_asks=tuple((c, VERSION) for c in sorted(asking - {w.record.grant})) if w.by_row else (),
        reasking=w.reasking,
        stopping=w.stopping,
        killed=w.killed,
        starting=frozenset({LOCAL} if w.starting == "known" and not w.local_runs else ()),
        label=LabelView(
            w.labels.value,
            pending=bool(w.labels.pending),
            failed=w.labels.failed,
            queued_at=since,
            acked_at=since,
        ),
        joined=w.joined,
        kubelet=w.kubelet,
        hold=w.hold,
        no_deploy="not joined" if not w.joined else "the Node is not ready" if w.barred else "",
        leaving=w.leaving,
        failures=_failures(w),
        no_way_back="" if w.unsure else _no_way_back(w),
        way_back_unknown=SILENT if w.unsure and _needs_script(w) else "",
    )
    return _told(w, w.record, observed)


def _needs_script(w: World) -> bool:
    up = w.record.system_state is SystemState.UP
    return up and falls_back(w.config, w.record) and not w.local_exists


def _no_way_back(w: World) -> str:
    lost = _needs_script(w) and not w.script
    return "no local container exists, and its image does not exist" if lost else ""


def _failures(w: World) -> tuple[FailedAction, ...]:
    failures = []
    if w.redis and not w.writable:
        failures.append(FailedAction(ActionKind.WRITE_ROW, "", "no writes", again_at=LATER))
    if w.no_local is not None and w.local_exists and not w.local_runs:
        no_start = FailedAction(
            ActionKind.START_LOCAL, LOCAL, "no program", at=NOW, again_at=w.no_local, refused=True
        )
        failures.append(no_start)
    return (*failures, *_unrecorded(w))


def _unrecorded(w: World) -> Iterator[FailedAction]:
    """Each change that must be stored is refused as long as the file takes no writes."""
    if w.recordable:
        return
    for target in (Mode.PENDING.value, *(k.id for k in w.kube)):
        yield FailedAction(ActionKind.RECORD, target, "no space", at=NOW, again_at=LATER)
    if w.record.system_state is SystemState.UP and w.record.mode is Mode.PENDING and w.local_runs:
        yield FailedAction(ActionKind.STOP, LOCAL, "no space", at=NOW, again_at=LATER)


def _told(w: World, record: Record, observed: Observation) -> Observation:
    """STATE_DB says what the record makes of it; where it takes no writes, nothing."""
    if not w.redis:
        return observed
    row = project(record, observed)
    if any(w.by_row and k.past_up and k.id == record.grant for k in w.kube):
        # Its script has reported that it has gone on.
        row = replace(row, startup=Startup.NONE)
    return replace(observed, row=row if w.writable else replace(Row(), version=row.version))


def folded(w: World) -> World:
    """The same world without what no later decision can tell apart: clocks become new or old, names are reused."""
    names = {k.id: KUBE[i] for i, k in enumerate(w.kube)}
    r = w.record
    running = set(names) | ({LOCAL} if w.local_runs else set())
    asked = None
    if r.asked is not None and r.asked[0] in running | {r.grant, r.local_id} and r.asked[0]:
        asked = (names.get(r.asked[0], r.asked[0]), r.asked[1])
    falls_back = local_wanted(w.config, r) and r.system_state is SystemState.UP
    record = replace(
        r,
        mode=Mode.NONE if r.system_state is SystemState.DOWN and not r.grant else r.mode,
        grant=names.get(r.grant, GONE if r.grant else ""),
        granted_at=_folded_grant(w),
        ending_since=_clock(r.ending_since) if w.kube else None,
        idle_since=_clock(r.idle_since) if falls_back else None,
        bad_since=_clock(r.bad_since) if w.config.failure_minutes else None,
        refuse_until=LATER if r.refuse_until > NOW and falls_back else OLD,
        local_due=r.local_due and falls_back,
        crashes=0,
        owner_ts=0,
        owner=Owner.NONE,
        revision=UNTOLD,
        unstartable=None,
        unstartable_until=None,
        unasked=None if r.unasked is None or not w.local_runs else replace(r.unasked, at=OLD),
        gates=_folded_gates(r, names) if w.silent or w.by_row else (),
        version="",
        asked=asked,
        unverified=_folded_unverified(r, names),
        exit=_folded_exit(w),
        health=_folded_health(w, names),
    )
    return replace(
        w,
        record=record,
        no_local=w.no_local if w.local_exists and not w.local_runs else None,
        unsure=w.unsure and not w.local_exists,
        kube=tuple(replace(k, id=names[k.id]) for k in w.kube),
        stopping=frozenset(names.get(c, c) for c in w.stopping if c in running),
        killed=frozenset(names.get(c, c) for c in w.killed if c in running),
        reasking=w.reasking and bool(w.kube),
        waited=w.waited and bool(w.kube or w.labels.pending),
    )


def _folded_unverified(record: Record, names: dict[str, str]) -> Unverified | None:
    mark = record.unverified
    if mark is None:
        return None
    containers = tuple(names[c] for c in mark.containers if c in names)
    return replace(mark, since=_clock(mark.since), containers=containers)


def _folded_grant(w: World) -> float:
    """Only an earlier end asks whether the container has lived for longer than a tick."""
    at = w.record.granted_at
    if at >= NOW:
        return NOW
    return LONG_AGO if at < OLD and w.image and w.record.health.ends else OLD


def _folded_exit(w: World) -> Exit | None:
    """Only a local exit tells by itself, and Kubernetes' where the local container does not start."""
    last, r = w.record.exit, w.record
    if last is None:
        return None
    if r.local_exited:
        return replace(last, container_id="")
    kube = last.owner is Owner.KUBE and r.system_state is SystemState.UP and not w.local_starts
    return Exit("", Owner.KUBE, None, Cause.STOP) if kube else None


def _folded_gates(record: Record, names: dict[str, str]) -> tuple[GateWatch, ...]:
    return tuple(
        GateWatch(
            names[g.container_id], _clock(g.since) or OLD, g.asked, g.asks, g.given_up, g.beside, late=g.late
        )
        for g in record.gates
        if g.container_id in names
    )


def _folded_health(w: World, names: dict[str, str]) -> Health:
    """Starts count by number; a start time only says which of the running containers have been seen."""
    health = w.record.health
    if not w.image:
        return Health(newest=_seen(w, health.newest))
    return replace(
        health,
        starts=tuple(ContainerStart(GONE, _clock(s.at) or OLD) for s in health.starts)[
            -LOOPING.crash_loop_starts :
        ],
        newest=_seen(w, health.newest),
        failed_newest=_seen(w, health.failed_newest),
        complaints=tuple(
            replace(c, container_id=names[c.container_id])
            for c in health.complaints
            if c.container_id in names
        ),
        sick=0,
        ends=_folded_ends(health),
        pods=(),
        looping="it ends" if health.looping else "",
    )


def _folded_ends(health: Health) -> tuple[float, ...]:
    """A crash loop lasts, however many more ends there are; before it, those in the window count by number."""
    counted = (OLD,) * sum(at >= OLD for at in health.ends)
    return counted[:1] or (OLD,) if health.looping else counted


def _started(index: int) -> str:
    return f"2026-01-02-{index}"


def _seen(w: World, newest: str) -> str:
    """The start time of the newest container that still runs, of those seen until `newest`."""
    return max((_started(i) for i in range(len(w.kube)) if _started(i) <= newest), default="")


def _clock(at: float | None) -> float | None:
    return None if at is None else (NOW if at >= NOW else OLD)


# ---- the reconciler ---------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def look(w: World) -> tuple[World, Plan]:
    """One look of the reconciler: what it remembers afterwards, and its plan."""
    observed = facts_of(w)
    record = absorb(w.record, w.config, observed, w.timing, NOW)
    observed = _told(w, record, observed)
    return replace(w, record=record), decide(w.config, record, observed, w.timing, NOW, "snmp")


def act(w: World, plan: Plan) -> World:  # noqa: C901 - one case per action
    """The reconciler's action, carried out (as reconciler.py does, without the waiting)."""
    match plan.action:
        case None:
            return w
        case WriteRow():
            raise Broken("a row is written although it says what is")
        case SetMode(mode):
            if w.record.mode is Mode.READY and w.local_unasked and _only_kube(w):
                raise Broken(
                    "a local container that another program has started takes the feature from Kubernetes"
                )
            return _checked(w, replace(w, record=with_mode(w.record, mode)))
        case Admit(container_id):
            return _checked(w, _granted(w, container_id))
        case RequestLabel(on):
            if w.config.owner is Owner.LOCAL and not w.kube and w.labels.value is KubeLabel.UNKNOWN:
                raise Broken("S3: a label is queued for a feature that has nothing to do with kube")
            return replace(w, labels=_appended(w.labels, w.sent, on), waited=False)
        case StartLocal():
            return _local_started(w)
        case Unpause():
            return replace(w, local_paused=False)
        case EndContainer(container_id, cause):
            _may_end(w, container_id)
            asked = replace(w, record=replace(w.record, asked=(container_id, cause)))
            if cause is Cause.KILL:
                return replace(asked, killed=w.killed | {container_id})
            return replace(asked, stopping=w.stopping | {container_id})
        case RestartUnit(renews=True):
            if not (w.kube or w.local_runs):
                raise Broken("the unit is restarted, and no container ends")
            return replace(w, record=replace(w.record, follows=False), unit_restarts=True)
        case RestartUnit():
            if w.unsure or not w.script:
                raise Broken("the unit is restarted, and its script can make no container for certain")
            return replace(w, record=replace(w.record, unit_restarted=True), unit_restarts=True)
        case AdoptImage(image_id):
            if image_id == w.record.health.failed_image:
                raise Broken("a failed image becomes the local one")
            return replace(w, record=replace(w.record, adopted=image_id))
        case RestoreImage(failed_image):
            return replace(w, record=replace(w.record, restored=failed_image))
        case Forget():
            raise Broken("a feature that exists is forgotten")
        case _:
            assert_never(plan.action)


def _checked(before: World, after: World) -> World:
    """`after`, once the table allows our own write that led there."""
    states = [state_of(w.config, w.record, facts_of(w)) for w in (before, after)]
    check(*states)
    return after


def _granted(w: World, container_id: str) -> World:
    if w.local_runs:
        raise Broken("S1: a kube container is granted while the local one runs")
    if w.record.system_state is not SystemState.UP:
        raise Broken("S7: a grant while the unit is not up")
    if w.config.owner is not Owner.KUBE and not w.record.no_way_back:
        raise Broken("S3: a grant although the feature's owner is local")
    if w.leaving:
        raise Broken("a grant while the switch leaves its master")
    if container_id in w.stopping | w.killed:
        raise Broken("S1: a grant to a container that is being ended")
    granted = replace(w, record=with_grant(w.record, container_id, NOW, by_row=w.by_row))
    return _with_kube(granted, container_id, past_up=True) if w.silent else granted


def _may_end(w: World, container_id: str) -> None:
    """Up, and kube its owner: the local container makes room for one that will stay. The last one of all stays."""
    granted = container_id == w.record.grant and w.record.system_state is SystemState.UP
    if granted and not w.local_exists and (w.unsure or not w.script):
        raise Broken("the only container is ended, and no other one can exist for certain")
    if granted and w.local_exists and not w.local_runs and w.no_local is not None:
        raise Broken("the only container is ended for one that does not start")
    if (
        container_id != LOCAL
        or w.record.system_state is not SystemState.UP
        or w.config.owner is not Owner.KUBE
    ):
        return
    if w.local_unasked and _only_kube(w):
        return
    if not {k.id for k in w.kube} - w.stopping - w.killed:
        raise Broken("the local container is stopped for a kube one that is being ended")


def _only_kube(w: World) -> bool:
    """Whether the feature is up, and Kubernetes the only one that may run it while no kube container does."""
    up = w.record.system_state is SystemState.UP and ruling_owner(w.config, w.record) is Owner.KUBE
    return up and not local_wanted(w.config, w.record)


def _local_started(w: World) -> World:
    if any(k.past_up or k.id == w.record.grant for k in w.kube):
        raise Broken("S1: the local container is started while a kube one owns the feature")
    if w.record.system_state is not SystemState.UP:
        raise Broken("S7: the local container is started while the unit is not up")
    if w.slow:
        return replace(w, starting="known", record=_start_asked(w))
    if not w.local_starts:
        return replace(w, no_local=LATER)
    return replace(w, local_runs=True, local_by_hand=False, record=replace(w.record, local_id=LOCAL))


def _start_lands(w: World) -> World:
    """Docker has started the container at last, whatever the daemon wants by now."""
    if any(k.past_up or (k.id == w.record.grant and w.record.start is None) for k in w.kube):
        raise Broken("S1: a docker start ends while a kube container owns the feature")
    record = replace(w.record, start=None, local_id=LOCAL) if w.starting == "known" else w.record
    by_hand = w.local_by_hand and w.local_runs
    return replace(w, starting="", local_runs=True, local_by_hand=by_hand, record=record)


def _start_asked(w: World) -> Record:
    """What is stored before Docker is asked to start the local container."""
    return replace(w.record, start=asked_start(LOCAL, facts_of(w).container(LOCAL), NOW))


def _ended(w: World, container_id: str) -> World:
    w = replace(w, stopping=w.stopping - {container_id}, killed=w.killed - {container_id})
    if container_id == LOCAL:
        return replace(
            w,
            local_runs=False,
            local_by_hand=False,
            local_by_policy=False,
            local_unasked=False,
            local_paused=False,
        )
    return replace(w, kube=tuple(k for k in w.kube if k.id != container_id))


def _with_kube(w: World, container_id: str, **changes: bool) -> World:
    return replace(w, kube=tuple(replace(k, **changes) if k.id == container_id else k for k in w.kube))


def reconciler_moves(w: World) -> Iterator[tuple[str, World]]:
    """What the reconciler does by itself, and what comes of what it has asked for."""
    seen, plan = look(w)
    if plan.action is not None:
        yield f"the reconciler: {plan.why}", act(seen, plan)
    elif folded(seen) != w:
        yield "the reconciler looks", seen
    if w.starting:
        yield "Docker has started the local container", _start_lands(w)
    for k in w.kube:
        alone = not w.local_runs and w.record.start is None and w.record.system_state is SystemState.UP
        if w.by_row:
            # The row is the last one written, and that is before each action.
            shown = project(w.record, facts_of(w)).startup
            if k.asked and not k.past_up and w.redis and w.writable and shown is Startup.GO:
                story = f"the start-up script of container {k.id[:4]} goes on"
                yield story, _with_kube(w, k.id, past_up=True)
        elif k.asked and not k.past_up and w.record.grant == k.id and alone:
            yield f"`up kube` returns to container {k.id[:4]}", _with_kube(w, k.id, past_up=True)
    if w.unit_restarts:
        yield "systemd restarts the unit, whose script creates the local container", restart_unit(w)
    for container_id in sorted(w.stopping | w.killed):
        yield f"container {container_id[:4]} ends, as asked", _ended(w, container_id)


def crash_moves(w: World) -> Iterator[tuple[str, World]]:
    """kill -9 anywhere: before an action, after it, and after it but before it is remembered."""
    yield "the daemon is killed and starts again", daemon_restarts(w)
    seen, plan = look(w)
    if plan.action is not None:
        asked = seen
        if isinstance(plan.action, StartLocal):
            asked = replace(seen, record=_start_asked(seen))
            yield "the reconciler: it is killed before it asks Docker for a start", daemon_restarts(asked)
        done = replace(act(seen, plan), record=asked.record)
        yield f"the reconciler: {plan.why}; it is killed before it remembers so", daemon_restarts(done)


def ledger_moves(w: World) -> Iterator[tuple[str, World]]:
    """The ledger is gone, or an older copy, when the daemon comes back; so may be STATE_DB's row.

    `row`: the current one, one from before the last action, or none. Not twice within minutes.
    """
    again = w.record.unverified is not None or (w.record.grant and w.record.start is not None)
    if again:
        return
    row = _numbered(w.record, facts_of(w))
    yield "the ledger is lost while the daemon is away", ledger_lost(w, row)
    yield "the ledger and STATE_DB's row are lost while the daemon is away", ledger_lost(w, Row())
    if not w.starting:
        for state in (SystemState.UP, SystemState.DOWN):
            older = Record(state, unverified=Unverified(), revision=Revision(1))
            newer = ledger_lost(w, row, older)
            yield f"the ledger is an older copy, with the unit {state}, when the daemon comes back", newer
    seen, plan = look(w)
    if plan.action is not None:
        behind, asked = _numbered(seen.record, facts_of(w)), seen
        if isinstance(plan.action, StartLocal):
            asked = replace(seen, record=_start_asked(seen))
        done = act(asked, plan)
        yield f"the reconciler: {plan.why}; it is killed, and its ledger is lost", ledger_lost(done, behind)


def _numbered(record: Record, observed: Observation) -> Row:
    """The row of this record, newer than any older copy of the ledger."""
    row = project(record, observed)
    return row if row.system_state is SystemState.ABSENT else replace(row, revision=2 + record.ending)


def ledger_lost(w: World, row: Row, record: Record | None = None) -> World:
    """A new life of the daemon, which has found `record` in the ledger, else none, and has compared it with `row`."""
    again = daemon_restarts(replace(w, record=record or Record(unverified=Unverified(lost=True))))
    found = verified(again.record, replace(facts_of(again), row=row), again.timing, NOW)
    if row.system_state not in (SystemState.ABSENT, found.system_state):
        raise Broken("S7: the unit's last request is forgotten")
    if w.local_runs and ends(row.revision) and not found.ending:
        raise Broken("S7: a stop that goes on is forgotten")
    return replace(again, record=found)


def verb(w: World, wish: verbs.Verb) -> World:
    """The reconciler takes note of a verb."""
    seen, observed = look(w)[0], facts_of(w)
    accepted = verbs.accept(wish, w.config, seen.record, observed)
    if not isinstance(accepted, Record):
        return w
    check(state_of(w.config, seen.record, observed), state_of(w.config, accepted, observed))
    return replace(w, record=accepted)


def restart_unit(w: World) -> World:
    down = verb(w, verbs.Kill(kubelet_check=False))
    made = down.local_exists or down.script
    return verb(replace(down, unit_restarts=False, local_exists=made), verbs.Start())


def daemon_restarts(w: World) -> World:
    """Memory is lost, the PATCH under way has no owner, callers ask again."""
    kube = w.kube
    if not w.by_row:
        kube = tuple(replace(k, asked=k.past_up and not w.silent) for k in w.kube)
    return replace(
        w,
        reasking=True,
        stopping=frozenset(),
        killed=frozenset(),
        no_local=None,
        starting="lost" if w.starting else "",
        kube=kube,
        sent=0,
        landed=False,
    )


# ---- master and kubelet, each feature's part of what happens to all -------------------------------


def labels_sent(w: World) -> World:
    return replace(w, sent=len(w.labels.pending), landed=False)


def labels_landed(w: World) -> World:
    if not w.sent:
        return w
    return replace(w, landed=True, server_label=w.labels.pending[w.sent - 1])


def labels_acknowledged(w: World) -> World:
    if not w.sent:
        return w
    labels = _acknowledged(w.labels, w.sent)
    if labels.applied is not w.labels.pending[w.sent - 1]:
        raise Broken("S5: the master has taken a label, and another one counts as applied")
    if labels.pending != w.labels.pending[w.sent :]:
        raise Broken("S5: a label that was queued during the PATCH is lost with its answer")
    return replace(w, labels=labels, sent=0, landed=False, waited=False)


def labels_failed(w: World) -> World:
    if not w.sent:
        return w
    labels = _in_vain(w.labels, w.sent)
    return replace(w, labels=labels._replace(pending=labels.pending[-1:]), sent=0, landed=False)


def label_observed(w: World) -> World:
    return replace(w, labels=_observed(w.labels, w.server_label))


def queue_purged(w: World) -> World:
    """`config kube reset`: whatever was queued or known is forgotten, and the switch has left."""
    return replace(w, labels=Labels(), sent=0, landed=False, joined=False, leaving=False)


def reset_begins(w: World) -> World:
    """The features return to their local containers before the node is drained."""
    return replace(w, joined=False, leaving=True)


def node_barred(w: World) -> World:
    return replace(w, barred=True)


def node_open(w: World) -> World:
    return replace(w, barred=False)


def master_up(w: World) -> World:
    return replace(w, api=True)


def master_down(w: World) -> World:
    return replace(w, api=False)


def redis_up(w: World) -> World:
    return replace(w, redis=True)


def redis_down(w: World) -> World:
    return replace(w, redis=False)


def writes_back(w: World) -> World:
    return replace(w, writable=True)


def writes_refused(w: World) -> World:
    return replace(w, writable=False)


def file_back(w: World) -> World:
    return replace(w, recordable=True)


def file_full(w: World) -> World:
    return replace(w, recordable=False)


def kubelet_on(w: World) -> World:
    return replace(w, kubelet=True)


def kubelet_off(w: World) -> World:
    return replace(w, kubelet=False)


def master_joined(w: World) -> World:
    return replace(w, joined=True, leaving=False)


def master_disabled(w: World) -> World:
    return replace(w, joined=False)


def hold_made(w: World) -> World:
    return replace(w, hold=True)


def hold_lifted(w: World) -> World:
    return replace(w, hold=False)


def time_passes(w: World) -> World:
    r = w.record
    old = replace(
        r,
        granted_at=min(r.granted_at, OLD),
        ending_since=None if r.ending_since is None else OLD,
        idle_since=None if r.idle_since is None else OLD,
        bad_since=None if r.bad_since is None else OLD,
        refuse_until=OLD,
        health=replace(r.health, starts=tuple(replace(s, at=OLD) for s in r.health.starts)),
        gates=tuple(replace(g, since=OLD) for g in r.gates),
    )
    if r.unverified is not None and r.unverified.since is not None:
        old = replace(old, unverified=replace(r.unverified, since=OLD))
    if r.start is not None and w.starting != "known":
        old = replace(old, start=replace(r.start, at=OLD))
    # A retry that fails once more changes nothing, so only that of a mended container is modelled.
    no_local = OLD if w.no_local is not None and w.local_starts else w.no_local
    # A start that has not been carried out by then is not carried out at all: its end comes before.
    starting = "" if w.starting == "lost" else w.starting
    return replace(w, record=old, reasking=False, waited=True, no_local=no_local, starting=starting)


def window_passes(w: World) -> World:
    """Time passes, and so much of it that no earlier end of a kube container counts."""
    passed = time_passes(w)
    if not w.image:
        return passed
    health = passed.record.health
    health = replace(health, ends=(LONG_AGO,) * len(health.ends))
    return replace(passed, record=replace(passed.record, granted_at=LONG_AGO, health=health))


def engine_moves(w: World) -> Iterator[tuple[str, World]]:
    """The kubelet and the containers, in good health. A kubelet runs on with what it knows while the master is away."""
    wanted = w.server_label and w.deployed
    if w.kubelet and w.api and wanted and len(w.kube) == 0:
        yield "the kubelet deploys a container", replace(w, kube=(Kube(KUBE[0], image=w.image),))
    for k in w.kube:
        if not k.asked and not w.silent:
            asks = "asks by the row" if w.by_row else "calls `up kube`"
            yield f"kube container {k.id[:4]} {asks}", _with_kube(w, k.id, asked=True)
        if w.kubelet and w.api and not wanted:
            yield f"the kubelet ends container {k.id[:4]}", _ended(w, k.id)


# ---- people and faults --------------------------------------------------------------------------


def _barred(w: World) -> bool:
    """Whether no local container may start: a kube one runs the feature, or nothing else may while none does."""
    waits = w.record.mode is Mode.READY and _only_kube(w)
    return waits or any(k.id == w.record.grant for k in w.kube)


def unit_moves(w: World) -> Iterator[tuple[str, World]]:
    """The unit and scripts speak, or the unit ends without a word."""
    for wish in (verbs.Start(), verbs.Stop(), verbs.Kill()):
        yield f"container {type(wish).__name__.lower()}", verb(w, wish)
    yield "container kill --no-kubelet-check", verb(w, verbs.Kill(kubelet_check=False))
    if w.record.system_state is SystemState.UP:
        end = UnitEnd("snmp.service", NOW)
        left = verbs.left_by_unit(w.record, end, hold=w.hold)
        yield "the unit ends, and its script calls no stop", replace(w, record=left)


def people_moves(w: World, menu: frozenset[str]) -> Iterator[tuple[str, World]]:
    """Operators, systemd and crashes of containers, as far as they are on the menu."""
    other = Owner.KUBE if w.config.set_owner is Owner.LOCAL else Owner.LOCAL
    yield f"set_owner={other}", replace(w, config=replace(w.config, set_owner=other))
    yield from unit_moves(w)
    if w.local_runs:
        yield "the local container crashes", _ended(w, LOCAL)
    elif w.local_exists and "hand" in menu:
        unasked = w.record.start is None and _barred(w)
        by_hand = replace(w, local_runs=True, local_by_hand=True, local_unasked=unasked)
        yield "someone starts the local container by hand", by_hand
        by_policy = replace(by_hand, local_by_policy=True)
        yield "Docker restarts and starts the local container by its policy", by_policy
    if w.local_runs and not w.local_paused and "pause" in menu:
        yield "someone pauses the local container", replace(w, local_paused=True)
    for k in w.kube:
        yield f"kube container {k.id[:4]} crashes", _ended(w, k.id)
    if "fallback" in menu:
        fallback = not w.config.fallback
        yield f"fallback={fallback}", replace(w, config=replace(w.config, fallback=fallback))
    if "manifest" in menu:
        yield f"the manifest is {'withdrawn' if w.deployed else 'back'}", replace(w, deployed=not w.deployed)
    if "drift" in menu and w.api:
        yield "another client changes our label on the node", replace(w, server_label=not w.server_label)
    if "unwell" in menu:
        yield from unwell_moves(w)
    if "broken" in menu:
        yield from broken_moves(w)
    owner_local = ruling_owner(w.config, w.record) is Owner.LOCAL
    if w.starting and w.record.start is not None and owner_local and w.record.system_state is SystemState.UP:
        yield (
            "Docker has not answered in time: the start is given up",
            replace(w, record=verbs.given_up(w.record)),
        )


def broken_moves(w: World) -> Iterator[tuple[str, World]]:
    """The program of the local container is lost or mended, and a start is answered with what Docker says of it."""
    change = "breaks" if w.local_starts else "is mended"
    yield f"the local container {change}", replace(w, local_starts=not w.local_starts)
    if not w.local_exists:
        lost = "lost" if w.script else "back"
        yield f"the script that makes the local container is {lost}", replace(w, script=not w.script)
        answers = "answers" if w.unsure else "does not answer"
        yield f"systemd {answers} whether there is one", replace(w, unsure=not w.unsure)
    up = w.record.system_state is SystemState.UP
    if _failures(w) and up and w.no_local is not None and ruling_owner(w.config, w.record) is Owner.LOCAL:
        yield "the start is answered with a failure", replace(w, record=verbs.given_up(w.record))


def unwell_moves(w: World) -> Iterator[tuple[str, World]]:
    """What is said of containers, and what is done about a failure."""
    for k in w.kube:
        said = Complaint(k.id, "container", "sick")
        if w.record.health.complaint_about(k.id) is None:
            record = replace(w.record, health=complain(w.record.health, said))
            yield f"kube container {k.id[:4]} says that it is unhealthy", replace(w, record=record)
    if w.record.failure:
        yield "the operator clears the failure", replace(w, record=repaired(w.record))
    if w.record.rolled_back and w.api and not w.server_label:
        yield "the master's operator labels the node", replace(w, server_label=True)
        other = "B" if w.image == "A" else "A"
        again = replace(w, server_label=True, image=other)
        yield "the manifest gets another image, and the master labels the node", again


# ---- what must be true --------------------------------------------------------------------------


def check_state(w: World) -> None:
    """The promises that hold at every single state."""
    past = [k for k in w.kube if k.past_up]
    if len(past) + (w.local_runs and not w.local_by_hand) > 1:
        raise Broken("S1: two containers are past `state up`")
    observed = facts_of(w)
    code = verbs.wait_code(w.config, w.record, observed, w.timing, NOW)
    if code is not None and (w.local_runs or past):
        raise Broken("S6: wait returns while the feature runs")
    state = state_of(w.config, w.record, observed)
    kube_states = (
        State.KUBE_READY,
        State.KUBE_PENDING,
        State.KUBE_RUNNING,
        State.LOCAL_TO_KUBE,
        State.KUBE_STOPPED,
    )
    if code is not None and state in kube_states:
        raise Broken(f"S6: wait returns in {state}")
    up = w.record.system_state is SystemState.UP and w.recordable
    if code is not None and up and observed.waiter and ruling_owner(w.config, w.record) is Owner.KUBE:
        raise Broken("S6: wait returns although a kube container waits to take over")
    started = verbs.outcome(verbs.Start(), w.config, w.record, observed) is verbs.DONE
    if up and started and not past and w.local_runs and LOCAL in w.stopping | w.killed:
        raise Broken("S3: a start is answered while the container that runs is being ended")
    _check_local_needs_no_kube(w, observed)
    _check_crash_loop(w)
    _check_plans_end(w)


def _check_crash_loop(w: World) -> None:
    """A kube container that ends again and again has failed."""
    seen = look(w)[0].record
    kube_wanted = seen.system_state is SystemState.UP and w.config.owner is Owner.KUBE
    if kube_wanted and seen.health.looping and not seen.failure:
        raise Broken("L3: kube containers end again and again, and that is no failure")


def _check_plans_end(w: World) -> None:
    """L1: the reconciler's own plans come to an end, whatever else is late. What made room in vain is back then."""
    plans: list[str] = []
    returns = _makes_room_in_vain(w)
    while len(plans) < PLANS_MAX:
        seen, plan = look(w)
        if plan.action is None:
            if returns and not (w.local_runs or w.starting):
                raise Broken(f"L3: local has made room, no grant can be stored, and nothing runs: {plan.why}")
            return
        plans.append(plan.why)
        w = folded(act(seen, plan))
    raise Broken("L1: plans follow plans: " + "; ".join(plans[-4:]))


def _makes_room_in_vain(w: World) -> bool:
    """Whether the local container has ended for a kube one that waits, and whose grant cannot be stored."""
    ended = w.record.mode is Mode.PENDING and not w.record.grant and not w.local_runs
    up = w.record.system_state is SystemState.UP and w.redis and not w.leaving
    return (
        ended and up and not w.recordable and w.local_exists and w.local_starts and bool(facts_of(w).waiter)
    )


def _check_local_needs_no_kube(w: World, observed: Observation) -> None:
    """S3: without label and kube container, Kubernetes does not change what a local feature does."""
    if w.config.owner is not Owner.LOCAL or w.kube or w.record.grant or w.labels.value is KubeLabel.ON:
        return
    record = look(w)[0].record
    alone = replace(
        observed, label=LabelView(), joined=False, kubelet=None, hold=False, no_deploy="", leaving=False
    )
    plans = [decide(w.config, record, f, w.timing, NOW, "snmp") for f in (observed, alone)]
    if plans[0].action != plans[1].action and not isinstance(plans[0].action, RequestLabel):
        raise Broken(f"S3: Kubernetes makes a local feature do {plans[0].action}, not {plans[1].action}")


def check_rest(w: World) -> None:
    """What must be true once faults have stopped and nothing moves any more (L1 to L3, S2)."""
    observed = facts_of(w)
    state = state_of(w.config, w.record, observed)
    _check_rests(w, state)
    _check_unasked(w)
    _check_queue(w)
    wish = verbs.Start() if w.record.system_state is SystemState.UP else verbs.Stop()
    if state is not State.UNKNOWN and verbs.outcome(wish, w.config, w.record, observed) is None:
        raise Broken(f"L1: {wish} is never answered in {state}")
    if not w.local_starts:
        return  # The next life tries the start once more.
    again = daemon_restarts(w)
    for _ in range(10):
        plan = look(again)[1]
        if plan.action is not None:
            raise Broken(f"S2: a restart of the daemon makes it act: {plan.why}")
        move = next((*reconciler_moves(again), *engine_moves(again)).__iter__(), None)
        if move is None:
            return
        again = move[1]


def _check_queue(w: World) -> None:
    """L2, S4, S5: the queue is empty, the node has what it said, and the kubelet runs as ruled."""
    if w.kubelet is not w.joined:
        raise Broken(f"L2: joined is {w.joined}, the kubelet runs: {w.kubelet}")
    if not w.joined:
        return
    if w.labels.pending or w.labels.failed:
        raise Broken("L2: the label queue is not empty")
    if w.labels.applied is not w.server_label:
        raise Broken(f"S5: {w.labels.applied} counts as applied, the node has {w.server_label}")


def _check_unasked(w: World) -> None:
    """S1: what another program has started does not run on while Kubernetes runs the feature, or is to."""
    if w.local_unasked and w.record.mode is Mode.READY and w.record.system_state is SystemState.UP:
        raise Broken("S1: a local container that another program has started beside Kubernetes runs on")


def _check_starting(w: World) -> None:
    """L1: only a local container that does not start rests there, and only where no pod may come back."""
    if w.local_starts or w.config.owner is Owner.KUBE:
        raise Broken("L1: it comes to rest in STARTING although there is a local container")
    if w.record.exit is not None and w.record.exit.owner is Owner.KUBE:
        raise Broken(
            "L1: kube has made room for a local container that does not start, and no pod may come back"
        )


def _check_down(w: World) -> None:
    """S7: a feature that is down stays down."""
    if w.slow and w.local_runs and not w.local_by_hand:
        raise Broken("S7: the unit is down, and what a docker start under way has started runs on")
    if w.local_by_policy:
        raise Broken("S7: the unit is down, and what Docker has started by itself runs on")
    if w.kube:
        raise Broken("S7: the unit is down and a kube container runs on")


def _check_rests(w: World, state: State) -> None:
    """Where it may come to rest (L1), and who must run then (L3)."""
    stable = (
        State.UNKNOWN,
        State.INIT,
        State.LOCAL,
        State.LOCAL_EXITED,
        State.KUBE_READY,
        State.KUBE_RUNNING,
        State.STARTING,
    )
    if state not in stable:
        raise Broken(f"L1: it comes to rest in {state}")
    if state is State.STARTING and w.local_exists:
        _check_starting(w)
    if state is State.KUBE_READY and facts_of(w).waiter:
        raise Broken("L1: nothing runs, and a kube container that waits is not admitted")
    kube_fallback = w.config.owner is Owner.KUBE and w.config.fallback and w.local_exists and w.local_starts
    if state is State.KUBE_READY and kube_fallback:
        raise Broken("L3: kube with fallback, nothing runs, and the local container does not come")
    if state is State.KUBE_READY and w.joined and not w.server_label:
        raise Broken("L1: it waits for kube, and no label lets kube deploy")
    if state is State.KUBE_RUNNING and not any(k.past_up for k in w.kube) and not w.silent:
        raise Broken("L1: a kube container owns the feature, and is not admitted")
    if w.record.rolled_back and any(k.image == w.record.health.failed_image for k in w.kube) and w.joined:
        raise Broken("L1: rolled back, and what failed runs on")
    if complaint_against(w.record, w.config) and w.local_exists and state is State.KUBE_RUNNING:
        raise Broken("L1: an unhealthy kube container owns the feature although a local one could")
    if w.silent and w.kube and not w.local_runs and state is State.KUBE_READY:
        raise Broken("L1: a kube container that ignores the gate runs alone, and owns nothing")
    if w.local_paused and w.record.unpause:
        raise Broken("L1: a start found its container paused, and it stays so")
    if state is State.INIT:
        _check_down(w)


def starts(*, policies: tuple[FailurePolicy | None, ...] = (None,)) -> Iterator[World]:
    """A feature before its unit's first verb, with and without fallback and a local container."""
    for fallback in (False, True):
        for exists in (True, False):
            for policy in policies:
                minutes = 0 if policy is None else 1
                config = FeatureConfig(fallback=fallback, failure_minutes=minutes, failure_policy=policy)
                yield World(config=config, local_exists=exists)


def working_starts() -> Iterator[World]:
    """A feature that kube runs and has run for long, the label on: what takes many steps to reach."""
    kube = Kube(KUBE[0], asked=True, past_up=True)
    record = Record(system_state=SystemState.UP, mode=Mode.READY, grant=kube.id, granted_at=OLD, proven=True)
    for world in starts():
        config = replace(world.config, set_owner=Owner.KUBE)
        labels = Labels(applied=True)
        at_work = replace(world, config=config, record=record, kube=(kube,), labels=labels, server_label=True)
        yield folded(look(at_work)[0])


def crashing_starts() -> Iterator[World]:
    """The same with an image whose containers end again and again: one more end is a failure."""
    for world in working_starts():
        record = replace(world.record, health=replace(world.record.health, ends=(OLD, OLD)))
        kube = (replace(world.kube[0], image="A"),)
        yield folded(look(replace(world, record=record, kube=kube, image="A"))[0])


def slow_starts() -> Iterator[World]:
    """A feature before its unit's first verb, on a Docker that takes long for each start."""
    for world in starts():
        if world.local_exists:
            yield replace(world, slow=True)


def landing_starts() -> Iterator[World]:
    """The same: kube is the owner by now, and the local container is about to be started."""
    for world in slow_starts():
        config = replace(world.config, set_owner=Owner.KUBE)
        record = Record(system_state=SystemState.UP)
        asks = replace(world, record=record)
        kube = Kube(KUBE[0], asked=True)
        labels = Labels(applied=True)
        begun = act(*look(asks))
        yield folded(replace(begun, config=config, kube=(kube,), labels=labels, server_label=True))


def row_starts() -> Iterator[World]:
    """The unit is up, kube is the owner by now, and has deployed SONiC's own image; a local container runs or not."""
    for world in (*waiting_starts(), *handing_over_starts()):
        kube = (Kube(KUBE[0]),)
        yield folded(replace(world, kube=kube, by_row=True))


def silent_starts() -> Iterator[World]:
    """The unit is up, kube is the owner, and the manifest's image has no gate."""
    for world in starts():
        config = replace(world.config, set_owner=Owner.KUBE)
        yield folded(verb(replace(world, config=config, silent=True), verbs.Start()))


def waiting_starts() -> Iterator[World]:
    """The same, but its container still waits for admission: a stop ends a container that was not admitted yet."""
    for world in working_starts():
        waits = replace(world.kube[0], past_up=False)
        record = Record(system_state=SystemState.UP, mode=Mode.READY)
        yield folded(replace(world, kube=(waits,), record=record))


def handing_over_starts() -> Iterator[World]:
    """The unit is up, the local container runs, kube is the owner by now, and its container waits."""
    for world in starts():
        if world.local_exists:
            runs = replace(world, local_runs=True, labels=Labels(applied=True), server_label=True)
            config = replace(world.config, set_owner=Owner.KUBE)
            record = Record(system_state=SystemState.UP, local_id=LOCAL)
            kube = (Kube(KUBE[0], asked=True),)
            yield folded(look(replace(runs, config=config, record=record, kube=kube))[0])


def migrated_starts() -> Iterator[World]:
    """The daemon's first start, on a switch where another program, ctrmgrd, runs the feature, by its row."""
    for world in starts():
        config = replace(world.config, set_owner=Owner.KUBE)
        unmanaged = Record(unverified=Unverified(lost=True, first=True, unmanaged=True))
        found = replace(world, config=config, record=unmanaged, server_label=True)
        rows = [(replace(found, kube=(Kube(KUBE[0], asked=True, past_up=True),)), Owner.KUBE, KUBE[0][:12])]
        if world.local_exists:
            rows.append((replace(found, local_runs=True), Owner.LOCAL, ""))
        for before, owner, container_id in rows:
            mode = Mode.READY if owner is Owner.KUBE else Mode.NONE
            row = Row(SystemState.UP, owner, mode, container_id, update_ts=1)
            taken = verified(unmanaged, replace(facts_of(before), row=row), before.timing, NOW)
            # On cgroup v2 the row has no ID. The daemon may also have waited for Kubernetes earlier in this boot.
            noted = replace(row, docker_id="", revision=8)
            waited = Record(SystemState.UP, Mode.READY, revision=Revision(8), unverified=Unverified())
            back = verified(waited, replace(facts_of(before), row=noted), before.timing, NOW)
            for record in (taken, back):
                if not record.follows or _barred(replace(before, record=record)) is (owner is Owner.LOCAL):
                    raise Broken("S2: what another program runs is not taken over")
            yield folded(look(replace(before, record=taken))[0])


def failing_starts(*policies: FailurePolicy) -> Iterator[World]:
    """Worlds whose manifest has an image that may be bad; KUBE owns the feature and its unit is up."""
    for world in starts(policies=policies or tuple(FailurePolicy)):
        config = replace(world.config, set_owner=Owner.KUBE)
        yield replace(world, config=config, record=Record(system_state=SystemState.UP), image="A")
