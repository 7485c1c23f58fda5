"""Check that our commands load into sonic-utilities and leave its own commands unchanged."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from kubesyncd.cli.root import root as kubesync
from tests.lab import sonic_utilities
from tests.lab.sonic_utilities import CLICKS, Loader, click_of, command, group
from tests.paths import ROOT
from tests.unit.cli.operator import Operator, is_golden

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_S = 180.0

PLUGIN = """
from kubesyncd.cli.plugins.{command}_kubesyncd import register as extend
from tests.unit.cli.test_plugins import in_here

def register(cli):
    extend(cli, run=in_here)
"""


def in_here(words: Sequence[str]) -> None:
    """What `kubesync <words>` does, without a process of its own."""
    kubesync.main(list(words), prog_name="kubesync")


def plugin_folder(site: Path, name: str) -> Path:
    """A folder for plugins, which holds a broken one of another package."""
    folder = site / name / "plugins"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "zz_broken.py").write_text("def register(cli):\n    raise RuntimeError('broken')\n")
    return folder


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that installs one of our plugins and loads it into a root."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    # What runs `kubesync` finds this checkout's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def plug(root: click.Group) -> Loader:
        where = f"sonic_{root.name}"
        folder = plugin_folder(tmp_path / "site", where)
        (folder / "kubesyncd.py").write_text(PLUGIN.format(command=root.name))
        importlib.invalidate_caches()
        loader = Loader()
        loader.load(importlib.import_module(f"{where}.plugins"), root)
        for name in [name for name in sys.modules if name.startswith(where)]:
            del sys.modules[name]
        return loader

    return plug


class Sonic:
    """A terminal with sonic-utilities' root command."""

    def __init__(self, root: click.Group, operator: Operator) -> None:
        self.root = root
        self.operator = operator

    def types(self, line: str) -> Any:
        return CliRunner(env=self.operator.environ).invoke(self.root, line.split(), prog_name=self.root.name)


@pytest.fixture
def config(terminal: Operator, plugged: Any) -> Sonic:
    root = sonic_utilities.config()
    assert plugged(root).problems == ["failed to import plugin sonic_config.plugins.zz_broken: broken"]
    return Sonic(root, terminal)


@pytest.fixture
def show(terminal: Operator, plugged: Any) -> Sonic:
    root = sonic_utilities.show()
    plugged(root)
    return Sonic(root, terminal)


def test_a_feature_is_configured_under_sonics_config(config: Sonic) -> None:
    result = config.types("feature bgp owner kube fallback true -y")
    assert result.exit_code == 0, result.output
    row = config.operator.configured("FEATURE|bgp")
    assert (row["set_owner"], row["fallback_to_local"]) == ("kube", "true")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("feature owner bgp kube", "sonic owner ['bgp', 'kube']"),
        ("feature state bgp enabled", "sonic state ['bgp', 'enabled']"),
        ("feature auto bgp enabled", "sonic autorestart ['bgp', 'enabled']"),
        ("kdump", "sonic kdump []"),
        ("kubernetes theirs", "sonic theirs []"),
        ("kubernetes server theirs x", "sonic theirs ['x']"),
    ],
)
def test_every_command_of_sonics_config_stays_what_it_was(config: Sonic, line: str, answer: str) -> None:
    result = config.types(line)
    assert (result.exit_code, result.stdout) == (0, f"{answer}\n")


def test_fallback_is_ours_because_sonics_writes_what_ctrmgrd_takes_for_the_opposite(config: Sonic) -> None:
    config.operator.write_settings(schema="sonic")
    config.operator.configure("FEATURE|bgp", no_fallback_to_local="false")
    assert config.types("feature fallback bgp on").exit_code == 0
    assert "no_fallback_to_local" not in config.operator.configured("FEATURE|bgp")
    assert config.types("feature fallback bgp off").exit_code == 0
    assert config.operator.configured("FEATURE|bgp")["no_fallback_to_local"] == "true"


def test_the_master_is_ours_to_configure_under_both_names(config: Sonic) -> None:
    assert config.types("kube server ip 10.9.9.9").exit_code == 0
    assert config.types("kubernetes server insecure on").exit_code == 0
    row = config.operator.configured("KUBERNETES_MASTER|SERVER")
    assert (row["IP"], row["insecure"]) == ("10.9.9.9", "True")


def test_a_label_goes_to_our_daemon_not_into_an_unused_table(config: Sonic) -> None:
    assert config.types("kubernetes label add rack a7").stdout == "rack=a7: applied\n"


def test_errors_under_sonics_config_are_our_one_line_and_code(config: Sonic) -> None:
    result = config.types("feature bgp owner docker")
    assert result.exit_code == 64
    assert result.stderr.startswith(
        "kubesync: invalid owner 'docker': must be local or kube; type: kubesync config feature NAME"
    )
    config.operator.daemon.stop()
    result = config.types("kube label add rack a7")
    assert (result.exit_code, result.stderr.count("\n")) == (69, 1)


def test_a_typing_error_in_sonics_own_command_stays_sonics(config: Sonic) -> None:
    assert config.types("feature state bgp").exit_code == 2


def test_a_root_without_any_group_of_these_names_gets_ours(terminal: Operator, plugged: Any) -> None:
    root = group("config")
    plugged(root)
    sonic = Sonic(root, terminal)
    assert sonic.types("feature bgp owner kube -y").exit_code == 0
    assert sonic.types("feature owner bgp local").exit_code == 0
    assert sonic.types("kubernetes server ip 10.9.9.9").exit_code == 0


def test_a_command_where_we_expect_a_group_is_left_alone(terminal: Operator, plugged: Any) -> None:
    root = group("config", command("feature"), command("kubernetes"))
    assert len(plugged(root).problems) == 1
    sonic = Sonic(root, terminal)
    assert sonic.types("feature").stdout == "sonic feature []\n"
    assert sonic.types("kube server ip 10.9.9.9").exit_code == 0


def test_show_feature_alone_is_our_table(show: Sonic) -> None:
    result = show.types("feature")
    assert result.exit_code == 0, result.output
    is_golden("show_feature", result.stdout)
    assert show.types("feature --json").stdout.startswith("[")


def test_show_feature_with_a_name_is_ours(show: Sonic) -> None:
    is_golden("show_feature_snmp", show.types("feature snmp").stdout)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("feature status", "sonic status [None]"),
        ("feature status snmp", "sonic status ['snmp']"),
        ("feature stat snmp", "sonic status ['snmp']"),
        ("feature config snmp", "sonic config ['snmp']"),
        ("version", "sonic version []"),
        ("kubernetes theirs", "sonic theirs []"),
        ("kubernetes server config", "sonic config []"),
        ("kubernetes server status", "sonic status []"),
    ],
)
def test_every_command_of_sonics_show_stays_what_it_was(show: Sonic, line: str, answer: str) -> None:
    result = show.types(line)
    assert (result.exit_code, result.stdout) == (0, f"{answer}\n")


@pytest.mark.parametrize("name", ["kube", "kubernetes", "kub", "ku"])
def test_show_kubernetes_is_ours_under_both_names_and_what_they_begin_with(show: Sonic, name: str) -> None:
    is_golden("show_kubernetes_server", show.types(f"{name} server").stdout)
    is_golden("show_kubernetes_status", show.types(f"{name} status").stdout)


@pytest.mark.parametrize(
    "line", ["feature", "feature --json", "feature snmp", "kubernetes server", "kube status"]
)
def test_without_what_it_asks_show_says_so_in_one_line(show: Sonic, line: str) -> None:
    show.operator.daemon.stop()
    show.operator.write_settings(url="unix:///nowhere/redis.sock")
    result = show.types(line)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (69, "", 1)
    assert result.stderr.startswith("kubesync: ")


# ---- in sonic-utilities' own Python ----------------------------------------------------------------

# As the redis of SONiC's images: older than what we need, and found first.
OLD_REDIS = "__version__ = '3.5.3'\nclass Redis:\n    pass\n"


@pytest.fixture(params=["ours", *CLICKS])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What sonic-utilities' Python finds before anything of ours: their plugins, their click, their redis."""
    folder = tmp_path / "site"
    for command_name in ("config", "show"):
        plugins = plugin_folder(folder, command_name)
        (plugins / "zz_broken.py").unlink()
        shipped = (ROOT / "packaging/plugins" / f"{command_name}.py").read_text()
        (plugins / "kubesyncd.py").write_text(shipped)
    (folder / "redis.py").write_text(OLD_REDIS)
    if request.param != "ours":
        (folder / "click").symlink_to(old_click(request.param))
    return folder


def old_click(version: str) -> Path:
    """The click that sonic-utilities pin; skips the test where it is missing."""
    found = click_of(version)
    if found is None:
        pytest.skip(f"click {version} is not there; bring it by: make engines")
    return found


def types(
    operator: Operator, site: Path, line: str, answer: str = "", path: str = ""
) -> subprocess.CompletedProcess[str]:
    """A command line of sonic-utilities, as a process; `path`: where programs are found."""
    path = path or f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "tests.lab.sonic_utilities", str(site), *line.split()],
        env={**os.environ, **operator.environ, "PATH": path},
        cwd=ROOT,
        input=answer,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_our_commands_run_beside_whatever_click_and_redis_sonic_has(terminal: Operator, site: Path) -> None:
    shown = types(terminal, site, "show feature")
    assert (shown.returncode, shown.stderr) == (0, "")
    is_golden("show_feature", shown.stdout)
    is_golden("show_feature_snmp", types(terminal, site, "show feature snmp").stdout)
    is_golden("show_kubernetes_server", types(terminal, site, "show kube server").stdout)
    assert types(terminal, site, "show kubernetes server --json").stdout.startswith("{")
    assert types(terminal, site, "show kubernetes server config").stdout == "sonic config []\n"
    asked = types(terminal, site, "config feature bgp owner kube", "y\n")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.endswith("Go on? [y/N]: bgp: set_owner=kube\n")
    assert terminal.configured("FEATURE|bgp")["set_owner"] == "kube"
    missing = types(terminal, site, "config kube label add rack")
    assert (missing.returncode, missing.stdout) == (64, "")
    assert missing.stderr.endswith("; type: config kube label add KEY VALUE\n")
    assert types(terminal, site, "config kubernetes label drop no/such/key").returncode == 64
    assert types(terminal, site, "config load_minigraph").stdout == "sonic load_minigraph []\n"
    assert (terminal.folder / "state/feature-table.json").exists()


def test_without_kubesync_a_command_of_ours_says_so_and_theirs_work(terminal: Operator, site: Path) -> None:
    for line, code, out, errors in (
        ("show feature", 69, "", 1),
        ("show feature status", 0, "sonic status [None]\n", 0),
        ("config load_minigraph", 0, "sonic load_minigraph []\n", 1),
    ):
        ended = types(terminal, site, line, path="/nowhere")
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (code, out, errors), line


def test_what_sonic_loads_of_ours_needs_no_library_but_click(tmp_path: Path) -> None:
    # One that were imported here would be ours where theirs is missing, or theirs where ours is needed.
    for name in ("redis", "hiredis", "rich", "aiohttp", "yaml", "jinja2", "structlog", "aiodocker"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import click\n"
        "from kubesyncd.cli.plugins import config_kubesyncd, show_kubesyncd\n"
        "for p in (config_kubesyncd, show_kubesyncd): p.register(click.Group('x'))\n"
        "print('asyncio' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=True
    )
    assert run.stdout == "False\n"


# ---- commands that create CONFIG_DB again ---------------------------------------------------------


@pytest.fixture
def minigraph(terminal: Operator, plugged: Any) -> Sonic:
    """A terminal whose `config` has a load_minigraph, which forgets an owner and fails with `--fail`."""

    def load(fail: bool) -> None:
        if fail:
            raise click.Abort
        terminal.configure("FEATURE|snmp", set_owner="local")
        click.echo("sonic load_minigraph")

    options = [click.Option(["--fail"], is_flag=True)]
    root = group("config", click.Command("load_minigraph", callback=load, params=options))
    plugged(root)
    return Sonic(root, terminal)


def test_a_feature_s_owner_survives_sonics_load_minigraph(minigraph: Sonic) -> None:
    minigraph.operator.configure("FEATURE|snmp", set_owner="kube", state="enabled")
    result = minigraph.types("load_minigraph")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "sonic load_minigraph\n", "")
    assert minigraph.operator.configured("FEATURE|snmp")["set_owner"] == "kube"


def test_a_table_of_an_aborted_load_is_not_restored_later(minigraph: Sonic) -> None:
    minigraph.operator.configure("FEATURE|snmp", set_owner="kube")
    assert minigraph.types("load_minigraph --fail").exit_code == 1
    saved = json.loads((minigraph.operator.folder / "state/feature-table.json").read_text())
    assert (saved["armed"], saved["rows"]["snmp"]["set_owner"]) == (False, "kube")


def test_nothing_of_ours_stands_in_the_way_of_a_load(minigraph: Sonic) -> None:
    minigraph.operator.configure("FEATURE|snmp", set_owner="kube")
    minigraph.operator.settings.write_text("[paths]\nstate_dir = 5\n")
    result = minigraph.types("load_minigraph")
    assert (result.exit_code, result.stdout) == (0, "sonic load_minigraph\n")
    assert result.stderr.startswith("kubesync: cannot save the FEATURE table: ")
    assert result.stderr.count("\n") == 1
