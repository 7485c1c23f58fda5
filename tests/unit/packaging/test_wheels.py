"""Check that the packages contain each Python package that the daemon and the operators' command reach."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kubesyncd
from tests.paths import ROOT
from tests.system.installed_switch import DEFAULT_SUITE, SUITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.installed_fixtures import Packages

HOUSE = Path(kubesyncd.__file__).parent
REACHED = ("api_client", "configuration", "exceptions", "rest")
# The only functions of the reached modules that use an unreached library.
PASSWORDS, TIMES = "get_basic_auth_token", {"__deserialize_date", "__deserialize_datetime"}

# Import each module of the daemon and send a request, in a process where the modules in argv do not exist.
DAEMON = """
import asyncio, importlib, importlib.abc, json, pkgutil, sys

operators = {"click", "jinja2", "markupsafe", "rich"}
absent = {*sys.argv[1].split(), *operators}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from kubesyncd.runtime import lean_imports
lean_imports.load()
import kubesyncd
for found in pkgutil.walk_packages(kubesyncd.__path__, "kubesyncd."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        # What only the operators' command imports, and the daemon does without.
        if str(error.name or error).partition(".")[0] not in operators:
            raise

from aiohttp import web
from kubesyncd.adapters.kube_connection import ApiClient, Configuration

async def main():
    async def answer(request):
        return web.json_response({"asked": await request.json()})
    application = web.Application()
    application.router.add_patch("/api/v1/nodes/{name}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    client = ApiClient(Configuration(host=f"http://{host}:{port}"))
    response = await client.call_api(
        "/api/v1/nodes/{name}", "PATCH", path_params={"name": "switch1"}, body={"metadata": {}},
        header_params={"Content-Type": "application/merge-patch+json"}, _preload_content=False,
    )
    print(json.dumps(json.loads(await response.read())))
    await client.close()
    await runner.cleanup()

asyncio.run(main())
print(*sorted({name.partition(".")[0] for name, module in sys.modules.items()
    if "site-packages" in (getattr(module, "__file__", None) or "")}))
"""


# Import each module of the operators' command with all that it imports later, and draw a table.
OPERATORS = """
import ast, importlib, pathlib, pkgutil
import kubesyncd.cli
for found in pkgutil.walk_packages(kubesyncd.cli.__path__, "kubesyncd.cli."):
    module = importlib.import_module(found.name)
    for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            try:
                theirs = importlib.import_module(node.module)
            except ImportError as error:
                # The Kubernetes library is a package of its own.
                assert "kubesyncd[kube]" in str(error), error
                continue
            for name in node.names:
                hasattr(theirs, name.name) or importlib.import_module(f"{node.module}.{name.name}")
import redis.asyncio, click.shell_completion
from jinja2 import Environment
from rich.console import Console
from rich.table import Table
table = Table("é", title="[bold]\N{WASTEBASKET}[/]")
table.add_row(Environment().from_string("{% for x in (1, 2) %}{{ x }}{% endfor %}").render())
Console().print(table)
"""


def locked(name: str, suite: str = DEFAULT_SUITE) -> set[str]:
    """The names in a suite's lock file."""
    return set(re.findall(r"(?m)^([\w-]+)==", (ROOT / "packaging/suites" / suite / name).read_text()))


def unreached() -> set[str]:
    """The dependencies of the Kubernetes library that packaging/lock leaves out."""
    return set(runpy.run_path(str(ROOT / "packaging/lock"))["UNREACHED"])


def modules_of(names: set[str]) -> set[str]:
    """The top modules of some installed packages."""
    by_module = importlib.metadata.packages_distributions().items()
    normal = {module: {re.sub(r"[-_.]+", "-", name).lower() for name in found} for module, found in by_module}
    return {module for module, found in normal.items() if found & names}


def source_of(module: str) -> ast.Module:
    spec = PathFinder.find_spec("kubernetes_asyncio")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse((Path(spec.origin).parent / "client" / f"{module}.py").read_text())


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "kubernetes_asyncio.client" else [node.module or ""]


@pytest.mark.parametrize("suite", SUITES)
def test_the_locks_leave_out_the_unreached_packages_and_nothing_else(suite: str) -> None:
    daemon, cli, kube = (locked(f"{name}.lock", suite) for name in ("daemon", "cli", "kube"))
    assert not unreached() & (kube | daemon)
    assert not daemon & cli
    assert not daemon & kube
    wanted = importlib.metadata.requires("kubernetes-asyncio") or []
    direct = {re.split(r"[^\w.-]", line)[0].lower() for line in wanted}
    for name in kube | unreached():
        # tzdata is a dependency of dateutil.
        assert name in {"kubernetes-asyncio", "tzdata"} | direct, name


def test_every_suite_has_the_same_versions() -> None:
    pinned = [
        dict(
            re.findall(
                r"(?m)^([\w-]+)==(\S+)",
                "".join(file.read_text() for file in (ROOT / "packaging/suites" / suite).glob("*.lock")),
            )
        )
        for suite in SUITES
    ]
    for name in set.intersection(*map(set, pinned)):
        assert len({each[name] for each in pinned}) == 1, name


def test_the_client_library_imports_nothing_that_is_neither_locked_nor_kept_out() -> None:
    from kubesyncd.adapters.kube_lean import UNREACHED

    ours = modules_of(locked("kube.lock") | locked("daemon.lock"))
    inside = {f"kubernetes_asyncio.client.{name}" for name in (*REACHED, "models")}
    for module in REACHED:
        for name in imports_of(source_of(module)):
            if name.startswith("kubernetes_asyncio"):
                assert name in inside, f"{module} imports {name}"
            else:
                top = name.partition(".")[0]
                assert top in ours | set(sys.stdlib_module_names) or name in UNREACHED, (
                    f"{module} imports {name}"
                )


def test_an_unreached_library_is_used_only_for_passwords_and_for_times_of_models() -> None:
    users: set[str] = set()
    for module in REACHED:
        for function in ast.walk(source_of(module)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                if used & {"urllib3", "parse", "dateutil"}:
                    users.add(function.name)
    assert users == {PASSWORDS, *TIMES}


def test_every_request_is_sent_without_a_password_and_answered_without_a_model() -> None:
    requests = 0
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "call_api":
                given = {word.arg: word.value for word in node.keywords}
                kept = given["_preload_content"]
                assert isinstance(kept, ast.Constant)
                assert kept.value is False, f"{path}:{node.lineno}"
                requests += 1
            if isinstance(node, ast.keyword):
                assert node.arg not in ("auth_settings", "response_types_map"), f"{path}:{node.value.lineno}"
    assert requests == 1


def played(command: list[str]) -> list[str]:
    """Run DAEMON; return the top modules that it has imported from packages."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    answer, _, tops = ended.stdout.strip().partition("\n")
    assert answer == '{"asked": {"metadata": {}}}'
    return tops.split()


def test_the_daemon_sends_a_request_without_the_unreached_packages() -> None:
    absent = modules_of(unreached()) | {"dateutil", "urllib3", "certifi", "tzdata"}
    tops = set(played([sys.executable, "-c", DAEMON, " ".join(absent)]))
    assert {"kubernetes_asyncio", "aiohttp", "redis", "yaml"} <= tops


@pytest.mark.real("deb")
def test_the_packages_alone_are_enough_to_send_a_request(
    packages: Callable[[str], Packages], tmp_path: Path
) -> None:
    built = packages("")
    for package in (built.daemon, built.kube):
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True, timeout=180)
    tops = played(["/usr/bin/python3", "-I", "-S", "-c", path_of(tmp_path, "site-packages") + DAEMON, ""])
    assert {"kubernetes_asyncio", "aiohttp", "redis", "yaml"} <= set(tops)


@pytest.mark.real("deb")
def test_the_daemons_package_alone_is_enough_for_operators(
    packages: Callable[[str], Packages], tmp_path: Path
) -> None:
    subprocess.run(["dpkg-deb", "--extract", packages("").daemon, tmp_path], check=True, timeout=180)
    path = path_of(tmp_path, "site-packages", "cli-packages")
    command = ["/usr/bin/python3", "-I", "-S", "-X", "utf8", "-c", path + OPERATORS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "│ 12 │" in ended.stdout


def path_of(root: Path, *folders: str) -> str:
    """Code that takes imports from these folders of an unpacked package."""
    return f"import sys; sys.path += {[str(root / 'usr/lib/kubesyncd' / folder) for folder in folders]}\n"
