"""Run `kubesync` in a test as an operator does: a switch of a stub daemon and a real Redis.

Commands run in this process through click's runner, or as a process of their own, by the same settings file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from subprocess import PIPE
from typing import IO, TYPE_CHECKING, Any

from click.testing import CliRunner

from kubesyncd.cli.root import root
from tests.lab.stub_daemon import StubDaemon
from tests.paths import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.lab.redis_server import RedisServer

LIMIT_S = 300.0
CONFIG_DB, STATE_DB = 4, 6

# Says of each service what is written in its file of that name: is-enabled, is-active, cat.
SYSTEMCTL = """#!/bin/sh
service="$(dirname "$0")/units/${2%.service}"
[ -e "$service" ] || exit 4
case "$1" in
cat) exit 0 ;;
*) grep -q "$1" "$service" ;;
esac
"""


class Operator:
    """`folder` holds the switch; `schema`: which field names it speaks."""

    def __init__(self, folder: Path, redis: RedisServer, *, schema: str = "hld") -> None:
        self.folder = folder
        self.redis = redis
        self.daemon = StubDaemon(folder / "host.sock")
        self.settings = folder / "kubesyncd.toml"
        self.admin_conf = folder / "admin.conf"
        self.write_settings(schema=schema)
        (folder / "units").mkdir()
        systemctl = folder / "systemctl"
        systemctl.write_text(SYSTEMCTL)
        systemctl.chmod(0o755)

    def write_settings(self, *, schema: str = "hld", url: str = "", more: str = "") -> None:
        """The settings file, written again; nothing is kept outside the folder."""
        paths = "" if "[paths]" in more else f'[paths]\nstate_dir = "{self.folder}/state"\n'
        self.settings.write_text(
            f"""
[redis]
url = "{url or self.redis.url}"
database_config = "{self.folder}/database_config.json"
[sockets]
host = "{self.folder}/host.sock"
container = "{self.folder}/container/container.sock"
[docker]
url = "unix://{self.folder}/docker.sock"
[kube]
node_name = "switch1"
kubeconfig = "{self.folder}/kubelet.conf"
admin_conf = "{self.admin_conf}"
[systemd]
systemctl = ["{self.folder}/systemctl"]
[schema]
names = "{schema}"
{paths}{more}
"""
        )

    def has_asics(self) -> None:
        """From now on the switch has two ASICs, by SONiC's own file."""
        namespaces = [{"namespace": name, "include": f"../{name}.json"} for name in ("asic0", "asic1")]
        (self.folder / "database_global.json").write_text(json.dumps({"INCLUDES": [{}, *namespaces]}))

    def unit(self, name: str, *words: str) -> None:
        """A service with this name, of which these questions are true."""
        (self.folder / "units" / name).write_text("\n".join(words))

    @property
    def environ(self) -> dict[str, str]:
        """What the command finds around it."""
        return {"KUBESYNCD_CONFIG": str(self.settings), "COLUMNS": "80", "TZ": "UTC", "LANG": "C.UTF-8"}

    def types(self, line: str, answers: str | None = None) -> Result:
        """What `kubesync <line>` does, in this process."""
        return CliRunner(env=self.environ).invoke(root, line.split(), input=answers, prog_name="kubesync")

    def runs(
        self, *words: str, stdout: IO[str] | int = PIPE, stderr: IO[str] | int = PIPE, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """What `kubesync <words>` does, as a process."""
        around = {**os.environ, **self.environ, **environ}
        command = [sys.executable, "-m", "kubesyncd.cli", *words]
        return subprocess.run(
            command, env=around, stdout=stdout, stderr=stderr, text=True, timeout=LIMIT_S, check=False
        )

    def json(self, line: str) -> Any:
        """What a command prints as JSON."""
        result = self.types(line)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def configured(self, key: str) -> dict[str, str]:
        """A CONFIG_DB row."""
        with self.redis.client(CONFIG_DB) as client:
            found: dict[str, str] = client.hgetall(key)
        return found

    def configure(self, key: str, **fields: str) -> None:
        """Set fields of a CONFIG_DB row."""
        with self.redis.client(CONFIG_DB) as client:
            client.hset(key, mapping=fields)

    def state(self, key: str, **fields: str) -> None:
        """Set fields of a STATE_DB row."""
        with self.redis.client(STATE_DB) as client:
            client.hset(key, mapping=fields)


def steady(text: str) -> str:
    """Output without what differs from run to run: the clock, and folders."""
    text = re.sub(r"\d{4}-\d\d-\d\d", "YYYY-MM-DD", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "hh:mm:ss", text)
    text = re.sub(r"\b\d\d-\d\d \d\d:\d\d\b", "MM-DD hh:mm", text)
    return re.sub(r"/tmp/\S*?/(?=[a-z_]+\.(sock|conf))", "/switch/", text)


def is_golden(name: str, text: str) -> None:
    """`text` is what golden/<name>.txt says; with KUBESYNC_GOLDEN=write it is written there. No line is too wide."""
    path, text = GOLDEN / f"{name}.txt", steady(text)
    if os.environ.get("KUBESYNC_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert all(len(line) <= 80 for line in text.splitlines())
