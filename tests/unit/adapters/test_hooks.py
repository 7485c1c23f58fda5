"""Tell which of the operator's programs are not run, and why, at each look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.adapters.hooks import HookFolders

if TYPE_CHECKING:
    from pathlib import Path


def test_a_program_is_left_out_with_a_reason_until_it_is_put_right(tmp_path: Path) -> None:
    folder = tmp_path / "check.d"
    folder.mkdir()
    good, bad = folder / "lldp", folder / "snmp"
    for path, mode in ((good, 0o755), (bad, 0o777)):
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    told: list[tuple[str, str]] = []
    hooks = HookFolders(tmp_path, lambda path, why: told.append((path, why)))
    assert hooks.names("check.d") == ("lldp",)
    why = "users other than root may write it; chown root and chmod 755 it"
    assert told == [(str(good), ""), (str(bad), why)]
    bad.chmod(0o755)
    assert hooks.names("check.d") == ("lldp", "snmp")
    assert told[2:] == [(str(good), ""), (str(bad), "")]
    bad.chmod(0o644)
    assert hooks.names("check.d") == ("lldp",)
    assert told[-1] == (str(bad), "it is not executable; chmod 755 it")
