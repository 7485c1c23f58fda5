"""Check that each fixed bug is detected when it is restored."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sim import regressions, storm
from tests.sim.regressions import ROOT, Outdated, Piece, pieces


@pytest.mark.parametrize("piece", pieces(), ids=lambda piece: piece.name)
def test_a_bug_can_still_be_restored(piece: Piece) -> None:
    assert piece.file.startswith("kubesyncd/"), "the client is run from its file, which no import replaces"
    compile(piece.source(), piece.file, "exec")
    for what in piece.fails:
        file, *names = what.split("::")
        if not what.startswith("storm "):
            text = (ROOT / file).read_text()
            assert all(f"def {name}(" in text or f"class {name}" in text for name in names)


@pytest.mark.deep
@pytest.mark.parametrize("piece", pieces(), ids=lambda piece: piece.name)
def test_a_bug_that_comes_back_is_found_again(piece: Piece) -> None:
    piece.source()
    run = subprocess.run(
        [sys.executable, "-m", "tests.sim.regressions", piece.name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, (
        f"one of {', '.join(piece.fails)} does not notice:\n"
        f"{piece.story}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
    )


def test_a_regression_whose_code_has_changed_is_reported() -> None:
    piece = Piece(
        "x", "", "kubesyncd/core/protocol.py", ("tests/unit/core/test_protocol.py",), "no such line", ""
    )
    with pytest.raises(Outdated, match="0 times in kubesyncd/core/protocol"):
        piece.source()


def test_a_storm_that_breaks_another_promise_than_the_named_one_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {1: (), 2: ("L1: it never comes to rest",), 3: ("S1: two",)}
    monkeypatch.setattr(storm, "play", lambda seed: storm.Told(seed, "", failures=told[seed]))
    assert regressions._fails("storm 1-2")
    assert regressions._fails("storm 1-3 S1")
    assert not regressions._fails("storm 1-3 S10")
    assert not regressions._fails("storm 1-1")
    assert "storm 2: L1: it never comes to rest" in capsys.readouterr().out
