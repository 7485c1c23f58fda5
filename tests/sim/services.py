"""Stand in for systemd and the FEATURE rows around the installer of services.

Files are real ones below a test's own folder. A power cut is a process that ends after one of the installer's changes.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from kubesyncd.services import definition
from kubesyncd.services.installed import read_manifests
from kubesyncd.services.installer import Installer
from kubesyncd.services.service_disk import ServiceDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kubesyncd.ports import PortError

POWER_CUT = 99
IMAGE_UNITS = "/lib/systemd/system"
# Every call that changes something.
CHANGES = frozenset(
    {"save", "make_folders", "write", "exchange", "set_aside", "sync", "put_back", "discard", "remove", "drop_folders",
     "forget", "forget_copies", "reload", "enable", "disable", "stop", "restart", "replace_feature_row"}
)  # fmt: skip


class Stepwise:
    """Wrap a port: `after_step` is called with the method's name after each change."""

    def __init__(self, port: object, after_step: Callable[[str], None]) -> None:
        self._port = port
        self._after_step = after_step

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)
        if name not in CHANGES:
            return call
        if inspect.iscoroutinefunction(call):

            async def awaited(*arguments: Any, **options: Any) -> None:
                await call(*arguments, **options)
                self._after_step(name)

            return awaited

        def called(*arguments: Any, **options: Any) -> None:
            call(*arguments, **options)
            self._after_step(name)

        return called


class PlainServices:
    """ports.ServiceUnits and ports.FeatureRows, kept in a file: what they were told outlives a power cut.

    `fails`: calls that fail from now on, with what error.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.state_dir = folder / "state"
        self._file = folder / "services.json"
        self.fails: dict[str, PortError] = {}
        for name in ("swss", "syncd"):
            self.add_image_unit(name)
        self._save(
            {
                "rows": {"swss": {"set_owner": "local"}},
                "enabled": {},
                "active": ["swss"],
                "told": [],
                "known": [],
            }
        )

    def add_image_unit(self, name: str) -> None:
        at = self.root / IMAGE_UNITS.lstrip("/") / f"{name}.service"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(f"[Service]\nExecStart=/usr/bin/{name}.sh wait\n")

    def load(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self._file.read_text())
        return loaded

    def _save(self, tree: Mapping[str, Any]) -> None:
        self._file.write_text(json.dumps(tree))

    def change(self, **news: Any) -> None:
        self._save({**self.load(), **news})

    @property
    def told(self) -> list[str]:
        found: list[str] = self.load()["told"]
        return found

    def _tell(self, what: str) -> dict[str, Any]:
        if what.split()[0] in self.fails:
            raise self.fails[what.split()[0]]
        tree = self.load()
        tree["told"].append(what)
        return tree

    def _unit(self, feature: str) -> bytes | None:
        for folder in (definition.UNIT_FOLDER, IMAGE_UNITS):
            at = self.root / folder.lstrip("/") / f"{feature}.service"
            if at.exists():
                return at.read_bytes()
        return None

    # ---- ports.ServiceUnits -------------------------------------------------------------------------

    async def has_unit(self, feature: str) -> bool:
        return self._unit(feature) is not None

    async def active(self, feature: str) -> bool:
        return feature in self.load()["active"]

    async def starts_at_boot(self, feature: str) -> bool:
        return feature in self.load()["enabled"]

    async def reload(self) -> None:
        self._save(self._tell("reload"))

    async def enable(self, feature: str) -> None:
        tree = self._tell(f"enable {feature}")
        unit = self._unit(feature)
        assert unit is not None, f"enable {feature}: there is no such unit"
        tree["enabled"][feature] = unit.decode()
        self._save(tree)

    async def disable(self, feature: str) -> None:
        tree = self._tell(f"disable {feature}")
        tree["enabled"].pop(feature, None)
        self._save(tree)

    async def stop(self, feature: str) -> None:
        tree = self._tell(f"stop {feature}")
        tree["active"] = [name for name in tree["active"] if name != feature]
        self._save(tree)

    async def restart(self, feature: str) -> None:
        tree = self._tell(f"restart {feature}")
        tree["active"] = sorted({*tree["active"], feature})
        tree["known"] = sorted({*tree["known"], feature})
        self._save(tree)

    # ---- ports.FeatureRows -------------------------------------------------------------------------

    def daemon_answers(self) -> None:
        self._tell("daemon")

    def feature_row(self, feature: str) -> dict[str, str]:
        if "look" in self.fails:
            raise self.fails["look"]
        row: dict[str, str] = self.load()["rows"].get(feature, {})
        return row

    def replace_feature_row(self, feature: str, fields: Mapping[str, str]) -> None:
        tree = self._tell(f"row {feature}")
        tree["rows"] = {**tree["rows"], feature: dict(fields)}
        if not fields:
            del tree["rows"][feature]
        self._save(tree)

    def forget(self, feature: str) -> None:
        tree = self._tell(f"forget {feature}")
        tree["known"] = [name for name in tree["known"] if name != feature]
        self._save(tree)

    # ---- for tests -----------------------------------------------------------------------------------

    def disk(self) -> ServiceDisk:
        return ServiceDisk(self.root, self.state_dir)

    def installer(self, after_step: Callable[[str], None] = lambda _: None) -> Installer:
        return Installer(
            disk=Stepwise(self.disk(), after_step),  # type: ignore[arg-type]
            units=Stepwise(self, after_step),
            rows=Stepwise(self, after_step),
            always_local=frozenset({"database"}),
        )

    def everything(self) -> object:
        """All that a user of the switch could see: files, folders, rows, what is enabled, manifests."""
        tree = self.load()
        seen: dict[str, object] = {}
        for at in sorted(self.root.rglob("*")):
            mode = stat.S_IMODE(at.stat().st_mode)
            seen[str(at.relative_to(self.root))] = (mode, at.read_bytes() if at.is_file() else None)
        return seen, tree["rows"], tree["enabled"], read_manifests(self.state_dir / "installed")

    def install(self, spec: definition.ServiceSpec, **options: Any) -> Any:
        return asyncio.run(self.installer().install(spec, definition.files(spec), **options))


def with_power_cut(services: PlainServices, work: Callable[[Installer], Any], at: int) -> bool:
    """Do `work` in a process that ends after its step number `at`; return whether it came so far."""
    child = os.fork()
    if child == 0:
        left = iter(range(at, -1, -1))

        def cut(_: str) -> None:
            if next(left) == 0:
                os._exit(POWER_CUT)

        try:
            asyncio.run(work(services.installer(cut)))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == POWER_CUT
