"""Find the calls in a switch's scripts that miss a container of Kubernetes: `doctor --scripts` prints them."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Failure
from kubesyncd.cli.output import print_json
from kubesyncd.cli.rules.scripts import Features, check_script
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kubesyncd.cli.switch import Switch

FILE_BYTES_MAX = 1 << 20
SCRIPTS_MAX = 2_000
# Every folder that SONiC's image build installs scripts in, and the patterns of this platform's own ones.
FOLDERS = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/bin/debug-dump",
    "/usr/local/sbin",
    "/etc/resolvconf/update-libc.d",
    "/usr/share/sonic/scripts",
    "/etc/rc.local",
    "/usr/share/sonic/templates/docker_image_ctl.j2",
)
PLATFORM_SCRIPTS = ("*reboot*", "*_plugin", "plugins")
PLATFORMS = "/usr/share/sonic/device"
MACHINE_FILE = "/host/machine.conf"
# The docker front (docs/sonic.md), where an operator or image has enabled it.
FRONT = "/usr/local/bin/docker"
OURS = Path("/usr/lib/kubesyncd")
# ctrmgrd's own programs, which kubesyncd replaces as a whole, and copies that are never run.
_REPLACED = frozenset(
    {"container", "container_startup.py", "ctrmgrd.py", "ctrmgr_tools.py", "kube_commands.py"}
)
_WAITERS = frozenset({"docker-wait-any", "docker-wait-any-rs", "docker-rs"})
_COPIES = (".ctrmgrd", ".orig", ".rej", ".bak", "~", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-tmp")
HINT = (
    "Each line matters for a feature that Kubernetes runs. It works unchanged for a feature that stays local: name such"
    " features in [features] always_local, or end the line with `# docker is meant`."
)


def check_scripts(switch: Switch, paths: Iterable[Path], *, as_json: bool) -> bool:
    """Print the calls left in scripts, with replacements; return True if there are none. Raises Failure.

    Without paths, every folder that SONiC runs scripts from.
    """
    named = tuple(paths)
    root = Path(switch.settings.paths.install_root)
    local = frozenset(switch.settings.features.always_local)
    features = Features(local, _owned_by_kubernetes(switch), _is_ours(root / FRONT[1:]))
    found = [
        (path, call)
        for path in _scripts(named or _everywhere(root))
        for call in check_script(_text(path), path.name, features)
    ]
    if as_json:
        print_json([{"file": str(path), **asdict(call)} for path, call in found])
        return not found
    for path, call in found:
        click.echo(f"{path}:{call.line}: {call.text}\n    instead: {call.instead}")
    click.echo(f"\n{HINT}" if found else "no docker calls left")
    return not found


def _owned_by_kubernetes(switch: Switch) -> frozenset[str] | None:
    """Return the features with owner kube; None while Redis does not say."""
    try:
        rows = switch.redis.config_rows()
    except PortError:
        return None
    return frozenset(name for name, row in rows.items() if row.get("set_owner", "").strip().lower() == "kube")


def _everywhere(root: Path) -> tuple[Path, ...]:
    fixed = [path for path in (root / name[1:] for name in FOLDERS) if path.exists()]
    platform = _platform(root / MACHINE_FILE[1:])
    folder = root / PLATFORMS[1:] / platform
    own = (sorted(folder.glob(pattern)) for pattern in PLATFORM_SCRIPTS) if platform else ()
    return (*fixed, *(path for found in own for path in found))


def _platform(machine: Path) -> str:
    """Return the name of this switch's platform, as the installer has written it; empty if unknown."""
    try:
        found = re.search(r"^(?:onie|aboot)_platform=([\w.-]+)$", machine.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def _scripts(paths: Iterable[Path]) -> list[Path]:
    """Return the files, each once; a folder stands for the scripts in it, without copies and replaced programs."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files |= dict.fromkeys(entry.resolve() for entry in sorted(path.iterdir()) if _is_run(entry))
        else:
            files[path.resolve()] = None
    if len(files) > SCRIPTS_MAX:
        raise Failure(f"{len(files)} scripts are more than {SCRIPTS_MAX}; name a smaller folder")
    return list(files)


def _is_run(entry: Path) -> bool:
    """Return whether a folder's entry is a script that the switch runs and kubesyncd does not bring."""
    name = entry.name
    if name in _REPLACED or name.endswith(_COPIES) or _is_ours(entry):
        return False
    return entry.is_file() and _is_script(entry)


def _is_ours(path: Path) -> bool:
    """Return whether the path, or what it links to, is a part or a backup of kubesyncd."""
    return "kubesync" in path.name or path.resolve().is_relative_to(OURS)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return path.suffix in (".sh", ".py", ".j2") or opened.read(2) == b"#!"
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return opened.read(FILE_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise Failure(
            f"{path} cannot be read: {error.strerror}; run it with sudo, or name another"
        ) from error
