"""Restore old bugs, one per piece; the test that a piece names must fail.

A piece is a text: what went wrong and how it was found, `file:`, `fails:`, and after a line `----` the code as it is,
a line `====`, and the code as it was. What must fail is a test, one of a file's tests, or `storm FIRST-LAST`: one of
these seeds; each of them where several lines say so. `storm FIRST-LAST S5`: it must be S5 that one of them breaks.
`seed:` is one of them that does, played first: other code may have made it another one, and then they are all
tried. `python -m tests.sim.regressions --renew` writes it again.
`rules/` holds no bugs: each breaks a rule on purpose, and the tests of this rule must fail.
`python -m tests.sim.regressions NAME` runs one piece. A piece whose code has changed is renewed or retired
by hand.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.paths import ROOT

if TYPE_CHECKING:
    from types import CodeType

PIECES = Path(__file__).parent
# Names a piece's file to the processes that inherit the bug.
INHERITED = "KUBESYNCD_TEST_PIECE"


class Outdated(Exception):
    """The code that a piece changes is no longer there."""


@dataclass(frozen=True)
class Piece:
    """One bug, ready to come back."""

    name: str
    story: str
    file: str
    fails: tuple[str, ...]
    now: str
    then: str
    seed: int | None = None

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    def source(self) -> str:
        """The module's source with the bug in it. Raises Outdated."""
        text = (ROOT / self.file).read_text()
        if text.count(self.now) != 1:
            raise Outdated(
                f"{self.name}: its code is {text.count(self.now)} times in {self.file}; renew the piece"
            )
        return text.replace(self.now, self.then)


def pieces() -> list[Piece]:
    """All of them."""
    return [read(path.relative_to(PIECES)) for path in sorted(PIECES.rglob("*.txt"))]


def read(path: Path) -> Piece:
    """One piece, by its file below this folder."""
    head, _, change = (PIECES / path).read_text().partition("\n----\n")
    now, _, then = change.partition("\n====\n")
    lines = head.splitlines()
    (file,) = (line.removeprefix("file: ") for line in lines if line.startswith("file: "))
    fails = tuple(line.removeprefix("fails: ") for line in lines if line.startswith("fails: "))
    seeds = [int(line.removeprefix("seed: ")) for line in lines if line.startswith("seed: ")]
    story = "\n".join(line for line in lines if not line.startswith(("file: ", "fails: ", "seed: ")))
    name, seed = str(path.with_suffix("")), seeds[0] if seeds else None
    return Piece(name, story.strip(), file, fails, now, then.removesuffix("\n"), seed)


class Ghost(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Lets the bug be imported, or run by `python -m`, instead of the module."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._source = piece.source()

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != self._piece.module:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(ROOT / self._piece.file))

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, str(ROOT / self._piece.file))


def _restore(piece: Piece) -> None:
    """Let this process and the Python processes that it starts import the bug (in them: inherited/sitecustomize.py)."""
    sys.meta_path.insert(0, Ghost(piece))
    os.environ[INHERITED] = f"{piece.name}.txt"
    paths = [str(PIECES / "inherited"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def found_again(piece: Piece) -> bool:
    """Whether all that the piece names fail. To be asked once, in a process of its own."""
    _restore(piece)
    return all(_fails(what, piece.seed) for what in piece.fails)


def finding_seed(piece: Piece) -> int | None:
    """Return a seed by which a storm finds the bug, its own one if that does; None where no storm is named.

    To be asked once, in a process of its own.
    """
    _restore(piece)
    for what in piece.fails:
        if what.startswith("storm "):
            return _storm_that_fails(*what.split()[1:], first=piece.seed)
    return None


def _fails(what: str, seed: int | None = None) -> bool:
    if what.startswith("storm "):
        return _storm_that_fails(*what.split()[1:], first=seed) is not None
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"-c{ROOT}/pyproject.toml"]
    return pytest.main([*options, str(ROOT / what)]) == pytest.ExitCode.TESTS_FAILED


def _storm_that_fails(seeds: str, promise: str = "", first: int | None = None) -> int | None:
    from tests.sim import storm

    lowest, _, last = seeds.partition("-")
    for seed in (*([] if first is None else [first]), *range(int(lowest), int(last) + 1)):
        for broken in storm.play(seed).failures:
            print(f"storm {seed}: {broken}")
            if broken.startswith(f"{promise}: " if promise else ""):
                return seed
    return None
