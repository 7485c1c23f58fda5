"""Number the changes of what STATE_DB's row tells, so that row and ledger show which of them is newer.

Knows no clock, no client, no coroutine. The record stores the number before the row does. So a row with a higher number
than the record is newer: the ledger could not be written, or is an older copy. The higher bits of a number are the
boot's: a row of an earlier boot tells nothing. The lowest bit tells whether a stop or kill was being carried out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import REVISION_MAX, SHORT_ID, Owner, Startup, SystemState

if TYPE_CHECKING:
    from kubesyncd.core.model import Row


# A number's lower bits count the changes of one boot, in steps of two.
COUNT_BITS = 32
BOOTS = REVISION_MAX >> COUNT_BITS


@dataclass(frozen=True, slots=True)
class Revision:
    """The number of the last change, and what the row told then; 0: no row has been read.

    `admits`: the row says `Startup.GO`, or may still do so: it has not been read without that since.
    """

    number: int = 0
    told: str = ""
    admits: bool = False


UNTOLD = Revision()


def of_boot(number: int, boot: int) -> bool:
    """Return whether this number, not 0, is of this boot."""
    return number >> COUNT_BITS == boot


def ends(number: int) -> bool:
    """Return whether a stop or kill was being carried out at this change."""
    return number % 2 == 1


def revised(before: Revision, wanted: Row, stored: Row | None, boot: int, *, ending: bool) -> Revision:
    """Return the revision of a record whose row should be `wanted`; `stored`: STATE_DB's, None: it cannot be read.

    `ending`: a stop or kill is being carried out. The number is at least that of every row of this boot that was read
    before.
    """
    unread = stored is None or stored.startup is Startup.GO
    before = replace(before, admits=wanted.startup is Startup.GO or (before.admits and unread))
    if stored is None:
        return before
    told = ""
    if tells(wanted.system_state, wanted.current_owner):
        short = wanted.docker_id[:SHORT_ID]
        told = f"{wanted.system_state} {wanted.current_owner} {wanted.transition_mode} {short}"
    known = [n for n in (before.number, stored.revision) if n and of_boot(n, boot)]
    number = max(known, default=boot << COUNT_BITS)
    if told != before.told or (told and (not known or ends(number) is not ending)):
        number = min(number - number % 2 + 2 + ending, REVISION_MAX)
    return before if not known and not told else replace(before, number=number, told=told)


def tells(state: SystemState, owner: Owner) -> bool:
    """Return whether a row with these fields tells of anything that has happened: another one has no number."""
    return state is not SystemState.ABSENT or owner is not Owner.NONE
