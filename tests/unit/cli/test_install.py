"""Check what the installer is told by the daemon and Redis through the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd import settings
from kubesyncd.cli.install import SwitchRows
from kubesyncd.cli.switch import Switch
from kubesyncd.core import protocol
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from tests.unit.cli.operator import Operator


def test_a_daemon_that_declines_is_unavailable_to_the_installer(bare_terminal: Operator) -> None:
    bare_terminal.daemon.replies["cluster"] = protocol.err("kubesyncd is stopping") + protocol.result(1)
    rows = SwitchRows(Switch(settings.load(bare_terminal.settings), bare_terminal.environ))
    with pytest.raises(Unavailable, match=r"it declines requests \(kubesyncd is stopping\); try again"):
        rows.daemon_answers()
