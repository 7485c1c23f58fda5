"""Check that YANG tools accept the model, and that the model accepts the rows that the daemon reads and no others."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from kubesyncd.adapters.db_schema import HLD, SONIC
from tests.paths import ROOT
from tests.unit.docs.snippets import apply, diff_of

if TYPE_CHECKING:
    from pathlib import Path

MODELS = ROOT / "etc/yang"
# In the shape of SONiC's own model, as far as ours hooks into it: its order of statements, another import, a leaf of
# another module's type. Our own writing.
SONIC_TYPES = """
module sonic-types {
    yang-version 1.1;
    namespace "http://github.com/sonic-net/sonic-types";
    prefix stypes;
    typedef boolean_type { type string { pattern "true|false|True|False"; } }
}
"""
SONIC_FEATURE = """module sonic-feature{

    yang-version 1.1;

    namespace "http://github.com/sonic-net/sonic-feature";
    prefix feature;

    import sonic-types {
        prefix stypes;
    }

    description "FEATURE as CONFIG_DB has it";

    typedef feature-owner {
        type string {
            pattern "kube|local";
        }
    }

    container sonic-feature {

        container FEATURE {

            list FEATURE_LIST {

                key "name";

                leaf name {
                    type string {
                        length 1..32;
                    }
                }

                leaf has_per_asic_scope {
                    type string;
                }

                leaf set_owner {
                    type feature-owner;
                    default "local";
                }

                leaf check_up_status {
                    type stypes:boolean_type;
                }
            }
        }
    }
}
"""
IMPORT = "    import sonic-kubesyncd { prefix kubesyncd; }\n"
# Everything SONiC's own model has.
NOT_OURS = {"set_owner", "has_per_asic_scope", "check_up_status"}


pytestmark = pytest.mark.real("yang")


def furnish(folder: Path) -> str:
    """Write SONiC's models, changed as docs/sonic.md says; return the changed one."""
    models = folder / "yang-models"
    models.mkdir(exist_ok=True)
    (models / "sonic-types.yang").write_text(SONIC_TYPES)
    (models / "sonic-feature.yang").write_text(SONIC_FEATURE)
    apply(diff_of("sonic.md", "sonic-feature.yang"), folder, 1)
    for model in models.iterdir():
        model.replace(folder / model.name)
    return (folder / "sonic-feature.yang").read_text()


def yanglint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not (folder / "sonic-feature.yang").exists():
        furnish(folder)
    command = ["yanglint", "-p", str(MODELS), "-p", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def problem(folder: Path, **fields: str | int) -> str:
    """What the tool finds wrong with a FEATURE row; empty when nothing."""
    data = {"sonic-feature:sonic-feature": {"FEATURE": {"FEATURE_LIST": [{"name": "snmp", **fields}]}}}
    (folder / "data.json").write_text(json.dumps(data))
    model, row = str(folder / "sonic-feature.yang"), str(folder / "data.json")
    checked = yanglint(folder, "--type", "config", model, row)
    return "" if checked.returncode == 0 else checked.stderr


def test_the_model_is_valid_yang(tmp_path: Path) -> None:
    checked = yanglint(tmp_path, str(MODELS / "sonic-kubesyncd.yang"))
    assert (checked.returncode, checked.stderr) == (0, "")


def test_sonics_model_with_the_lines_of_the_guide_loads_and_validates_its_own_leaves(tmp_path: Path) -> None:
    assert IMPORT in furnish(tmp_path)
    assert problem(tmp_path, set_owner="kube", check_up_status="true") == ""
    assert "set_owner" in problem(tmp_path, set_owner="cluster")
    assert "check_up_status" in problem(tmp_path, check_up_status="maybe")


@pytest.mark.parametrize(
    "below", ["module sonic-feature{\n", '    description "FEATURE as CONFIG_DB has it";\n']
)
def test_the_import_in_another_place_lets_no_model_load(tmp_path: Path, below: str) -> None:
    """Then SONiC's tools validate nothing: what the guide once said."""
    right = furnish(tmp_path)
    wrong = right.replace(IMPORT, "").replace(below, below + IMPORT)
    assert wrong != right
    (tmp_path / "sonic-feature.yang").write_text(wrong)
    assert "import" in problem(tmp_path, set_owner="kube")


def test_older_translators_of_sonic_find_every_field() -> None:
    """They keep the leaves of a grouping and nothing that it `uses`, and take a `uint` for a number by its name."""
    model = (MODELS / "sonic-kubesyncd.yang").read_text()
    groupings = re.findall(r"(?ms)^    grouping (\S+) \{(.*?)^    \}", model)
    ((name, body),) = groupings
    assert name == "feature-fields"
    assert not re.search(r"(?m)^\s*uses\b", body)
    assert set(re.findall(r"(?m)^        leaf (\S+) \{", body)) == (
        (HLD.config_names | SONIC.config_names) - NOT_OURS
    )
    assert re.findall(r"type (\w+) \{\s*range", body) == ["uint32", "uint32"]


def test_it_has_every_config_field_that_the_daemon_reads(tmp_path: Path) -> None:
    tree = yanglint(tmp_path, "-f", "tree", str(tmp_path / "sonic-feature.yang")).stdout
    for name in (HLD.config_names | SONIC.config_names) - NOT_OURS:
        assert f" {name}?" in tree, tree


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"set_owner": "kube", "fallback_to_local": "true", "kube_failure_detection": 5},
        {"set_owner": "kube", "no_fallback_to_local": "False", "remote_fail_detection": 300},
        {"failure_policy": "rollback"},
    ],
)
def test_a_row_we_can_use_is_valid(tmp_path: Path, fields: dict[str, str | int]) -> None:
    assert problem(tmp_path, **fields) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"fallback_to_local": "maybe"},
        {"kube_failure_detection": -1},
        {"kube_failure_detection": 5_256_001},
        {"failure_policy": "panic"},
        {"fallback": "true"},
    ],
)
def test_a_row_we_cannot_use_is_refused(tmp_path: Path, fields: dict[str, str | int]) -> None:
    assert next(iter(fields)) in problem(tmp_path, **fields)
