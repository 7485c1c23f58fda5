"""Check that the next image gets what it needs, once, with a power cut at each step."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.ports import Refused
from kubesyncd.reboot.context_backup import FILES_MAX, MANIFEST, RESTORED, ContextBackup, sources
from kubesyncd.services.installed import FOLDER, read_manifests
from kubesyncd.settings import KubeSettings, PathsSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


class Image:
    """One SONiC's own folders; `carried` is the folder that an upgrade copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.carried = folder / "carried"
        self.kubernetes, self.kubelet, self.state = (
            folder / "kubernetes",
            folder / "kubelet",
            folder / "state",
        )
        self.settings = replace(
            Settings(),
            kube=KubeSettings(
                kubeconfig=str(self.kubernetes / "kubelet.conf"),
                admin_conf=str(folder / "sonic" / "admin.conf"),
            ),
            paths=PathsSettings(state_dir=str(self.state), kubelet_dir=str(self.kubelet)),
        )

    def fill(self) -> None:
        """A joined switch."""
        for path, text, mode in (
            (self.kubernetes / "kubelet.conf", "credential", 0o600),
            (self.kubernetes / "pki" / "ca.crt", "authority", 0o644),
            (self.kubelet / "config.yaml", "config", 0o644),
            (self.kubelet / "pki" / "kubelet-client-2026.pem", "certificate and key", 0o600),
            (self.kubelet / "pods" / "a" / "etc-hosts", "not ours", 0o644),
            (self.folder / "sonic" / "admin.conf", "administrator", 0o600),
            (self.state / "labels.json", "queue", 0o600),
            (self.state / ".labels.json.new", "half a queue", 0o600),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(mode)
        (self.kubelet / "pki" / "kubelet-client-current.pem").symlink_to("kubelet-client-2026.pem")

    def carry(self, boot_id: str) -> ContextBackup:
        installed = read_manifests(self.state / FOLDER)
        return ContextBackup(self.carried, sources(self.settings, installed), boot_id)

    def lose(self, *paths: Path) -> None:
        for path in paths:
            path.unlink()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    made = Image(tmp_path)
    made.fill()
    return made


def test_what_the_next_image_lacks_is_put_back_with_its_mode_and_links(image: Image) -> None:
    assert image.carry("one").save(30.0) == 7
    assert image.carried.stat().st_mode & 0o777 == 0o700
    pem, link = (
        image.kubelet / "pki" / "kubelet-client-2026.pem",
        image.kubelet / "pki" / "kubelet-client-current.pem",
    )
    config = image.kubernetes / "kubelet.conf"
    image.lose(pem, link, config)
    image.kubernetes.joinpath("pki", "ca.crt").write_text("a newer authority")
    restored = image.carry("two").restore()
    assert sorted(restored) == sorted(map(str, (pem, link, config)))
    assert (config.read_text(), config.stat().st_mode & 0o777) == ("credential", 0o600)
    assert os.readlink(link) == "kubelet-client-2026.pem"
    assert link.read_text() == "certificate and key"
    assert image.kubernetes.joinpath("pki", "ca.crt").read_text() == "a newer authority", (
        "what is there stays"
    )


def test_it_is_put_back_once_and_no_key_stays_behind(image: Image) -> None:
    image.carry("one").save(30.0)
    image.carry("two").restore()
    image.lose(image.kubernetes / "kubelet.conf")
    assert image.carry("three").restore() == []
    assert not (image.kubernetes / "kubelet.conf").exists()
    assert [path.name for path in image.carried.iterdir()] == [RESTORED]


def test_nothing_is_put_back_in_the_boot_that_saved_it_or_after_it_was_taken_back(image: Image) -> None:
    image.carry("one").save(30.0)
    image.lose(image.kubernetes / "kubelet.conf")
    assert image.carry("one").restore() == []
    image.carry("one").drop()
    assert image.carry("two").restore() == []
    assert list(image.carried.iterdir()) == []
    image.carry("one").drop()


def test_saving_again_saves_what_is_there_now(image: Image) -> None:
    image.carry("one").save(30.0)
    (image.kubernetes / "kubelet.conf").write_text("rotated")
    image.lose(image.kubelet / "config.yaml")
    assert image.carry("one").save(30.0) == 6
    image.lose(image.kubernetes / "kubelet.conf")
    image.carry("two").restore()
    assert (image.kubernetes / "kubelet.conf").read_text() == "rotated"


def test_without_a_whole_manifest_nothing_counts(image: Image) -> None:
    """A power cut while saving: copies are there, the manifest is not yet."""
    image.carry("one").save(30.0)
    (image.carried / MANIFEST).unlink()
    image.lose(image.kubernetes / "kubelet.conf")
    assert image.carry("two").restore() == []


def test_a_power_cut_while_restoring_is_repaired_by_the_next_start(image: Image) -> None:
    """Some files are back already, the manifest is still there."""
    image.carry("one").save(30.0)
    lost = (image.kubernetes / "kubelet.conf", image.kubelet / "config.yaml")
    image.lose(*lost)
    lost[0].write_text("credential")
    assert image.carry("two").restore() == [str(lost[1])]


def test_a_damaged_copy_is_never_put_in_place(image: Image) -> None:
    image.carry("one").save(30.0)
    for copy in image.carried.glob("file-*"):
        copy.write_text("damaged")
    image.lose(image.kubernetes / "kubelet.conf")
    with pytest.raises(Refused, match="damaged"):
        image.carry("two").restore()
    assert not (image.kubernetes / "kubelet.conf").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "", "{state}/../../etc/shadow"])
def test_a_manifest_that_names_other_files_is_refused(image: Image, path: str) -> None:
    image.carry("one").save(30.0)
    manifest = image.carried / MANIFEST
    tree = json.loads(manifest.read_text())
    tree["items"][0]["path"] = path.format(state=image.state)
    manifest.write_text(json.dumps(tree))
    with pytest.raises(Refused):
        image.carry("two").restore()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1}', '{"version": 2, "boot_id": "x", "items": [], "services": []}']
)
def test_an_unreadable_manifest_is_refused(image: Image, text: str) -> None:
    image.carried.mkdir()
    (image.carried / MANIFEST).write_text(text)
    with pytest.raises(Refused):
        image.carry("two").restore()


def test_too_much_is_refused_by_name(image: Image) -> None:
    for number in range(FILES_MAX):
        (image.state / f"{number}").write_text("")
    with pytest.raises(Refused, match=f"at most {FILES_MAX}"):
        image.carry("one").save(30.0)


def test_a_switch_that_never_joined_carries_its_own_state(tmp_path: Path) -> None:
    bare = Image(tmp_path)
    assert bare.carry("one").save(30.0) == 0
    assert bare.carry("two").restore() == []
