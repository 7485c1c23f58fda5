"""Decode the package server's metadata and its signature, and choose the packages that this node wants.

Pure, and limited to what the daemon needs: knows no network and no archive (`package_archive`). Input from the server
is used only as far as it has been checked. Seed: section Service install, proposal 1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from kubesyncd.core.model import FEATURE_NAME
from kubesyncd.core.text import shown
from kubesyncd.ports import Claim

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
METADATA_BYTES_MAX = 1 << 20
SIGNATURE_BYTES_MAX = 4096
PACKAGES_MAX = 1024
FILTERS_MAX = 16
VALUES_MAX = 64
SERIAL_MAX = 1 << 53

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*(/[A-Za-z0-9_][A-Za-z0-9_.+~-]*)*")


class Unusable(Exception):
    """Invalid metadata, archive or signature; the message says what is wrong in it."""


@dataclass(frozen=True, slots=True)
class OfferedPackage:
    """One package of the metadata. `nodes`: allowed values of a node's labels, by label; all have to match."""

    name: str
    version: str
    archive: str
    sha256: str
    nodes: Mapping[str, tuple[str, ...]]

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Return whether a node with these labels wants the package."""
        return all(labels.get(key) in allowed for key, allowed in self.nodes.items())


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server offers.

    `unusable`: packages with an invalid entry, whose installed services are left unchanged. Without `whole` some names
    are unknown, and nothing is removed. `problems`: a sentence for each.
    """

    serial: int
    packages: tuple[OfferedPackage, ...]
    unusable: frozenset[str] = frozenset()
    whole: bool = True
    problems: tuple[str, ...] = ()


class PackageAction(StrEnum):
    """The action for one package."""

    INSTALL = "install"
    UPDATE = "update"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class PackageStep:
    """One package that differs from what is wanted; a removal has no `package`."""

    do: PackageAction
    name: str
    package: OfferedPackage | None = None

    def __str__(self) -> str:
        return f"{self.do.value} {self.name}" + (f" {self.package.version}" if self.package else "")


def archive_url(metadata_url: str, package: OfferedPackage) -> str:
    """Build the URL of the package's archive: in the metadata's folder, or below."""
    return urljoin(metadata_url, package.archive)


def plan(
    metadata: Metadata, labels: Mapping[str, str], installed: Mapping[str, str]
) -> tuple[PackageStep, ...]:
    """Plan the steps after which this node has what it wants.

    `installed`: the archive's SHA-256 by name, empty for a service that an operator installed, which no package
    changes. Removals come first: another package may need what they free.
    """
    chosen = wanted(metadata, labels)
    kept = chosen.keys() | metadata.unusable
    gone = (
        [name for name, sha256 in installed.items() if sha256 and name not in kept] if metadata.whole else []
    )
    steps = [PackageStep(PackageAction.REMOVE, name) for name in sorted(gone)]
    for name, package in sorted(chosen.items()):
        if name not in installed:
            steps.append(PackageStep(PackageAction.INSTALL, name, package))
        elif installed[name] not in ("", package.sha256):
            steps.append(PackageStep(PackageAction.UPDATE, name, package))
    return tuple(steps)


def wanted(metadata: Metadata, labels: Mapping[str, str]) -> dict[str, OfferedPackage]:
    """Return the packages for a node with these labels; of packages with one name, the first one that fits."""
    chosen: dict[str, OfferedPackage] = {}
    for package in metadata.packages:
        if package.fits(labels):
            chosen.setdefault(package.name, package)
    return chosen


# ---- metadata -------------------------------------------------------------------------------------


def parse(data: bytes) -> Metadata:
    """Decode the metadata file. Raises Unusable; an invalid entry is only a problem."""
    if len(data) > METADATA_BYTES_MAX:
        raise Unusable(f"the metadata is longer than {METADATA_BYTES_MAX} bytes")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"the metadata is invalid JSON: {shown(str(error))}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise Unusable(f'the metadata does not have "format": {FORMAT}; update kubesyncd or the server')
    entries, serial = tree.get("packages"), tree.get("serial", 0)
    if not isinstance(entries, list) or len(entries) > PACKAGES_MAX:
        raise Unusable(f'the metadata has an invalid "packages"; it must be a list of at most {PACKAGES_MAX}')
    if not isinstance(serial, int) or isinstance(serial, bool) or not 0 <= serial <= SERIAL_MAX:
        raise Unusable('the metadata has an invalid "serial"; it must be a whole number')
    packages: list[OfferedPackage] = []
    unusable: set[str] = set()
    problems: list[str] = []
    whole = True
    for entry in entries:
        try:
            packages.append(_package(entry))
        except Unusable as error:
            name = entry.get("name") if isinstance(entry, dict) else None
            if isinstance(name, str) and FEATURE_NAME.fullmatch(name):
                unusable.add(name)
            else:
                whole = False
            problems.append(f"package {shown(str(name))}: {error}")
    return Metadata(serial, tuple(packages), frozenset(unusable), whole, tuple(problems))


def _package(entry: Any) -> OfferedPackage:
    if not isinstance(entry, dict):
        raise Unusable("invalid entry; it must be an object")
    known = {"name", "version", "archive", "sha256", "nodes"}
    # An unknown filter must not be ignored.
    if entry.keys() - known:
        raise Unusable(f"unknown key {shown(min(entry.keys() - known))}; update kubesyncd")
    return OfferedPackage(
        name=_text(entry, "name", FEATURE_NAME),
        version=_text(entry, "version", _VERSION),
        archive=_text(entry, "archive", _ARCHIVE),
        sha256=_text(entry, "sha256", _SHA256),
        nodes=_nodes(entry.get("nodes", {})),
    )


def _text(entry: Mapping[str, Any], key: str, allowed: re.Pattern[str]) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or len(value) > 255 or allowed.fullmatch(value) is None:
        raise Unusable(f"invalid {key} {shown(str(value))}")
    return value


def _nodes(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or len(value) > FILTERS_MAX:
        raise Unusable(f"invalid nodes; it must be an object of at most {FILTERS_MAX} labels")
    filters = {}
    for key, allowed in value.items():
        listed = [allowed] if isinstance(allowed, str) else allowed
        if not isinstance(listed, list) or not 0 < len(listed) <= VALUES_MAX:
            raise Unusable(f"nodes: {shown(key)} must have a value or a list of 1 to {VALUES_MAX}")
        if not all(isinstance(item, str) for item in listed):
            raise Unusable(f"nodes: {shown(key)} has an invalid value; it must be text")
        filters[key] = tuple(listed)
    return filters


# ---- signatures -----------------------------------------------------------------------------------


def claims(pubkey: str, signature: bytes, data: bytes) -> tuple[Claim, ...]:
    """Return the conditions under which minisign's `signature` file is `pubkey`'s of `data`. Raises Unusable."""
    number, key = _key(pubkey)
    lines = signature.split(b"\n")
    prefix = b"trusted comment: "
    if len(lines) < 4 or not lines[2].startswith(prefix) or len(signature) > SIGNATURE_BYTES_MAX:
        raise Unusable("the signature is an invalid minisign file")
    packed, of_comment = _base64(lines[1], 74), _base64(lines[3], 64)
    kind, signer, proof = packed[:2], packed[2:10], packed[10:]
    if signer != number:
        raise Unusable("the metadata is signed with another key than [packages] pubkey")
    if kind == b"ED":
        message = hashlib.blake2b(data).digest()
    elif kind == b"Ed":
        message = data
    else:
        raise Unusable("the signature is of an unknown kind; sign with minisign")
    comment = lines[2].removeprefix(prefix).removesuffix(b"\r")
    return Claim(key, proof, message), Claim(key, of_comment, proof + comment)


def _key(pubkey: str) -> tuple[bytes, bytes]:
    packed = _base64(pubkey.encode(errors="replace"), 42)
    if packed[:2] != b"Ed":
        raise Unusable(
            "[packages] pubkey is an invalid minisign public key; give the second line of minisign.pub"
        )
    return packed[2:10], packed[10:]


def _base64(text: bytes, length: int) -> bytes:
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        raise Unusable(f"{shown(text[:80].decode(errors='replace'))}: invalid minisign key or signature")
    return data
