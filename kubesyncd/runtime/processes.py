"""Run a program with an argument list, a deadline and no input; no process of it outlives the call.

The only place that starts programs, and never through a shell. Knows no program by name.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from kubesyncd.core.text import escaped
from kubesyncd.ports import Unavailable

_KILL_S = 2.0
_OUTPUT_MAX = 64 * 1024
_DETAIL_MAX = 300


class NotStarted(Unavailable):
    """The program does not exist or cannot be executed; a retry does not help."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A program's output (the first 64 KiB of each stream) and its exit code."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line on standard error, where most programs report the error."""
        return last_line(self.err, _DETAIL_MAX)


async def run(command: tuple[str, ...], seconds: float, service: str) -> Ended:
    """Run a program to its end.

    Raises Unavailable (`service`'s) where it is missing (NotStarted) or does not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise NotStarted(service, f"{command[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(seconds):
            out, err = await asyncio.gather(_drained(process.stdout), _drained(process.stderr))
            code = await process.wait()
    except TimeoutError:
        detail = f"{' '.join(command)} has not ended within {seconds:g} s"
        raise Unavailable(service, detail) from None
    finally:
        await _reaped(process)
    return Ended(code, out, err)


async def _drained(stream: asyncio.StreamReader | None) -> str:
    """Read all of `stream` and keep its first bytes."""
    assert stream is not None
    kept = b""
    while chunk := await stream.read(_OUTPUT_MAX):
        kept = (kept + chunk)[:_OUTPUT_MAX]
    return kept.decode(errors="replace")


async def _reaped(process: asyncio.subprocess.Process) -> None:
    """Kill and reap a program that did not end: no process of its group and no zombie remains.

    A program that has ended may have left a child behind that still holds our pipes.
    """
    if process.returncode is not None and all(
        stream is None or stream.at_eof() for stream in (process.stdout, process.stderr)
    ):
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_KILL_S):
            await process.wait()


def last_line(text: str, length_max: int) -> str:
    """Return the last line of a program's output that is not blank, shortened and escaped; empty without one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return escaped(lines[-1], length_max) if lines else ""
