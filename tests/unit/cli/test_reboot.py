"""Check what `reboot prepare` prints when the daemon and the undo fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core import protocol

if TYPE_CHECKING:
    from tests.unit.cli.operator import Operator

FAILED = {"grade": "fail", "what": "images", "text": "no space is left"}


def test_a_declined_undo_is_one_more_step_of_the_report(bare_terminal: Operator) -> None:
    daemon = bare_terminal.daemon
    daemon.replies["reboot-prepare"] = protocol.out(json.dumps(FAILED)) + protocol.result(0)
    daemon.replies["reboot-undo"] = protocol.err("container: the disk is full") + protocol.result(1)
    result = bare_terminal.types("reboot prepare warm")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "FAIL images: no space is left",
        "FAIL undo: the disk is full; run: kubesync reboot prepare --undo",
        "not prepared for a warm reboot: images: no space is left",
    ]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("warm", "warm"),
        ("fastfast-reboot", "warm"),
        ("express-reboot", "warm"),
        ("fast-reboot", "fast"),
        ("soft-reboot", "cold"),
    ],
)
def test_the_words_of_sonics_scripts_are_understood(bare_terminal: Operator, word: str, kind: str) -> None:
    daemon = bare_terminal.daemon
    daemon.replies["reboot-prepare"] = protocol.out(json.dumps(FAILED)) + protocol.result(0)
    daemon.replies["reboot-undo"] = protocol.out(json.dumps({**FAILED, "grade": "ok"})) + protocol.result(0)
    result = bare_terminal.types(f"reboot prepare {word}")
    assert result.stdout.splitlines()[-1].startswith(f"not prepared for a {kind} reboot: ")


def test_another_word_gets_those_that_are_understood(bare_terminal: Operator) -> None:
    result = bare_terminal.types("reboot prepare halt")
    assert result.exit_code == protocol.EXIT_USAGE
    assert "'fastfast-reboot'" in result.stderr
    assert bare_terminal.types("reboot prepare").exit_code == protocol.EXIT_USAGE
