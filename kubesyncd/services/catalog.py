"""Read the package server's metadata and its signature, and choose the packages that this node wants.

Pure, and no more than the daemon needs: knows no network and no archive (`archives`). What comes from outside is
believed only as far as it has been checked. Seed: section Service install, proposal 1.
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
from urllib.parse import urljoin, urlsplit

from kubesyncd.core.model import FEATURE_NAME
from kubesyncd.core.parse import shown
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
    """Metadata, an archive or a signature cannot be used; the message says what is wrong in it."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package of the metadata. `nodes`: the values a node's labels may have, by label; all have to fit."""

    name: str
    version: str
    archive: str
    sha256: str
    nodes: Mapping[str, tuple[str, ...]]

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels wants it."""
        return all(labels.get(key) in allowed for key, allowed in self.nodes.items())


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server offers. `unusable`: packages whose entry nobody can use, which stay as they are; without
    `whole` not even all names are known, and nothing is removed. `problems`: a sentence for each.
    """

    serial: int
    packages: tuple[Package, ...]
    unusable: frozenset[str] = frozenset()
    whole: bool = True
    problems: tuple[str, ...] = ()


class Do(StrEnum):
    """What has to be done about one package."""

    INSTALL = "install"
    UPDATE = "update"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One package that is not as it should be; a removal names no `package`."""

    do: Do
    name: str
    package: Package | None = None

    def __str__(self) -> str:
        return f"{self.do.value} {self.name}" + (f" {self.package.version}" if self.package else "")


def check_url(url: str) -> None:
    """Raises Unusable where `url` is no https URL of a file."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and not parts.username and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise Unusable(f"[packages] url {shown(url)} is no https://HOST/FILE; packages come over https only")


def archive_url(metadata_url: str, package: Package) -> str:
    """Where the package's archive is: beside the metadata, or below."""
    return urljoin(metadata_url, package.archive)


def plan(metadata: Metadata, labels: Mapping[str, str], installed: Mapping[str, str]) -> tuple[Step, ...]:
    """What has to be done so that this node has what it wants. `installed`: the archive's SHA-256 by name, empty
    for a service that an operator installed, which no package touches. Of packages with one name, the first that
    fits counts. Removals come first: what they free may be wanted by another package.
    """
    wanted: dict[str, Package] = {}
    for package in metadata.packages:
        if package.fits(labels):
            wanted.setdefault(package.name, package)
    kept = wanted.keys() | metadata.unusable
    gone = (
        [name for name, sha256 in installed.items() if sha256 and name not in kept] if metadata.whole else []
    )
    steps = [Step(Do.REMOVE, name) for name in sorted(gone)]
    for name, package in sorted(wanted.items()):
        if name not in installed:
            steps.append(Step(Do.INSTALL, name, package))
        elif installed[name] not in ("", package.sha256):
            steps.append(Step(Do.UPDATE, name, package))
    return tuple(steps)


# ---- metadata -------------------------------------------------------------------------------------


def parse(data: bytes) -> Metadata:
    """The metadata file. Raises Unusable; an entry that cannot be used is only a problem."""
    if len(data) > METADATA_BYTES_MAX:
        raise Unusable(f"the metadata has more than {METADATA_BYTES_MAX} bytes")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"the metadata is no JSON: {shown(str(error))}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise Unusable(f'the metadata has no "format": {FORMAT}; update kubesyncd or the server')
    entries, serial = tree.get("packages"), tree.get("serial", 0)
    if not isinstance(entries, list) or len(entries) > PACKAGES_MAX:
        raise Unusable(f'the metadata has no list "packages" of at most {PACKAGES_MAX}')
    if not isinstance(serial, int) or isinstance(serial, bool) or not 0 <= serial <= SERIAL_MAX:
        raise Unusable('the metadata\'s "serial" is no whole number')
    packages: list[Package] = []
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


def _package(entry: Any) -> Package:
    if not isinstance(entry, dict):
        raise Unusable("an entry is no object")
    known = {"name", "version", "archive", "sha256", "nodes"}
    # A filter that we do not know must not be taken for none.
    if entry.keys() - known:
        raise Unusable(f"unknown key {shown(min(entry.keys() - known))}; update kubesyncd")
    return Package(
        name=_text(entry, "name", FEATURE_NAME),
        version=_text(entry, "version", _VERSION),
        archive=_text(entry, "archive", _ARCHIVE),
        sha256=_text(entry, "sha256", _SHA256),
        nodes=_nodes(entry.get("nodes", {})),
    )


def _text(entry: Mapping[str, Any], key: str, allowed: re.Pattern[str]) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or len(value) > 255 or allowed.fullmatch(value) is None:
        raise Unusable(f"{key} {shown(str(value))} cannot be used")
    return value


def _nodes(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or len(value) > FILTERS_MAX:
        raise Unusable(f"nodes is no object of at most {FILTERS_MAX} labels")
    filters = {}
    for key, allowed in value.items():
        listed = [allowed] if isinstance(allowed, str) else allowed
        if not isinstance(listed, list) or not 0 < len(listed) <= VALUES_MAX:
            raise Unusable(f"nodes: {shown(key)} has no value and no list of 1 to {VALUES_MAX}")
        if not all(isinstance(item, str) for item in listed):
            raise Unusable(f"nodes: {shown(key)} has a value that is no text")
        filters[key] = tuple(listed)
    return filters


# ---- signatures -----------------------------------------------------------------------------------


def check_key(pubkey: str) -> None:
    """Raises Unusable where `pubkey` is no minisign public key."""
    _key(pubkey)


def claims(pubkey: str, signature: bytes, data: bytes) -> tuple[Claim, ...]:
    """What has to be true for minisign's `signature` file to be `pubkey`'s of `data`. Raises Unusable."""
    number, key = _key(pubkey)
    lines = signature.split(b"\n")
    prefix = b"trusted comment: "
    if len(lines) < 4 or not lines[2].startswith(prefix) or len(signature) > SIGNATURE_BYTES_MAX:
        raise Unusable("the signature is no minisign file")
    packed, of_comment = _base64(lines[1], 74), _base64(lines[3], 64)
    kind, signer, proof = packed[:2], packed[2:10], packed[10:]
    if signer != number:
        raise Unusable("the metadata was signed by another key than [packages] pubkey")
    if kind == b"ED":
        message = hashlib.blake2b(data).digest()
    elif kind == b"Ed":
        message = data
    else:
        raise Unusable("the signature is of a kind that is not known; sign with minisign")
    comment = lines[2].removeprefix(prefix).removesuffix(b"\r")
    return Claim(key, proof, message), Claim(key, of_comment, proof + comment)


def _key(pubkey: str) -> tuple[bytes, bytes]:
    packed = _base64(pubkey.encode(errors="replace"), 42)
    if packed[:2] != b"Ed":
        raise Unusable("[packages] pubkey is no minisign public key; give the second line of minisign.pub")
    return packed[2:10], packed[10:]


def _base64(text: bytes, length: int) -> bytes:
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        raise Unusable(f"{shown(text[:80].decode(errors='replace'))} is no key or signature of minisign's")
    return data
