"""Keep the kubelet from removing this switch's images, by settings in its configuration file.

The kubelet knows its own containers only. Its image collector, and its eviction when disk space is low, would remove
the local images of stopped features and the one kept for a rollback. kubesyncd removes unneeded images by a rule that
knows them (see images.policy). All other settings of the file stay unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime import yaml_reader
from kubesyncd.runtime.state_files import BYTES_MAX, atomic_write

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "kubelet"
FILE = "config.yaml"
# The kubelet takes a high threshold of 100 % for "never", and wants the low one below it.
COLLECTOR = {"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99}
# A threshold of 0 % disables it. Setting one threshold drops the defaults of all others, so memory's is set too.
EVICTION = "evictionHard"
_DISK = ("imagefs.available", "nodefs.available", "nodefs.inodesFree")
_MEMORY = {"memory.available": "100Mi"}


class KubeletConfig:
    """`config.yaml` in the kubelet's folder, as written by kubeadm."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def wrong(self) -> tuple[str, ...]:
        """Return the settings by which the kubelet would remove kubesyncd's images. Raises Refused, Unavailable."""
        tree = self._read()
        return tuple(key for key, value in suited(tree).items() if tree.get(key) != value)

    def suit(self) -> bool:
        """Make the kubelet leave images and disk alone. Return whether a change was made, so that it needs a restart.

        Raises Refused where the file is unreadable, Unavailable.
        """
        tree = self._read()
        wanted = {**tree, **suited(tree)}
        if wanted == tree:
            return False
        try:
            mode = self.path.stat().st_mode & 0o777
            atomic_write(self.path, yaml.safe_dump(wanted, sort_keys=False).encode(), mode)
        except OSError as error:
            raise Unavailable(SERVICE, f"{self.path} cannot be written: {error.strerror}") from error
        return True

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                tree = yaml_reader.parse(file.read(BYTES_MAX))
        except FileNotFoundError:
            raise Refused(SERVICE, f"{self.path} does not exist; set [paths] kubelet_dir") from None
        except OSError as error:
            raise Unavailable(SERVICE, f"{self.path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise Refused(SERVICE, f"{self.path}: invalid YAML: {error}") from error
        if not isinstance(tree, dict):
            raise Refused(SERVICE, f"{self.path}: invalid kubelet configuration")
        return tree


def suited(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the settings to change in a configuration that is now `tree`."""
    told = tree.get(EVICTION)
    kept = told if isinstance(told, dict) else {}
    return {**COLLECTOR, EVICTION: {**_MEMORY, **kept, **dict.fromkeys(_DISK, "0%")}}
