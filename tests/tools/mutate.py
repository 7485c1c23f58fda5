"""Put small faults into the core's source, one at a time, and run its tests against each.

Each mutant is one change of one node of a core module's syntax tree. A forked child imports the mutant instead of
the module and runs the core's tests; the first failure kills it. What no test kills is shown as before and after.
Each module's own source is run first: if its tests fail, they would kill every mutant, and prove nothing.
`python -m tests.tools.mutate [--module planner] [--sample 200]`; less than 95 % killed is a failure, of a sample: more
survivors than chance explains.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGE = ROOT / "kubesyncd" / "core"
# `descriptions` declares types only: mypy checks them, and no test can.
CORE = tuple(sorted({path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "descriptions"}))
# The tests of plans, the likeliest killers first.
PLANS = (
    "core/test_planner", "core/test_foresee", "core/test_leaving", "core/test_failed_action", "core/test_docker_start",
    "core/test_gate", "core/test_way_back", "core/test_stray", "core/test_conditions", "core/test_crash_window",
    "core/test_restart_policy", "core/test_asked_start", "core/test_unverified",
    "core/test_health", "core/test_verbs",
)  # fmt: skip
# Who judges a module: its own tests, and those of what is built right on it.
TESTS = {
    "absorb": ("core/test_record", "core/test_registration", *PLANS),
    "actions": PLANS,
    "asked_start": ("core/test_asked_start",),
    "certificate_life": ("core/test_certificate_life",),
    "conditions": (
        "core/test_conditions",
        "core/test_way_back",
        "core/test_gate",
        "core/test_stray",
        "core/test_restart_policy",
    ),
    "config_load": ("core/test_config_load",),
    "unverified": ("core/test_unverified",),
    "revision": ("core/test_revision", "core/test_unverified"),
    "fallback_history": ("core/test_fallback_history", "features/test_fallback_keeper"),
    "failed_action": ("core/test_failed_action", "features/test_failed_actions", *PLANS),
    "feature_label": PLANS,
    "gate": ("core/test_gate", *PLANS),
    "health": ("core/test_health", "core/test_crash_window", "core/test_record"),
    "host": ("core/test_host",),
    "image_model": ("images/test_policy",),
    "inputs": PLANS,
    "kube_names": ("core/test_kube_names",),
    "label_queue": ("core/test_labels",),
    "labels": ("core/test_labels",),
    "model": ("core/test_model", "adapters/test_db_schema"),
    "node_condition": ("core/test_node_condition", "cluster/test_node_health"),
    "node_name": ("core/test_node_name",),
    "observation": ("core/test_record", *PLANS),
    "parse": ("core/test_model", "adapters/test_db_schema"),
    "plan_end": PLANS,
    "plan_kube": PLANS,
    "plan_local": PLANS,
    "planner": (*PLANS, "core/test_registration"),
    "protocol": ("core/test_protocol",),
    "reasons": (
        "core/test_reasons",
        "core/test_crash_window",
        "core/test_way_back",
        "core/test_failed_action",
        "core/test_docker_start",
        "core/test_planner",
    ),
    "record": ("core/test_record", "core/test_registration", *PLANS),
    "registration": ("core/test_registration",),
    "setting_range": ("core/test_setting_range",),
    "setting_rules": ("test_settings",),
    "setting_text": ("test_settings",),
    "setting_values": ("test_settings",),
    "saved_features": ("features/test_table_restorer",),
    "state": ("core/test_state", "core/test_planner"),
    "stray": ("core/test_stray", "core/test_gate"),
    "text": ("core/test_text",),
    "verbs": (
        "core/test_verbs",
        "core/test_docker_start",
        "core/test_failed_action",
        "core/test_conditions",
        "core/test_registration",
    ),
}
SLOW = "interrupted or restart_changes_nothing"
TARGET = 0.95
# Of processor time: on a busy machine a slow test is not a mutant that never ends.
CPU_S_MAX = 240

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change: the module's whole source with it, and what it is."""

    module: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"kubesyncd/core/{self.module}.py:{self.line}: {self.before}  ->  {self.after}"


# ---- making mutants -----------------------------------------------------------------------------


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module's source."""
    tree = ast.parse(source)
    for node in _mutable(tree):
        for after in variants(node):
            line = node.lineno  # type: ignore[attr-defined]
            yield Mutant(module, line, _short(node), _short(after), _replaced(tree, node, after))


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be mistaken for."""
    if isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
        return
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARE:
            yield _with(node, ops=[_COMPARE[type(op)](), *node.ops[1:]])
        case ast.BoolOp():
            yield from _other_conditions(node)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.If(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield _with(node, value=ast.Constant(None))
        case ast.Call(func=ast.Name(id=name)):
            yield from _other_calls(node, name)
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()


def _other_constants(value: object) -> Iterator[ast.AST]:
    """Sentences are for people, and the golden file's business."""
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and value and " " not in value:
        yield ast.Constant(f"{value}X")


def _other_calls(node: ast.Call, name: str) -> Iterator[ast.AST]:
    if name in _CALLS:
        yield _with(node, func=ast.Name(_CALLS[name], ast.Load()))
    for i in range(len(node.keywords) if name == "replace" else 0):
        yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])


def _other_conditions(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    for i in range(len(node.values)):
        rest = [*node.values[:i], *node.values[i + 1 :]]
        yield rest[0] if len(rest) == 1 else _with(node, values=rest)


def _with(node: Any, **fields: Any) -> Any:
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _prose(node: ast.AST) -> bool:
    """Docstrings, and code for mypy only, are not mutated."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _mutable(tree: ast.Module) -> list[ast.AST]:
    """The nodes worth mistaking. Types are mypy's business, decorators are checked in the source."""
    kept: list[ast.AST] = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop(0)
        if _prose(node):
            continue
        kept.append(node)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                todo += [
                    each
                    for each in (value if isinstance(value, list) else [value])
                    if isinstance(each, ast.AST)
                ]
    return [node for node in kept if hasattr(node, "lineno")]


def _replaced(tree: ast.Module, node: ast.AST, after: ast.AST) -> str:
    """The source with `after` in the place of `node`."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            places = value if isinstance(value, list) else [value]
            for i, each in enumerate(places):
                if each is node:
                    after = ast.copy_location(after, node)
                    if isinstance(value, list):
                        value[i] = after
                    else:
                        setattr(parent, name, after)
                    try:
                        return ast.unparse(ast.fix_missing_locations(tree))
                    finally:
                        if isinstance(value, list):
                            value[i] = node
                        else:
                            setattr(parent, name, node)
    raise AssertionError("every node has a place")


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 90 else f"{text[:87]}..."


# ---- killing them -------------------------------------------------------------------------------


class _Impostor(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets a mutant be imported instead of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != f"kubesyncd.core.{self._mutant.module}":
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=f"{PACKAGE}/{self._mutant.module}.py")

    def exec_module(self, module: Any) -> None:
        exec(compile(self._mutant.source, module.__spec__.origin, "exec"), module.__dict__)


def tests_of(module: str) -> Iterator[list[str]]:
    """Arguments for pytest, the likeliest killers first, those that take seconds last."""
    # A module's own tests come first, and may be among the tests of plans too.
    for name in dict.fromkeys(TESTS[module]):
        yield [f"{ROOT}/tests/unit/{name}.py", "-k", f"not ({SLOW})"]
    if "core/test_planner" in TESTS[module]:
        yield [f"{ROOT}/tests/unit/core/test_planner.py", "-k", SLOW]


def hunt(mutant: Mutant, folder: Path) -> int:
    """In a forked child, with a folder for the tests' files: 0 where every test passes, which is bad."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    sys.meta_path.insert(0, _Impostor(mutant))
    options = [
        "-x",
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder}",
        f"--rootdir={ROOT}",
        f"-c{ROOT}/pyproject.toml",
    ]
    for arguments in tests_of(mutant.module):
        if pytest.main([*options, *arguments]) not in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            return 1
    return 0


def survivors(hunted: Sequence[Mutant], processes: int) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, and whether it was killed, as soon as that is known."""
    running: dict[int, Mutant] = {}
    waiting = list(reversed(hunted))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        while waiting or running:
            while waiting and len(running) < processes:
                mutant = waiting.pop()
                child = os.fork()
                if child == 0:
                    os._exit(_guarded(mutant, Path(folder, str(os.getpid()))))
                running[child] = mutant
            child, status = os.wait()
            shutil.rmtree(Path(folder, str(child)), ignore_errors=True)
            yield running.pop(child), status != 0


class BaselineFails(Exception):
    """The unchanged source counts as killed, so killed mutants prove nothing."""


def check_baseline(module: str, source: str) -> None:
    """Raises BaselineFails where the module's own source counts as killed."""
    # Unparsed as each mutant is.
    same = Mutant(module, 0, "nothing", "nothing", ast.unparse(ast.parse(source)))
    ((_, killed),) = survivors([same], 1)
    if killed:
        tests = ", ".join(f"tests/unit/{name}.py" for name in TESTS[module])
        raise BaselineFails(
            f"kubesyncd/core/{module}.py as it is counts as killed; run {tests} and repair what fails"
        )


def _guarded(mutant: Mutant, folder: Path) -> int:
    try:
        return hunt(mutant, folder)
    except BaseException:
        return 1


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make mutants", description="Would the tests notice a wrong core?")
    parser.add_argument("--module", choices=CORE, action="append")
    parser.add_argument("--sample", type=int, default=0, help="only so many, chosen by chance")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    chosen = parser.parse_args(argv)
    sources = {module: (PACKAGE / f"{module}.py").read_text() for module in chosen.module or CORE}
    hunted = [mutant for module, source in sources.items() for mutant in mutants(module, source)]
    if chosen.sample:
        hunted = Random(chosen.seed).sample(hunted, min(chosen.sample, len(hunted)))
    quick = settings(
        phases=[Phase.explicit, Phase.generate], database=None, deadline=None, max_examples=20, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    settings.register_profile("mutants", quick)
    settings.load_profile("mutants")
    begun, alive = time.monotonic(), 0
    for module, source in sources.items():
        try:
            check_baseline(module, source)
        except BaselineFails as failure:
            print(failure, flush=True)
            return 2
    for i, (mutant, killed) in enumerate(survivors(hunted, chosen.processes), 1):
        if not killed:
            alive += 1
            print(f"survives: {mutant}", flush=True)
        if i % 100 == 0:
            print(f"   {i} of {len(hunted)}, {alive} survive, {time.monotonic() - begun:.0f} s", flush=True)
    share = 1 - alive / len(hunted)
    print(f"{len(hunted)} mutants, {alive} survive: {share:.1%} killed, {time.monotonic() - begun:.0f} s")
    if chosen.sample:
        return 0 if may_be_chance(alive, len(hunted)) else 1
    return 0 if share >= TARGET else 1


def may_be_chance(survivors: int, hunted: int) -> bool:
    """Whether so many survivors of a sample fit a core of which `TARGET` is killed; wrongly "no" once in 1,000."""
    at_least = sum(
        math.comb(hunted, n) * (1 - TARGET) ** n * TARGET ** (hunted - n)
        for n in range(survivors, hunted + 1)
    )
    return at_least > 0.001


if __name__ == "__main__":
    sys.exit(main())
