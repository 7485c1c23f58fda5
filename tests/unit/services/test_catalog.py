"""Check which packages a node selects, and that invalid metadata is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.services import catalog
from kubesyncd.services.catalog import (
    Metadata,
    OfferedPackage,
    PackageAction,
    PackageStep,
    Unusable,
    parse,
    plan,
)
from tests.unit.services.test_definition import needs

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def entry(name: str = "tap", version: str = "1", sha256: str = A, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "archive": f"{name}-{version}.tgz", "sha256": sha256, **more}


def metadata(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"format": 1, "packages": [*entries], **more}).encode()


def steps(data: bytes, labels: dict[str, str], installed: dict[str, str]) -> list[str]:
    return [str(step) for step in plan(parse(data), labels, installed)]


# ---- what a node wants ----------------------------------------------------------------------------


def test_a_node_installs_updates_and_removes_what_it_is_eligible_for() -> None:
    offered = metadata(entry("tap", "2", B), entry("probe"), entry("old", nodes={"type": "Leaf"}))
    installed = {"tap": A, "old": C, "gone": C}
    assert steps(offered, {"type": "ToR"}, installed) == [
        "remove gone",
        "remove old",
        "install probe 1",
        "update tap 2",
    ]
    assert steps(offered, {"type": "Leaf"}, {"tap": B, "probe": A, "old": A}) == []


def test_every_filter_has_to_fit_and_any_of_its_values_does() -> None:
    package = parse(metadata(entry(nodes={"type": ["ToR", "Leaf"], "hwsku": "X"}))).packages[0]
    assert package.fits({"type": "Leaf", "hwsku": "X", "other": "y"})
    assert not package.fits({"type": "Leaf"})
    assert not package.fits({"type": "Spine", "hwsku": "X"})
    assert parse(metadata(entry())).packages[0].fits({})


def test_of_packages_with_one_name_the_first_that_fits_counts() -> None:
    offered = metadata(entry("tap", "2", B, nodes={"canary": "true"}), entry("tap", "1", A))
    assert steps(offered, {"canary": "true"}, {}) == ["install tap 2"]
    assert steps(offered, {}, {"tap": B}) == ["update tap 1"]
    chosen = catalog.wanted(parse(offered), {"canary": "true"})
    assert [package.version for package in chosen.values()] == ["2"]


def test_packages_do_not_change_a_service_installed_by_an_operator() -> None:
    assert steps(metadata(entry("tap")), {}, {"tap": "", "other": ""}) == []


def test_an_unusable_entry_stays_unchanged_and_delays_no_other() -> None:
    offered = metadata(entry("bad", canary=True), entry("good"))
    assert steps(offered, {}, {"bad": A, "gone": A}) == ["remove gone", "install good 1"]
    assert "unknown key 'canary'" in parse(offered).problems[0]


def test_where_a_name_is_unknown_nothing_is_removed() -> None:
    offered = metadata({**entry(), "name": "../tap"}, entry("good"))
    assert steps(offered, {}, {"tap": A}) == ["install good 1"]


def test_an_empty_list_removes_every_package() -> None:
    assert plan(Metadata(0, ()), {}, {"tap": A, "mine": ""}) == (PackageStep(PackageAction.REMOVE, "tap"),)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)


TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), grown)


# ---- hostile metadata -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"format": 2, "packages": []}', b'{"format": 1}',
     metadata(serial="1"), metadata(serial=-1), metadata(serial=True), metadata(serial=1 << 60),
     metadata(*[{}] * 1025), b" " * (1 << 20) + b"{}"],
    ids=range(14),
)  # fmt: skip
def test_invalid_metadata_is_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(Unusable):
        parse(data)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": None}, {"name": "A"}, {"name": "a/b"}, {"version": ""}, {"version": "1 2"}, {"version": 1},
        {"archive": "/etc/passwd"}, {"archive": "../x"}, {"archive": "a/../x"}, {"archive": "//host/x"},
        {"archive": "https://host/x"}, {"archive": "a?b"}, {"archive": ".hidden"}, {"archive": "x" * 300},
        {"sha256": A.upper()}, {"sha256": A[1:]}, {"sha256": None},
        {"nodes": []}, {"nodes": {"a": 1}}, {"nodes": {"a": []}}, {"nodes": {"a": [1]}}, {"nodes": {"a": None}},
        {"nodes": {str(n): "x" for n in range(17)}}, {"nodes": {"a": ["x"] * 65}}, {"label": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_could_do_harm_is_only_a_problem(bad: dict[str, Any]) -> None:
    found = parse(metadata({**entry(), **bad}))
    assert found.packages == ()
    assert len(found.problems) == 1


@settings(max_examples=300)
@given(TREES)
def test_no_tree_brings_the_parser_down(tree: Any) -> None:
    for data in (json.dumps(tree), json.dumps({"format": 1, "packages": [tree, {**entry(), "nodes": tree}]})):
        try:
            found = parse(data.encode())
        except Unusable:
            continue
        plan(found, {}, {"tap": A})


def test_an_archive_lies_beside_the_metadata() -> None:
    package = parse(metadata(entry())).packages[0]
    assert catalog.archive_url("https://h/a/packages.json", package) == "https://h/a/tap-1.tgz"


# ---- signatures -----------------------------------------------------------------------------------


class Signer:
    """minisign, with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self._minisign = needs("minisign")
        self._folder = folder
        self._run("-G", "-W", "-p", "key.pub", "-s", "key")
        self.pubkey = (folder / "key.pub").read_text().splitlines()[1]

    def _run(self, *words: str) -> None:
        command = [self._minisign, *words]
        subprocess.run(
            command, cwd=self._folder, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=180
        )

    def sign(self, data: bytes, *, legacy: bool = False) -> bytes:
        (self._folder / "data").write_bytes(data)
        self._run("-S", "-s", "key", "-m", "data", "-x", "data.minisig", *(["-l"] if legacy else ["-H"]))
        return (self._folder / "data.minisig").read_bytes()


async def genuine(pubkey: str, signature: bytes, data: bytes) -> bool:
    from kubesyncd.adapters.signatures import is_true

    return all([await is_true(claim) for claim in catalog.claims(pubkey, signature, data)])


@pytest.mark.parametrize("legacy", [False, True])
async def test_minisign_s_own_signatures_are_good_and_any_change_is_found(
    tmp_path: Path, legacy: bool
) -> None:
    needs("openssl")
    signer = Signer(tmp_path)
    data = metadata(entry())
    signature = signer.sign(data, legacy=legacy)
    assert await genuine(signer.pubkey, signature, data)
    assert not await genuine(signer.pubkey, signature, data + b" ")
    forged = signature.replace(b"trusted comment: timestamp:", b"trusted comment: timestamp:1")
    assert not await genuine(signer.pubkey, forged, data)
    lines = signature.split(b"\n")
    packed = bytearray(base64.b64decode(lines[1]))
    packed[-1] ^= 1
    lines[1] = base64.b64encode(packed)
    assert not await genuine(signer.pubkey, b"\n".join(lines), data)


def test_a_signature_of_another_key_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = Signer(tmp_path / "one"), Signer(tmp_path / "two")
    with pytest.raises(Unusable, match="another key"):
        catalog.claims(two.pubkey, one.sign(b"x"), b"x")


@pytest.mark.parametrize("key", ["", "x", "RWQ", base64.b64encode(b"ED" + b"\0" * 40).decode(), "é" * 56])
def test_an_invalid_key_is_refused(key: str) -> None:
    with pytest.raises(Unusable):
        catalog.claims(key, b"", b"")


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_no_signature_brings_the_parser_down(data: bytes) -> None:
    key = base64.b64encode(b"Ed" + b"\0" * 40).decode()
    packed = base64.b64encode(b"ED" + b"\0" * 72)
    for signature in (data, b"c\n" + data, b"c\n" + packed + b"\ntrusted comment: " + data + b"\n" + data):
        try:
            catalog.claims(key, signature, b"")
        except Unusable:
            continue


def test_a_package_is_known_by_its_hash() -> None:
    package = OfferedPackage("tap", "1", "tap.tgz", hashlib.sha256(b"").hexdigest(), {})
    assert str(PackageStep(PackageAction.UPDATE, "tap", package)) == "update tap 1"
