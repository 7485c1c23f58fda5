"""Say where a virtual switch keeps its files, and write its daemon's settings."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SwitchPaths:
    """The files of one switch, all in its `folder`."""

    folder: Path

    @property
    def host_sock(self) -> Path:
        """The socket for programs of the host."""
        return self.folder / "run" / "host.sock"

    @property
    def container_sock(self) -> Path:
        """The socket for containers."""
        return self.folder / "run" / "container" / "container.sock"

    @property
    def ledger(self) -> Path:
        """What outlives the daemon, and no boot."""
        return self.folder / "run" / "features.json"

    @property
    def boot_id(self) -> Path:
        """The file with the ID of this boot."""
        return self.folder / "boot_id"

    @property
    def state(self) -> Path:
        """What outlives a boot."""
        return self.folder / "state"

    @property
    def marks(self) -> Path:
        """What the features' containers leave."""
        return self.folder / "marks"

    @property
    def settings(self) -> Path:
        """The daemon's settings."""
        return self.folder / "kubesyncd.toml"

    @property
    def systemd(self) -> Path:
        """The folder of tests/lab/systemctl.py."""
        return self.folder / "systemd"

    def make(self) -> None:
        """Make the folders."""
        for made in (self.marks, self.container_sock.parent, self.systemd / "units", self.state):
            made.mkdir(parents=True)

    def boot(self) -> None:
        """Another boot than before."""
        self.boot_id.write_text(f"{uuid.uuid4()}\n")

    def write_settings(self, *layers: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the daemon's settings: these sections, of which a later one overrides single keys."""
        sections: Sections = {
            "sockets": {"host": str(self.host_sock), "container": str(self.container_sock), "group": ""},
            "paths": {
                "state_dir": str(self.state),
                "run_dir": str(self.folder / "run"),
                "hooks_dir": str(self.folder / "hooks"),
                "carry_dir": str(self.folder / "carried"),
                "upgrade_dir": str(self.folder / "old_config"),
                "kubelet_dir": str(self.folder / "kubelet"),
                "boot_id": str(self.boot_id),
            },
        }
        for layer in layers:
            for name, section in layer.items():
                sections[name] = {**sections.get(name, {}), **section}
        # JSON's strings, numbers, booleans and lists are TOML's.
        lines = [
            line
            for name, section in sections.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()))
        ]
        self.settings.write_text("\n".join(lines) + "\n")

    def hook(self, folder: str, name: str, script: str) -> Path:
        """A hook as an operator puts it there: `script` is sh's."""
        path = self.folder / "hooks" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The daemon reads the folder at any time, and would report half a hook as invalid.
        whole = self.folder / "hook"
        whole.write_text(f"#!/bin/sh\n{script}\n")
        whole.chmod(0o755)
        return whole.rename(path)
