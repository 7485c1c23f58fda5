"""Run one piece, or search the seeds of all pieces again.

`python -m tests.sim.regressions NAME`: exit code 0 where the bug is found again. `--renew [NAME …]`: write the `seed:`
lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.sim.regressions import PIECES, ROOT, Piece, finding_seed, found_again, pieces, read

SEED = re.compile(r"(?m)\nseed: .*$")


def main(argv: list[str]) -> int:
    """The command line."""
    match argv:
        case ["--renew", *names]:
            return _renew(names or [piece.name for piece in pieces()])
        case ["--seed", name]:
            print(finding_seed(_piece(name)))
            return 0
        case [name]:
            piece = _piece(name)
            print(piece.story)
            return 0 if found_again(piece) else 1
    print(__doc__, file=sys.stderr)
    return 64


def _piece(name: str) -> Piece:
    return read(Path(f"{name}.txt"))


def _renew(names: list[str]) -> int:
    """Ask a process of its own for each piece: a bug stays imported."""
    for name in names:
        if not any(what.startswith("storm ") for what in _piece(name).fails):
            continue
        command = [sys.executable, "-m", "tests.sim.regressions", "--seed", name]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        seed = said.split()[-1]
        if seed == "None":
            print(f"{name}: no storm finds it")
            return 1
        file = PIECES / f"{name}.txt"
        head, line, change = file.read_text().partition("\n----\n")
        file.write_text(f"{SEED.sub('', head)}\nseed: {seed}{line}{change}")
        print(f"{name}: seed {seed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
