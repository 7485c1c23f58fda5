"""Play the ten tasks of docs/operators.md on a virtual switch, and compare the output.

The page is compared word by word. What differs from switch to switch and from moment to moment (times, IDs,
addresses, folders, how long a bar is, where a line is broken) counts as the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kubesyncd.adapters.kubelet_config import KubeletConfig
from tests.paths import ROOT
from tests.system.switch_fixtures import joined
from tests.system.test_switch_operator import settings_of

if TYPE_CHECKING:
    from tests.lab.engines import LabDockerProcess, LabKubeProcess
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

PAGE = ROOT / "docs" / "operators.md"
LIMIT_S = 180.0
FEATURES = ("bgp", "lldp", "snmp", "telemetry")

SAME = (
    (r"\s+", " "),
    # Clocks, days and lengths of time.
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d\d:\d\d:\d\d", "CLOCK"),
    (r"\b\d+(\.\d+)? ?(ms|s|min|h|d)\b( \d+ (s|min|h)\b)?", "TIME"),
    # Containers, pods, ports, versions of stand-ins.
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"\bsnmp-[0-9a-z]{5}\b", "POD"),
    (r"\b(127\.0\.0\.1|10\.1\.2\.3):\d+", "MASTER"),
    (r"(\d)[-+]lab\b", r"\1"),
    # A node of the lab has no address.
    (r"\b10\.1\.2\.11\b|(?<=v1\.20\.2 )-", "ADDRESS"),
    # Lines across a table, and bars.
    (r"─+", "─"),
    (r"[▁█▒▐▓░▂·]{3,}", "BAR"),
)


def same(text: str) -> str:
    """What must be equal of an output."""
    for pattern, stands_for in SAME:
        text = re.sub(pattern, stands_for, text)
    return text.strip()


def shown() -> dict[str, list[str]]:
    """What the page shows under each command, in the order of its blocks."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^```\n(\$ .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.setdefault(line.removeprefix("sudo ").removeprefix("kubesync "), []).append(output)
    return found


class Reader:
    """A reader who types the page's commands, and compares the output."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._settings = settings_of(switch)
        self.left = shown()

    def types(self, line: str) -> None:
        """Type a command of the page, `y` to a question, until the page's next output for it is seen."""
        expected = self.left[line].pop(0)
        said = ""

        def is_so() -> bool:
            nonlocal said
            said = self._output(line)
            return same(said) == same(expected)

        if line.startswith("config "):
            assert is_so(), difference(line, expected, said)
            return
        try:
            self._switch.wait_for(is_so, line)
        except AssertionError:
            raise AssertionError(difference(line, expected, said)) from None

    def _output(self, line: str) -> str:
        command = [sys.executable, "-m", "kubesyncd.cli", *line.split()]
        environ = {**os.environ, **self._switch.clients.environment, "KUBESYNCD_CONFIG": str(self._settings)}
        ended = subprocess.run(
            command, env=environ, input="y\n", capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        text = (ended.stdout + ended.stderr).replace(f"{self._switch.folder}/run/", "/run/kubesyncd/")
        # The answer is typed, so it is on the page.
        return text.replace("[y/N]: ", "[y/N]: y\n")


def difference(line: str, expected: str, said: str) -> str:
    return f"docs/operators.md, {line}\n\n{expected}\nit shows; printed is\n\n{said}\n{same(expected)}\n{same(said)}"


@pytest.mark.system
def test_what_the_page_shows_is_what_is_printed(
    new_switch: MakeSwitch, own_lab_docker: LabDockerProcess, lab_kube: LabKubeProcess
) -> None:
    # A busy master may take a moment, and the page says "applied".
    switch = new_switch(own_lab_docker, lab_kube, timing={"label_wait_s": 30.0})
    assert switch.kube is not None
    metadata = {"type": "LeafRouter", "hwsku": "Force10-S6000", "platform": "x86_64-dell_s6000"}
    switch.config_db.hset("DEVICE_METADATA|localhost", mapping=metadata)
    # As a join leaves it.
    kubelet = switch.folder / "kubelet"
    kubelet.mkdir(exist_ok=True)
    (kubelet / "config.yaml").write_text("kind: KubeletConfiguration\n")
    KubeletConfig(kubelet).suit()
    joined(switch)
    for feature in FEATURES:
        switch.boot_local(feature)
        switch.config(feature, set_owner="local")
    switch.master.deploy("snmp")
    reader = Reader(switch)

    reader.types("show kubernetes status")
    reader.types("config feature gnmi owner kube")
    reader.types("config feature snmp owner kube fallback true")
    switch.until_state("snmp", "KUBE_RUNNING")
    for line in ("show feature", "show feature snmp"):
        reader.types(line)
    reader.types("config feature lldp owner kube fallback true failmode 10 policy rollback -y")
    for line in ("explain lldp", "show kubernetes nodes", "show kubernetes pods --here"):
        reader.types(line)
    for line in ("config kube label add rack a7", "show kubernetes labels"):
        reader.types(line)
    switch.kube.stop_api()
    switch.wait_for(lambda: switch.connected == "False", "the master is seen to be away")
    reader.types("config kube label add rack b1")
    for line in ("show kubernetes status", "show kubernetes nodes", "doctor", "timeline"):
        reader.types(line)
    switch.kube.start()
    switch.wait_for(lambda: switch.connected == "True", "connected again")
    reader.types("config feature snmp owner local")

    # A switch that has joined already is told otherwise; tests of their own type these.
    of_a_new_switch = {"config kube server ip 10.1.2.3", "config kube join"}
    assert {line for line, outputs in reader.left.items() if outputs} == of_a_new_switch
