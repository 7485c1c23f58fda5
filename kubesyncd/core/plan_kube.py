"""Plan a feature that Kubernetes may run: hand-over, admission, adoption of its image, and the fallback.

Knows no clock, no client, no coroutine: a part of `planner.decide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.actions import Admit, AdoptImage, Plan, SetMode
from kubesyncd.core.gate import ignoring
from kubesyncd.core.health import crash_loop
from kubesyncd.core.inputs import label_step
from kubesyncd.core.model import Mode, Owner
from kubesyncd.core.plan_end import renew_unit
from kubesyncd.core.plan_local import restore_image, start_local
from kubesyncd.core.reasons import (
    could_not_start,
    kept,
    returns,
    until_deployed,
    waits_for_kube,
    why_refused,
)
from kubesyncd.core.record import (
    complaint_against,
    local_wanted,
    returns_to_local,
    uncertain,
    wished_owner,
)
from kubesyncd.core.row_gate import given_up
from kubesyncd.core.state import State
from kubesyncd.core.unasked_start import unasked_runs

if TYPE_CHECKING:
    from kubesyncd.core.inputs import Inputs

MAY_START = (
    "a kube container waits; Docker was asked to start the local container and may still do so: "
    "the kube one is admitted once that is known"
)


def up_kube(inputs: Inputs) -> Plan:
    """Plan a feature that is up and owned by Kubernetes.

    One that is rolled back is among them while it has no way back: the image from before the failure may be one.
    """
    plan = label_step(inputs) or restore_image(inputs) or _wake_up(inputs)
    if plan is not None:
        return plan
    if inputs.granted:
        if inputs.record.mode is not Mode.READY:
            return inputs.act(SetMode(Mode.READY), "a kube container owns the feature")
        return _kube_running(inputs)
    if inputs.observed.local_running:
        return _local(inputs)
    return _nothing_runs(inputs)


def _wake_up(inputs: Inputs) -> Plan | None:
    """Plan to end a kube container whose start-up script has given up: the next one asks again; None: none has.

    Only one that waits to be admitted is ended: an admitted one may serve.
    """
    found = given_up(inputs.record, inputs.observed)
    if not found:
        return None
    why = "STATE_DB's row had lost the version that the kube container's start-up script waits with: it is ended"
    return inputs.attempt(inputs.stopping(found), f"{why}, and the kubelet starts it again")


def _kube_running(inputs: Inputs) -> Plan:
    """Keep the running kube container (KUBE_RUNNING), or stop an unhealthy one where a local one can take over."""
    record, unwell = inputs.record, complaint_against(inputs.record, inputs.config)
    if not unwell:
        if inputs.observed.leaving:
            return _leave(inputs)
        why = kept(inputs.config, record, uncertain(record, inputs.observed)) or record.failure
        return inputs.rest(why) if why else _adopt(inputs)
    if record.no_way_back:
        return inputs.rest(
            f"{record.failure}; {uncertain(record, inputs.observed)}: the kube container is kept"
        )
    if inputs.observed.local is None:
        return inputs.rest(f"{record.failure}; no local container exists to take over")
    return renew_unit(inputs, record.failure) or inputs.stop(
        inputs.granted,
        f"{record.failure}: the kube container is stopped, the local one takes over",
        f"{record.failure}; the local container takes over once it has ended",
    )


def _leave(inputs: Inputs) -> Plan:
    """End the kube container before the reset does, where a local one takes over at once (spec section 6)."""
    why, observed = "this switch leaves its master", inputs.observed
    if not returns_to_local(inputs.config, inputs.record, observed):
        return inputs.rest(f"{why}: the kube container ends with it")
    return renew_unit(inputs, why) or inputs.stop(
        inputs.granted,
        f"{why}: the kube container is stopped, the local one takes over",
        f"{why}: the local container takes over once the kube one has ended",
    )


def _adopt(inputs: Inputs) -> Plan:
    """Adopt the kube image as the local one after it has run healthily for `tag_after_s`; its age does not count."""
    record, why = inputs.record, "the kube container runs, as configured"
    image_id = next(c.image_id for c in inputs.observed.containers if c.id == inputs.granted)
    if not record.proven or image_id in ("", record.adopted) or inputs.observed.working:
        return inputs.rest(why)
    due = max(record.granted_at + inputs.timing.tag_after_s, record.adopt_at)
    if inputs.now < due:
        return inputs.rest(why, due)
    return inputs.act(AdoptImage(image_id), "healthy for long enough: its image becomes the local one")


def _local(inputs: Inputs) -> Plan:
    """Keep a local container running, or hand over to kube (LOCAL and LOCAL_TO_KUBE)."""
    waiter, record = inputs.observed.waiter, inputs.record
    if record.mode is Mode.READY:
        if unasked_runs(record.unasked, inputs.observed) and not local_wanted(inputs.config, record):
            return inputs.stop(
                inputs.observed.local_running,
                "only Kubernetes may run it: the local container, started by another program, is stopped",
                "only Kubernetes may run it; waiting for the local container to end",
            )
        return inputs.act(
            SetMode(Mode.NONE), "a local container was started: Kubernetes takes over from there"
        )
    if record.mode is Mode.NONE:
        if not waiter:
            return inputs.rest(until_deployed(inputs.observed, _looping(inputs)))
        if inputs.now < record.refuse_until:
            return inputs.rest(why_refused(record), record.refuse_until)
        return inputs.act(
            SetMode(Mode.PENDING), "kube has deployed: its container waits for the local one to end"
        )
    if inputs.observed.local_running in inputs.observed.stopping:
        return inputs.rest("the kube container waits; the local one is being stopped")
    if waiter:
        why = "the kube container waits"
        action = inputs.stopping(inputs.observed.local_running)
        return renew_unit(inputs, why) or inputs.act(action, f"{why}: the local one is stopped")
    if inputs.observed.may_still_ask:
        return inputs.rest("the kube container may still ask again", inputs.now + inputs.timing.reask_s)
    return inputs.act(SetMode(Mode.NONE), "the kube container no longer waits: the local one stays")


def _nothing_runs(inputs: Inputs) -> Plan:
    waiter, record = inputs.observed.waiter, inputs.record
    plan = _admission(inputs)
    if plan is not None:
        return plan
    if record.mode is Mode.PENDING:
        return _pending(inputs)
    if record.mode is Mode.READY:
        return _kube_ready(inputs)
    if inputs.state is State.LOCAL_EXITED:
        if inputs.observed.takes_over(inputs.now):
            return inputs.act(
                SetMode(Mode.PENDING), "the local container ended and a kube one waits: it takes over"
            )
        return inputs.rest("the local container ended by itself; systemd restarts the unit")
    if not local_wanted(inputs.config, record):
        return inputs.act(SetMode(Mode.READY), "only Kubernetes may run it")
    lost = _no_local(inputs)
    if lost:
        return inputs.act(SetMode(Mode.READY), f"{lost}: waiting for kube deployment")
    failed = inputs.observed.no_comeback
    local = inputs.observed.local
    unsure = local is not None and bool(local.unread) and inputs.observed.start_unanswered is not None
    if failed is not None and not unsure and (waiter or inputs.now < failed.again_at):
        return inputs.act(
            SetMode(Mode.READY), f"{could_not_start(failed.text)}; Kubernetes may run it meanwhile"
        )
    return start_local(inputs, "it runs locally until kube deploys")


def _admission(inputs: Inputs) -> Plan | None:
    """Plan to admit a kube container, or to wait for what must be known before; None where none is to be admitted."""
    waiter, record = inputs.observed.waiter, inputs.record
    ungated = ignoring(record.gates, inputs.timing.gate_after_s, inputs.now)
    # One that has not asked owns only where nothing else is to run: a failure may be noticed at the same moment.
    silent = "" if _gives_up_kube(inputs) else inputs.observed.newest_staying(ungated)
    if record.mode is Mode.NONE or not (waiter or silent):
        return None
    if record.start is not None:
        return inputs.rest(MAY_START)
    plan = None
    if waiter:
        plan = inputs.attempt(Admit(waiter), "no other container runs: the kube container may proceed")
    if plan is None and silent:
        plan = inputs.attempt(
            Admit(silent), "a kube container runs without having asked, and nothing else does: it owns"
        )
    return plan


def _gives_up_kube(inputs: Inputs) -> bool:
    """Return whether the feature has failed, and its local container can take over."""
    failed = bool(inputs.record.failure) and local_wanted(inputs.config, inputs.record)
    return failed and not _no_local(inputs) and inputs.observed.no_comeback is None


def _no_local(inputs: Inputs) -> str:
    """Return why no local container can be started or made for certain; empty where one can."""
    if inputs.observed.no_local:
        return inputs.observed.no_local
    lost = inputs.observed.local is None and inputs.record.unit_restarted
    return "no local container exists" if lost else ""


def _pending(inputs: Inputs) -> Plan:
    """Wait for the kube container that the local one has made room for (KUBE_PENDING), or give it up."""
    failed = inputs.observed.no_admission
    if failed is not None:
        return inputs.act(SetMode(Mode.READY), f"the kube container cannot be admitted: {failed.text}")
    if inputs.observed.may_still_ask:
        return inputs.rest("the kube container may still ask again", inputs.now + inputs.timing.reask_s)
    return inputs.act(
        SetMode(Mode.READY), "the kube container no longer waits: the next deployment may proceed at once"
    )


def _looping(inputs: Inputs) -> str:
    return crash_loop(inputs.record.health, inputs.timing, inputs.now)


def _waits(inputs: Inputs) -> str:
    """Say what a feature that waits for kube waits for, and what keeps it waiting."""
    observed, waits = inputs.observed, waits_for_kube(inputs.observed, _looping(inputs))
    if observed.no_admission is not None:
        waits = f"the kube container waits and cannot be admitted: {observed.no_admission.text}"
    if observed.no_comeback is not None:
        waits = f"{waits}; {could_not_start(observed.no_comeback.text)}"
    return waits


def _kube_ready(inputs: Inputs) -> Plan:
    """Wait for kube, and fall back to local in time (KUBE_READY, L3)."""
    record, waits = inputs.record, _waits(inputs)
    if not local_wanted(inputs.config, record):
        return inputs.rest(waits)
    lost = _no_local(inputs)
    if lost:
        follows = "so nothing can fall back"
        if inputs.observed.way_back_unknown:
            follows = "so nothing falls back until it is"
        return inputs.rest(f"{waits}; {lost}, {follows}")
    # Where Kubernetes cannot deploy, waiting for it only leaves the feature without a container.
    soon = record.local_due or record.failure or inputs.observed.no_deploy
    due = inputs.now if soon or wished_owner(inputs.config, record) is Owner.LOCAL else None
    if record.local_back or (inputs.observed.no_admission is not None and inputs.observed.local is not None):
        # Nor does it help that a kube container waits which cannot be admitted.
        due = inputs.now
    if due is None:
        idle_since = inputs.now if record.idle_since is None else record.idle_since
        due = idle_since + inputs.timing.fallback_after_s
    if inputs.now < due:
        return inputs.rest(
            f"{waits}; the local container returns after {inputs.timing.fallback_after_s:g} s", due
        )
    return _fall_back(inputs, waits)


def _fall_back(inputs: Inputs, waits: str) -> Plan:
    record, failed = inputs.record, inputs.observed.no_comeback
    if failed is not None:
        # Without a change of state: while it fails, Kubernetes may go on to run the feature.
        plan = inputs.attempt(inputs.observed.comeback, f"{waits}; it is tried again")
        return plan if plan is not None else inputs.rest(waits, failed.again_at)
    return inputs.act(SetMode(Mode.NONE), returns(record, inputs.observed))
