"""Check the rules of a test run: leftovers, shared work, refused flaky marks, samples."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import leftovers, sample, tiers, workers
from tests.lab.places import RUN
from tests.paths import ROOT
from tests.wait import until

TODAY = date(2026, 11, 28)


def item(name: str, *marks: pytest.MarkDecorator, folder: str = "tests") -> Any:
    """A collected test, as far as tiers look at it."""
    found = {mark.name: mark.mark for mark in marks}
    return SimpleNamespace(
        nodeid=f"{folder}/test_x.py::{name}",
        path=ROOT / folder / "test_x.py",
        iter_markers=lambda name=None: [m for m in found.values() if name in (None, m.name)],
        get_closest_marker=found.get,
    )


@pytest.mark.parametrize(
    ("marks", "folder", "tier"),
    [
        ([], "tests", "fast"),
        ([], "tests/system", "system"),
        ([pytest.mark.real("docker")], "tests", "system"),
        ([pytest.mark.system], "tests", "system"),
        ([pytest.mark.system, pytest.mark.story], "tests", "fast"),
        ([pytest.mark.twin], "tests/system", "deep"),
        ([pytest.mark.twin, pytest.mark.story], "tests/system", "fast"),
        ([pytest.mark.real("docker"), pytest.mark.story], "tests/system", "system"),
        ([pytest.mark.real("deb"), pytest.mark.deep], "tests", "deep"),
    ],
)
def test_marks_and_folder_give_the_tier(marks: list[pytest.MarkDecorator], folder: str, tier: str) -> None:
    assert tiers.tier_of(item("test_it", *marks, folder=folder)) == tier


def test_a_story_in_a_file_of_the_system_tier_is_played_in_the_fast_tier_alone() -> None:
    module = SimpleNamespace(own_markers=[pytest.mark.system.mark])
    story, other = (
        SimpleNamespace(own_markers=[*marks], path=ROOT) for marks in ([pytest.mark.story.mark], [])
    )
    for test in (story, other):
        chain = [module, test]
        test.listchain = lambda chain=chain: chain
        test.iter_markers = lambda name=None, chain=chain: (
            mark for node in chain for mark in node.own_markers if name in (None, mark.name)
        )
        test.add_marker = lambda tier, test=test: test.own_markers.append(getattr(pytest.mark, tier).mark)
    tiers.assign([story, other])
    assert {mark.name for mark in story.iter_markers()} == {"story", "fast"}
    assert [mark.name for mark in other.iter_markers()] == ["system"]
    assert [tiers.tier_of(test) for test in (story, other)] == ["fast", "system"]


def test_a_flaky_mark_is_refused_past_its_date_without_a_link_and_as_the_sixth() -> None:
    def flaky(number: int, *link: str, **until: str) -> Any:
        return item(f"test_{number}", pytest.mark.flaky(*link, **until))

    five = [flaky(number, "issue 1", until="2026-11-28") for number in range(5)]
    tiers.refuse_stale_flakes(five, TODAY)
    for refused in (
        [flaky(1, "issue 1", until="2026-11-27")],
        [flaky(1, until="2026-11-28")],
        [flaky(1, "issue 1")],
        [*five, flaky(5, "issue 1", until="2026-11-28")],
    ):
        with pytest.raises(pytest.UsageError):
            tiers.refuse_stale_flakes(refused, TODAY)


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has ended. Its name is this worker's: a process is looked for by it, in all of /proc."""
    folder = tmp_path / f"ksr-0-{os.getpid()}"
    monkeypatch.setenv(RUN, folder.name)
    monkeypatch.setattr(leftovers, "ENDING_S_MAX", 0.0)
    folder.mkdir()
    return folder


def test_a_process_and_a_file_that_stay_are_found(run_folder: Path) -> None:
    (run_folder / leftovers.BASETEMP).mkdir()
    assert leftovers.found(run_folder) == []
    # With an environment of its own, as clients have.
    with subprocess.Popen(["sleep", "600"], cwd=run_folder, env={}) as process:
        (run_folder / "kd-1").mkdir()
        try:
            # A process that has just been started does not say yet which command it is.
            until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"sleep\x00600\x00")
            (program, file) = leftovers.found(run_folder)
        finally:
            process.kill()
    assert program == f"process {process.pid}: sleep 600 "
    assert file == f"file: {run_folder}/kd-1"
    leftovers.end(run_folder)
    assert leftovers.found(run_folder) == []


def test_a_person_s_shell_in_a_run_s_folder_does_not_count_as_its_process(run_folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", "sh", "-c", "echo $$; exec sleep 600"]
    with subprocess.Popen(command, cwd=run_folder, env={}, stdin=theirs, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        try:
            assert leftovers.found(run_folder) == []
        finally:
            os.kill(pid, signal.SIGKILL)
    os.close(ours)
    os.close(theirs)


def test_folders_of_ended_runs_are_cleared_and_an_undeletable_one_blocks_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def remove(folder: Path) -> None:
        if folder.name == ended.name:
            raise PermissionError("not yours")
        folder.rmdir()

    for name in (RUN, "TMPDIR"):
        monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setattr(leftovers, "DISK", tmp_path)
    monkeypatch.setattr(leftovers, "MEMORY", tmp_path)
    # A run without workers has our number: its processes are not meant.
    monkeypatch.setattr(leftovers, "_processes", lambda _: [])
    monkeypatch.setattr(leftovers, "remove", remove)
    monkeypatch.setattr(leftovers.tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        ended = tmp_path / f"ksr-{process.pid}"
    alive, same_number = tmp_path / f"ksr-{os.getppid()}", tmp_path / f"ksr-{os.getpid()}"
    for folder in (ended, alive, same_number):
        folder.mkdir()
    assert leftovers.begin() == same_number
    assert alive.exists()
    assert f"cannot remove {ended}, which an earlier one has left: not yours" in capsys.readouterr().out


def test_a_lock_that_is_never_released_is_an_error_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with (
        workers.locked(file),
        pytest.raises(TimeoutError, match=re.escape(f"{file} has been locked for 0 s")),
        workers.locked(file, limit_s=0.0),
    ):
        pytest.fail("two have it")
    with workers.locked(file):
        pass


def test_what_all_workers_share_is_made_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    name, made = f"test-{os.getpid()}", []

    def make(folder: Path) -> str:
        if not made:
            made.append("in vain")
            raise OSError("no room")
        made.append("again")
        (folder / "x").touch()
        return "made"

    def found(folder: Path) -> str:
        assert (folder / "x").exists()
        return "found"

    def ask() -> str:
        return workers.once_per_run(tmp_path_factory, name, make, found)

    with pytest.raises(OSError, match="no room"):
        ask()
    assert [ask(), ask(), ask()] == ["made", "found", "found"]
    assert made == ["in vain", "again"]


def test_a_word_chooses_a_sample_and_another_word_another_one() -> None:
    def order(word: str) -> list[str]:
        items = [item(f"test_{number}") for number in range(20)]
        sample.order(SimpleNamespace(option=SimpleNamespace(sample_s=1.0, sample_of=word)), items)
        return [found.nodeid for found in items]

    assert order("a") == order("a")
    assert order("a") != order("b")
    assert sorted(order("a")) == sorted(order("b"))


def test_nothing_begins_once_a_sample_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sample.UNTIL, raising=False)
    sample.skip_if_over()
    monkeypatch.setenv(sample.UNTIL, "1e12")
    sample.skip_if_over()
    monkeypatch.setenv(sample.UNTIL, "0")
    with pytest.raises(pytest.skip.Exception, match=sample.NOT_PLAYED):
        sample.skip_if_over()
