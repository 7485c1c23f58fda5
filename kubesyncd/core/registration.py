"""Follow the deletion of a feature's rows: what its owner deletes is not written again.

Knows no clock, no client, no coroutine. SONiC's `featured` deletes the STATE_DB row of a feature whose FEATURE row is
deleted. Another program may also lose the row, by a flush of STATE_DB: then it is restored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.model import Row

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation


def registered_after(before: bool | None, observed: Observation) -> bool | None:
    """Return whether CONFIG_DB has the FEATURE row: False after it had one, None while it never had one."""
    if observed.registered is None or (before is None and not observed.registered):
        return before
    return observed.registered


def row_settled(wanted: Row, registered: bool | None, observed: Observation, *, kept: bool = False) -> bool:
    """Return whether STATE_DB's row needs no write: it is `wanted`, cannot be read, or is to stay as it is.

    `kept`: it is another program's. A missing row stays deleted while a reboot is being prepared, and once the FEATURE
    row is deleted; it waits while that has just gone.
    """
    if kept or observed.row is None or observed.row == wanted:
        return True
    return observed.row == Row() and (observed.hold or observed.settling or registered is False)
