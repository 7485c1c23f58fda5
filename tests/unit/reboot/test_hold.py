"""Check that another boot removes the hold and applies the stored preparation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from kubesyncd.core.absorb import absorb
from kubesyncd.core.model import Mode
from kubesyncd.core.record import Record, local_wanted
from kubesyncd.core.verbs import Start, accept
from kubesyncd.reboot.hold import Kind, PreparedReboot, begin_boot, decode, encode, invalid_kind, kind_of
from kubesyncd.runtime.state_files import StateFile
from tests.unit.core.given import KUBE_CONFIG, NOW, TIMING, granted, kube, local, look, observed

if TYPE_CHECKING:
    from pathlib import Path

LOG = structlog.get_logger()
NOTE = PreparedReboot("warm", "boot-1", ("lldp", "snmp"))


@pytest.fixture
def hold(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "hold")


@pytest.fixture
def promised(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "promised")


def test_the_boot_that_made_it_keeps_it_and_any_other_lifts_it(hold: StateFile, promised: StateFile) -> None:
    hold.save(encode(NOTE))
    assert begin_boot(hold, promised, "boot-1", LOG) == frozenset()
    assert hold.load() is not None
    assert begin_boot(hold, promised, "boot-2", LOG) == {"lldp", "snmp"}
    assert hold.load() is None
    assert begin_boot(hold, promised, "boot-2", LOG) == {"lldp", "snmp"}, "a restart of the daemon"
    assert begin_boot(hold, promised, "boot-3", LOG) == frozenset(), "the promise was for one boot"


def test_a_power_cut_before_the_hold_is_lifted_is_just_another_start(
    hold: StateFile, promised: StateFile
) -> None:
    hold.save(encode(NOTE))
    promised.save(encode(PreparedReboot("warm", "boot-2", NOTE.fallback)))
    assert begin_boot(hold, promised, "boot-3", LOG) == {"lldp", "snmp"}
    assert hold.load() is None


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"{}", b'{"kind": 1, "boot_id": 2}', b"\xff", b"null"])
def test_a_hold_created_manually_stays_until_an_operator_removes_it(
    hold: StateFile, promised: StateFile, data: bytes
) -> None:
    hold.save(data)
    assert begin_boot(hold, promised, "boot-2", LOG) == frozenset()
    assert hold.load() == data


def test_a_note_survives_its_file_and_hostile_names_do_not() -> None:
    assert decode(encode(NOTE)) == NOTE
    assert decode(encode(PreparedReboot("warm", "b", ("../x", "snmp")))).fallback == ("snmp",)


def test_a_full_disk_keeps_the_kubelet_off_and_the_promise_all_the_same(
    hold: StateFile, tmp_path: Path
) -> None:
    hold.save(encode(NOTE))
    (tmp_path / "file").write_text("")
    unwritable = StateFile(tmp_path / "file" / "promised")
    assert begin_boot(hold, unwritable, "boot-2", LOG) == {"lldp", "snmp"}
    assert hold.load() is not None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        # REBOOT_TYPE and SONIC_BOOT_TYPE in fast-reboot (warm-reboot and express-reboot are links to it), reboot and
        # soft-reboot.
        (Kind.WARM, "warm-reboot warm fastfast-reboot fastfast express-reboot express"),
        (Kind.FAST, "fast-reboot fast"),
        (Kind.COLD, "reboot cold soft-reboot soft cold-reboot"),
    ],
)
def test_each_word_of_sonic_is_a_kind_of_reboot(kind: Kind, words: str) -> None:
    assert {kind_of(word) for word in words.split()} == {kind}


@pytest.mark.parametrize("word", ["", "Warm", "warmreboot", "halt", "-reboot"])
def test_any_other_word_gets_a_list_of_those_that_are(word: str) -> None:
    assert kind_of(word) is None
    for known in ("fastfast-reboot", "express-reboot", "soft-reboot"):
        assert known in invalid_kind(word)


def test_after_a_prepared_reboot_the_local_container_starts_whatever_fallback_says() -> None:
    first = Record(boot_fallback=True)
    assert local_wanted(KUBE_CONFIG, first)
    record, seen = look(KUBE_CONFIG, first, observed(local(running=False)))
    started = accept(Start(), KUBE_CONFIG, record, seen)
    assert isinstance(started, Record)
    assert started.mode is Mode.NONE


def test_once_kube_has_shown_that_it_is_there_the_operators_setting_rules_again() -> None:
    record = granted(proven=False, granted_at=NOW - TIMING.kube_stable_s, boot_fallback=True)
    record = absorb(record, KUBE_CONFIG, observed(kube()), TIMING, NOW)
    assert record.proven
    assert not local_wanted(KUBE_CONFIG, record)
