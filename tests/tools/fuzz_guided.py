"""Fuzz every reader with libFuzzer (atheris), which sees the code that an input reaches.

`python -m tests.tools.fuzz_guided --seconds 30` gives each reader so long, one process each, beginning with its seeds.
A finding's bytes are left in the folder that `--keep` names, and told.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.paths import ROOT

MARGIN_S = 120


def guided(name: str, folder: Path, seconds: int) -> None:
    """Fuzz one reader; never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["kubesyncd", "client"]):
        from tests.tools import fuzz

    work = folder / "work"
    work.mkdir(exist_ok=True)
    (target,) = (t for t in fuzz.targets(work) if t.name == name)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={fuzz.INPUT_BYTES_MAX}",
        "-timeout=10",
        "-rss_limit_mb=1024",
    ]
    atheris.Setup(
        [sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)],
        lambda data: fuzz.tried(target, data),
    )
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.fuzz_guided", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=int, default=30, help="for each reader")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "kubesyncd-fuzz")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.one:
        guided(chosen.one, chosen.keep, chosen.seconds)
    from tests.tools import fuzz

    with tempfile.TemporaryDirectory() as folder:
        names = [target.name for target in fuzz.targets(Path(folder))]
    return max([_one(name, chosen.keep, chosen.seconds) for name in names])


def _one(name: str, keep: Path, seconds: int) -> int:
    """Fuzz one reader in a process of its own; 0 where it has tried inputs and kept its word on each."""
    folder = keep / re.sub(r"\W+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.tools.fuzz_guided", "--one", name, "--keep", str(folder)]
    run = subprocess.run(
        [*command, "--seconds", str(seconds)],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds + MARGIN_S, check=False, env=os.environ,
    )  # fmt: skip
    done = re.findall(r"Done (\d+) runs|stat::number_of_executed_units: (\d+)", run.stderr)
    runs = max((int(a or b) for a, b in done), default=0)
    # One that says nothing of inputs has tried none; one that was killed has a negative code.
    word = "BROKEN" if run.returncode else "kept its word" if runs else "NOT TRIED"
    print(f"{runs or '?':>10} {name}: {word}", flush=True)
    if word != "kept its word":
        print(run.stderr[-3000:], flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
