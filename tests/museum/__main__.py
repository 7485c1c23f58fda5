"""Shows one piece at work: exit code 0 where the bug is found again."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.museum import found_again, read


def main(argv: list[str]) -> int:
    """The command line: a piece's name."""
    piece = read(Path(f"{argv[0]}.txt"))
    print(piece.story)
    return 0 if found_again(piece) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
