"""Run a program of ours and end it with SIGKILL after its n-th effect.

    python -m tests.lab.crash_points EFFECTS[@SIGUSR1] MODULE [ARGUMENT…]

An effect is a changing request to Docker or Kubernetes, a file replaced or removed, a change by systemctl, a row
written to Redis, a hook run. With `@SIGUSR1`, those before that signal do not count: what a program does at its start
belongs to no scenario. The product has no code for this.
"""

from __future__ import annotations

import functools
import inspect
import os
import runpy
import signal
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

from kubesyncd.adapters.hooks import HookFolders
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.adapters.systemd import SystemdUnits
from kubesyncd.reboot import context_backup
from kubesyncd.runtime import state_files

if TYPE_CHECKING:
    from collections.abc import Callable

EFFECTS = (
    (state_files, "atomic_write"),
    (state_files.StateFile, "forget"),
    (context_backup, "atomic_write"),
    (SystemdUnits, "_change"),
    (RedisStore, "write_row"),
    (HookFolders, "run"),
)


def count_effects(effect: Callable[[], None], replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have `effect` called after each effect of this process. `replace` sets an attribute."""
    for owner, name in EFFECTS:
        replace(owner, name, _counted(getattr(owner, name), effect))
    request = aiohttp.ClientSession._request

    async def changing(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        response = await request(self, method, *arguments, **options)
        if method.upper() not in ("GET", "HEAD"):
            effect()
        return response

    replace(aiohttp.ClientSession, "_request", changing)


def _counted(call: Callable[..., Any], effect: Callable[[], None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(call):

        @functools.wraps(call)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            result = await call(*arguments, **options)
            effect()
            return result

        return awaited

    @functools.wraps(call)
    def called(*arguments: Any, **options: Any) -> Any:
        result = call(*arguments, **options)
        effect()
        return result

    return called


def die_after(effects: int, *, on_signal: bool = False) -> Callable[[], None]:
    """To be called after each effect; ends the process at the last of so many. `on_signal`: counts from SIGUSR1 on."""
    left = iter(range(effects, 0, -1))
    counts = [not on_signal]
    if on_signal:
        signal.signal(signal.SIGUSR1, lambda *_: counts.append(True))

    def count() -> None:
        if counts[-1] and next(left, 1) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


if __name__ == "__main__":
    number, _, on = sys.argv[1].partition("@")
    count_effects(die_after(int(number), on_signal=on == "SIGUSR1"))
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
