"""Stand in for systemctl on a lab switch: start and stop the kubelet, restart units, record each call.

    python -IS tests/lab/systemctl.py FOLDER is-active|show|enable --now|disable --now|restart --no-block|… UNIT

FOLDER/units/UNIT.json tells a unit's `command`, its `cwd` and the `pid_file` that says it runs; FOLDER/jobs/UNIT is
there while a change of --no-block goes on; FOLDER/calls gets one line per call. Knows nothing of kubesyncd.
Standard library only: it starts often.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

# systemd's own: a feature may use all its grace periods.
STOP_S_MAX = 90.0
INACTIVE, NO_UNIT = 3, 5


def main(folder: Path, words: list[str]) -> int:
    """Do as told; returns systemctl's exit code."""
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    verb, name = words[0], words[-1]
    if (folder / "fails").exists():
        print((folder / "fails").read_text(), file=sys.stderr)
        return 1
    file = folder / "units" / f"{name}.json"
    if verb == "show" and not file.exists():
        print("LoadState=not-found\nActiveState=inactive\nSubState=dead\nJob=0")
        return 0
    if verb == "reset-failed" or not file.exists():
        return {"is-active": INACTIVE, "reset-failed": 0}.get(verb, NO_UNIT)
    unit, job = json.loads(file.read_text()), folder / "jobs" / name
    if "--no-block" not in words:
        if verb in ("stop", "disable"):
            await_job(job)
        return carry_out(verb, unit, job)
    job.parent.mkdir(exist_ok=True)
    job.touch()
    if os.fork():
        return 0
    for stream in (0, 1, 2):  # the caller reads to their end
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    try:
        return carry_out(verb, unit, job)
    finally:
        job.unlink(missing_ok=True)


def await_job(job: Path) -> None:
    """Return once a change of --no-block has been carried out: what it starts can be stopped then."""
    deadline = time.monotonic() + STOP_S_MAX
    while job.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job.name} is being changed, for over {STOP_S_MAX:g} s")
        time.sleep(0.02)


def carry_out(verb: str, unit: dict[str, str], job: Path) -> int:
    """Do as told to a unit that there is; returns systemctl's exit code."""
    pid_file = Path(unit["pid_file"])
    match verb:
        case "show":
            # In this order: the job ends once the unit runs.
            queued = job.exists()
            print("LoadState=loaded")
            print(f"ActiveState={'activating' if running(pid_file) else 'inactive'}")
            print("Job=1" if queued else "Job=0")
        case "is-active":
            alive = running(pid_file)
            print("active" if alive else "inactive")
            return 0 if alive else INACTIVE
        case "enable" | "start" | "restart":
            with alone(pid_file):
                start(unit, pid_file, again=verb == "restart")
        case "disable" | "stop":
            with alone(pid_file):
                stop(pid_file)
    return 0


@contextmanager
def alone(pid_file: Path):  # type: ignore[no-untyped-def]
    """Change a unit after those that are changing it: two that start it at once would run its program twice."""
    with Path(f"{pid_file}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(unit: dict[str, str], pid_file: Path, *, again: bool) -> None:
    """Start the unit's program, in a session of its own; one that runs is left alone, or replaced."""
    if running(pid_file):
        if not again:
            return
        stop(pid_file)
    with Path(f"{pid_file}.log").open("ab") as log:
        process = subprocess.Popen(
            unit["command"], cwd=unit["cwd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    # Replaced as a whole: other processes may read it at any time.
    fresh = pid_file.with_name(f"{pid_file.name}.new")
    fresh.write_text(str(process.pid))
    fresh.replace(pid_file)


def stop(pid_file: Path) -> None:
    """SIGTERM, and after a while SIGKILL for all that it started; returns when it has ended."""
    deadline = time.monotonic() + STOP_S_MAX
    told, group = 0, set()
    while pid := running(pid_file):
        group |= below(pid)
        how = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        if pid != told or how is signal.SIGKILL:
            signal_all({pid}, how)
        told = pid
        time.sleep(0.02)
    # As systemd does with a unit's control group: what its program has started and left ends with it.
    signal_all(group, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def below(pid: int) -> set[int]:
    """A process's children, theirs, and so on, whatever sessions they have."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, left = set(), list(children.get(pid, ()))
    while left:
        found.add(child := left.pop())
        left += children.get(child, ())
    return found


def signal_all(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to these, where they have not ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def running(pid_file: Path) -> int:
    """The unit's process; 0 where it has ended. Another's that has got its number leads no session, as ours do."""
    try:
        pid = int(pid_file.read_text())
        state, _, _, session, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" or int(session) != pid else pid


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
