"""Check that the kubelet's configuration protects local images and changes nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from kubesyncd.adapters.kubelet_config import FILE, KubeletConfig
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = """\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
imageGCHighThresholdPercent: 80
evictionHard:
  memory.available: 200Mi
  nodefs.available: 10%
syncFrequency: 0s
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    path.write_text(CLUSTER)
    path.chmod(0o600)
    return path


def test_images_and_disk_are_left_alone_and_the_rest_is_as_it_was(file: Path) -> None:
    config = KubeletConfig(file.parent)
    assert config.wrong() == ("imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "evictionHard")
    assert config.suit()
    tree, before = yaml.safe_load(file.read_text()), yaml.safe_load(CLUSTER)
    assert (tree["imageGCHighThresholdPercent"], tree["imageGCLowThresholdPercent"]) == (100, 99)
    assert tree["evictionHard"]["memory.available"] == "200Mi", "the cluster's own word on memory stands"
    assert tree["evictionHard"]["nodefs.available"] == "0%"
    assert tree["authentication"] == before["authentication"]
    assert tree["syncFrequency"] == "0s"
    assert file.stat().st_mode & 0o777 == 0o600
    assert config.wrong() == ()


def test_correct_values_are_not_written_again(file: Path) -> None:
    config = KubeletConfig(file.parent)
    config.suit()
    written = file.stat().st_ino
    assert not config.suit()
    assert file.stat().st_ino == written


def test_without_a_setting_of_eviction_memory_keeps_its_default(file: Path) -> None:
    file.write_text("kind: KubeletConfiguration\n")
    KubeletConfig(file.parent).suit()
    assert yaml.safe_load(file.read_text())["evictionHard"]["memory.available"] == "100Mi"


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\0", "- 1"])
def test_a_file_without_a_configuration_stays_unchanged(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Refused):
        KubeletConfig(file.parent).suit()
    assert file.read_text() == text


def test_a_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="kubelet_dir"):
        KubeletConfig(tmp_path).wrong()
