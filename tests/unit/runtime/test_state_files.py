"""Check that a state file holds the old content or the new one, never a part."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from kubesyncd.ports import Unavailable
from kubesyncd.runtime.state_files import DiskFile, StateFile, atomic_write


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_file_is_none_and_saved_content_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "made" / "here" / "labels.json", 0o600)
    assert file.load() is None
    file.save(b"one")
    file.save(b"two\0\xff")
    assert file.load() == b"two\0\xff"
    assert [entry.name for entry in (tmp_path / "made" / "here").iterdir()] == ["labels.json"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_is_what_was_asked_for_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "f"
    before = os.umask(umask)
    try:
        atomic_write(path, b"secret", 0o640)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o640


def test_a_missing_folder_of_a_file_for_all_can_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        StateFile(tmp_path / "run" / "in" / "for_all", 0o644, folder_mode=0o755).save(b"")
        StateFile(tmp_path / "state" / "private").save(b"")
    finally:
        os.umask(before)
    found = [mode_of(tmp_path / each) for each in ("run", "run/in", "state")]
    assert found == [0o755, 0o755, 0o700]


def test_a_reader_that_was_shut_out_is_let_in_again_by_the_next_look_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "for_all"
    for mode, wanted in ((0o644, 0o644), (0o600, 0o640)):
        StateFile(path, mode).save(b"x")
        path.chmod(0o640 if mode == 0o600 else 0o600)
        assert StateFile(path, mode).load() == b"x"
        assert mode_of(path) == wanted, "what an operator gives away stays"


def test_a_looser_mode_of_the_old_file_does_not_survive(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o666)
    atomic_write(path, b"new", 0o600)
    assert mode_of(path) == 0o600


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".f.new").write_bytes(b"half a fi")
    atomic_write(tmp_path / "f", b"whole", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_link_planted_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / ".f.new").symlink_to(victim)
    atomic_write(tmp_path / "f", b"ours", 0o600)
    assert victim.read_bytes() == b"untouched"
    assert (tmp_path / "f").read_bytes() == b"ours"


def test_a_full_disk_leaves_the_old_content_and_says_where(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "f", 0o600)
    file.save(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(Unavailable, match=r"cannot be written.*free disk space or inodes in"):
            file.save(b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.load() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_folder_in_the_way_is_unavailable_to_read_and_to_write(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    file = StateFile(tmp_path / "f", 0o600)
    with pytest.raises(Unavailable, match="cannot be read"):
        file.load()
    with pytest.raises(Unavailable, match="cannot be written"):
        file.save(b"x")


def test_an_endless_file_is_refused_without_reading_it_all() -> None:
    with pytest.raises(Unavailable, match="longer than"):
        StateFile(Path("/dev/zero"), 0o600).load()


class BusyDisk(StateFile):
    """A file on a disk that others write to: a save ends when `syncs` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.syncs = threading.Event()

    def save(self, data: bytes) -> None:
        assert self.syncs.wait(60)
        super().save(data)


async def test_a_slow_sync_blocks_no_caller_and_saves_keep_their_order(tmp_path: Path) -> None:
    disk, turns = BusyDisk(tmp_path / "labels.json"), 0
    file = DiskFile(disk)
    saves = [asyncio.create_task(file.save(str(number).encode())) for number in range(5)]
    for _ in range(100):
        await asyncio.sleep(0)
        turns += 1
    assert turns == 100
    assert not any(save.done() for save in saves)
    # A cancelled caller leaves its save behind, complete or not begun; the next save is not affected.
    saves[0].cancel()
    disk.syncs.set()
    await asyncio.wait(saves)
    assert file.load() == b"4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.json"]


async def test_a_failed_save_is_reported_to_its_caller(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"no folder")
    with pytest.raises(Unavailable, match="cannot be written"):
        await DiskFile(StateFile(tmp_path / "folder" / "labels.json")).save(b"x")


async def test_begun_writes_end_before_the_next_run_reads(tmp_path: Path) -> None:
    disk = BusyDisk(tmp_path / "hold")
    file = DiskFile(disk)
    begun = [asyncio.create_task(work) for work in (file.save(b"1"), file.forget(), file.save(b"2"))]
    settled = asyncio.create_task(file.settled())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not settled.done()
    disk.syncs.set()
    await settled
    assert file.load() == b"2"
    await asyncio.gather(*begun)
