"""Plan a feature that runs locally: by its configuration, rolled back, or until Kubernetes deploys.

Knows no clock, no client, no coroutine: a part of `planner.decide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.actions import Plan, RestartUnit, RestoreImage, SetMode, StartLocal
from kubesyncd.core.inputs import label_step
from kubesyncd.core.model import Mode
from kubesyncd.core.plan_end import end_kube, renew_unit
from kubesyncd.core.reasons import next_chance
from kubesyncd.core.state import State

if TYPE_CHECKING:
    from kubesyncd.core.inputs import Inputs


def up_local(inputs: Inputs) -> Plan:
    """Plan a feature that is up and should run locally."""
    plan = label_step(inputs)
    if plan is not None:
        return plan
    rolled_back = inputs.record.rolled_back
    because = f"rolled back ({inputs.record.failure})" if rolled_back else "set_owner=local"
    if inputs.granted:
        return renew_unit(inputs, because) or end_kube(inputs, (inputs.granted,), because)
    if inputs.record.mode is not Mode.NONE:
        return inputs.act(SetMode(Mode.NONE), f"{because}: Kubernetes state cleared")
    plan = restore_image(inputs)
    if plan is not None:
        return plan
    if inputs.observed.local_running:
        if inputs.observed.local_running in inputs.observed.being_ended:
            return inputs.rest("the local container is being ended; it is started again once it has")
        return inputs.rest(
            f"{because}: {next_chance(inputs.feature)}"
            if rolled_back
            else "the local container runs, as configured"
        )
    if inputs.state is State.LOCAL_EXITED:
        return inputs.rest("the local container ended by itself; systemd restarts the unit")
    return start_local(inputs, because)


def restore_image(inputs: Inputs) -> Plan | None:
    """Plan to restore the local image from before the failure; None where that is done, fails or is not needed."""
    record = inputs.record
    failed_image = record.health.failed_image if record.rolled_back else ""
    if not failed_image or record.restored == failed_image or inputs.observed.working:
        return None
    why = f"rolled back ({record.failure}): the local image from before the failure is restored"
    return inputs.attempt(RestoreImage(failed_image), why)


def start_local(inputs: Inputs, because: str) -> Plan:
    """Start the local container, or have the unit create it."""
    local = inputs.observed.local
    if inputs.observed.working:
        return inputs.rest(f"{because}: the local container is started once its image is ready")
    if local is not None:
        return inputs.act(StartLocal(local.id), f"{because}: the local container is started")
    if inputs.observed.no_local:
        return inputs.rest(f"{because}: {inputs.observed.no_local}")
    if not inputs.record.unit_restarted:
        return inputs.act(
            RestartUnit(), f"{because}, no local container exists: the unit's script creates one"
        )
    return inputs.rest(
        f"no local container exists and the unit's script has not created one; see: journalctl -u {inputs.feature}"
    )
