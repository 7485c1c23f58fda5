"""Guide a migration from ctrmgrd: `doctor --migrate` prints what to do and does nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Failure
from kubesyncd.cli.output import print_json
from kubesyncd.cli.rules.ctrmgrd import (
    LEFTOVERS,
    SETTINGS_FILE,
    UNIT_FILE,
    Advice,
    InstalledCertificate,
    Old,
    Present,
    Way,
    advise,
    toml_value,
)
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.ports import PortError
from kubesyncd.runtime import kubeconfig, x509
from kubesyncd.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.cli.switch import Switch

FILE_BYTES_MAX = 1 << 20


def migrate(switch: Switch, *, as_json: bool) -> None:
    """Print the migration steps that are left to do on a switch that ctrmgrd has managed."""
    master = switch.redis.master()[0]
    joins = any(name.lower() == "ip" and value.strip() for name, value in master.items())
    old = Old(
        settings=_settings(_below_root(switch, SETTINGS_FILE)),
        labels=switch.redis.labels_of_ctrmgrd(),
        features=switch.redis.config_rows(),
        master=master,
        there=frozenset(path for path in LEFTOVERS if _is_left(switch, path)),
        fallback=switch.redis.fallback_history,
        certificate=_certificate(switch) if joins else None,
    )
    now = _present(switch)
    advice = list(advise(old, now))
    if as_json:
        print_json([asdict(one) for one in advice])
    else:
        click.echo("\n".join(_formatted(advice, now)))


def _below_root(switch: Switch, path: str) -> Path:
    return Path(switch.settings.paths.install_root) / path.lstrip("/")


def _present(switch: Switch) -> Present:
    """Describe what kubesyncd goes by at present."""
    settings, names = asdict(switch.settings), switch.redis.field_names.names
    try:
        cluster = switch.daemon.cluster()
    except (PortError, Declined):
        return Present(names, settings, running=False)
    return Present(names, settings, cluster.get("wished", {}))


def _is_left(switch: Switch, path: str) -> bool:
    """Return whether a file of ctrmgrd's still has an effect. Raises Unavailable.

    Its unit does while it is enabled or runs; any other, until it is a link to a file of ours.
    """
    file = _below_root(switch, path)
    if not os.path.exists(file):  # Path.exists raises where a folder cannot be searched
        return False
    if path == UNIT_FILE:
        return switch.unit_in_use(file.name)
    return "kubesyncd" not in file.resolve().parts


def _certificate(switch: Switch) -> InstalledCertificate | None:
    """Find the client certificate that SONiC has installed, and the CA that this switch trusts.

    An ordinary user may not search the folder of the first, nor read the files of the second.
    """
    kube = switch.settings.kube
    folder = Path(kube.admin_conf).parent / "credentials"
    certificate, key = folder / "restapiserver.crt", folder / "restapiserver.key"
    try:
        certificate.stat()
        key.stat()
    except PermissionError:
        return InstalledCertificate(str(certificate), hidden=str(folder))
    except OSError:
        return None
    hidden = ""
    for file in (kube.kubeconfig, kube.admin_conf):
        try:
            config = kubeconfig.parse(Path(file).read_bytes())
            named = Path(file).parent / config.ca.file
            ca = config.ca.decoded() if config.ca.inline else named.read_bytes()
            return InstalledCertificate(str(certificate), x509.key_hash(ca), file)
        except PermissionError:
            hidden = file
        except (OSError, LookupError, ValueError):
            continue
    return InstalledCertificate(str(certificate), hidden=hidden)


def _settings(file: Path) -> dict[str, Any]:
    """Read ctrmgrd's own settings; empty if it has no file. Raises Failure."""
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{file} cannot be read: {error}; correct it, or move it away") from error
    if not isinstance(found, dict):
        raise Failure(f"invalid settings in {file}; correct it, or move it away")
    return found


def _formatted(advice: list[Advice], now: Present) -> Iterator[str]:
    """Format the advice: settings by section, then commands, then information."""
    lines = sorted((one for one in advice if one.way is Way.SET), key=lambda one: one.section)
    if lines:
        yield (
            "# /etc/kubesyncd/kubesyncd.toml: replace its tables of these names, then systemctl restart kubesyncd"
        )
    for section, group in groupby(lines, lambda one: one.section):
        those = [*group]
        yield f"[{section}]"
        yield from (f"{one.text}  # {one.because}" for one in those)
        yield from _kept_keys(now, section, {one.text.partition(" = ")[0] for one in those})
    if not any(one.way in (Way.SET, Way.RUN) for one in advice):
        yield "# nothing is left to do"
    commands = [one for one in advice if one.way is Way.RUN]
    if commands:
        yield "\n# to run"
        yield from (f"{one.text}  # {one.because}" for one in commands)
    known = [one for one in advice if one.way is Way.KNOW]
    if known:
        yield "\n# to know"
        yield from (f"# {one.text} ({one.because})" for one in known)


def _kept_keys(now: Present, section: str, printed: set[str]) -> Iterator[str]:
    """Format the keys of a table that are set to something else than their default: a new table replaces it."""
    defaults = asdict(Settings())[section]
    for key, value in now.settings[section].items():
        if key not in printed and value != defaults[key]:
            yield f"{key} = {toml_value(value)}  # as it is"
