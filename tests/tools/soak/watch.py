"""Sample the daemon's resources and messages, from /proc, its own answer, and its log."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tools.soak.judge import Sample, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.switch import Switch

TRACEBACKS_KEPT = 20
TRACEBACK_CHARS = 2000


class Watch:
    """Looks at one switch's daemon again and again."""

    def __init__(self, switch: Switch, clock: Callable[[], float]) -> None:
        self._switch = switch
        self._clock = clock
        self._pids: list[int] = []
        self.log = LogTail(switch.daemon.log_file)

    def sample(self) -> Sample | None:
        """What it holds now; None where no daemon answers."""
        with suppress(OSError, ValueError, AssertionError, IndexError):
            pid = self._switch.daemon.pid
            _, lines = self._switch.ask("resources")
            tasks = int(json.loads(lines[0])["tasks"])
            if pid not in self._pids:
                self._pids.append(pid)
            memory, status = _table(f"/proc/{pid}/smaps_rollup"), _table(f"/proc/{pid}/status")
            return Sample(
                at_s=round(self._clock(), 1),
                life=len(self._pids),
                storm=None,
                pss_mib=memory["Pss"] / 1024,
                rss_mib=memory["Rss"] / 1024,
                own_mib=memory["Anonymous"] / 1024,
                fds=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
                threads=status["Threads"],
                tasks=tasks,
            )
        return None


class LogTail:
    """Counts a log's lines as they come; keeps what looks like a bug."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._lines: Counter[str] = Counter()
        self._tracebacks: list[str] = []

    def told(self) -> Told:
        """Everything so far. The last line may be half written; it is left for the next time."""
        with self._file.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._take(line)
        return Told(dict(self._lines.most_common()), tuple(self._tracebacks))

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            event = str(entry["event"])
        except (ValueError, KeyError, TypeError):
            # Nobody but a crash writes anything else there.
            event, entry = "not of the log", {"exception": line}
        self._lines[event] += 1
        if "exception" in entry and len(self._tracebacks) < TRACEBACKS_KEPT:
            self._tracebacks.append(f"{event}: {entry['exception']}"[-TRACEBACK_CHARS:])


def _table(file: str) -> dict[str, int]:
    """A /proc file's `Name: number` lines."""
    return {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+)", Path(file).read_text(), re.MULTILINE)}
