"""Unpack a package's gzipped tar in memory; nothing of it is written to disk.

Pure. An archive is untrusted: its hash is checked before any of it is parsed, and only a small part of the tar format
is accepted. The only names are `service.yaml` and `bin/NAME`. Links, devices and sizes beyond the available bytes are
refused.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import TYPE_CHECKING

from kubesyncd.core.parse import shown
from kubesyncd.services import definition
from kubesyncd.services.catalog import Unusable
from kubesyncd.services.definition import InvalidService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.services.catalog import OfferedPackage
    from kubesyncd.services.definition import ServiceSpec

ARCHIVE_BYTES_MAX = 4 << 20
UNPACKED_BYTES_MAX = 16 << 20
MEMBERS_MAX = 64

DESCRIPTION_FILE = "service.yaml"
_PROGRAM = re.compile(r"bin/([A-Za-z0-9_][A-Za-z0-9_.+-]{0,63})")
_FOLDERS = ("", "./", "bin/")

BLOCK = 512
# ustar's kinds. Extended headers hold times and attributes, which are not used; a name that needs one is refused.
FILE, OLD_FILE, FOLDER, EXTENDED = b"0", b"\0", b"5", (b"x", b"g")


def unpack(package: OfferedPackage, data: bytes) -> tuple[ServiceSpec, dict[str, bytes]]:
    """The service in an archive, and its programs by name. Raises Unusable."""
    if len(data) > ARCHIVE_BYTES_MAX:
        raise Unusable(f"the archive has more than {ARCHIVE_BYTES_MAX} bytes")
    found = hashlib.sha256(data).hexdigest()
    if found != package.sha256:
        raise Unusable(f"the archive's SHA-256 is {found}, the metadata says {package.sha256}")
    files = read_files(data)
    description = files.pop(DESCRIPTION_FILE, None)
    if description is None:
        raise Unusable(f"the archive has no {DESCRIPTION_FILE}")
    programs = {name.removeprefix("bin/"): content for name, content in files.items()}
    try:
        spec = definition.parse(description, packaged=frozenset(programs))
    except InvalidService as error:
        raise Unusable(f"{DESCRIPTION_FILE}: {error}") from error
    if spec.name != package.name:
        raise Unusable(f"{DESCRIPTION_FILE} describes {spec.name}, the metadata says {package.name}")
    return spec, programs


def read_files(data: bytes) -> dict[str, bytes]:
    """The files in a gzipped tar, by name. Raises Unusable where it contains anything else."""
    files: dict[str, bytes] = {}
    for name, content in _members(_inflated(data)):
        if name in files:
            raise Unusable(f"{shown(name)} is in the archive twice")
        files[name] = content
    return files


def _inflated(data: bytes) -> bytes:
    """Decompress a gzip stream up to the limit: no bytes beyond it are ever produced."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = inflater.decompress(data, UNPACKED_BYTES_MAX)
    except zlib.error as error:
        raise Unusable(f"the archive is an invalid gzip file: {error}") from error
    if inflater.unconsumed_tail:
        raise Unusable(f"the archive unpacks to more than {UNPACKED_BYTES_MAX} bytes")
    if not inflater.eof or inflater.unused_data:
        raise Unusable("the archive is truncated, or has data after its end")
    return content


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar."""
    at = 0
    for _ in range(MEMBERS_MAX):
        header = content[at : at + BLOCK]
        if not header.strip(b"\0"):
            return
        name, size, kind = _header(header)
        begin = at + BLOCK
        body = content[begin : begin + size]
        if len(body) != size:
            raise Unusable(f"{shown(name)} is truncated")
        at = begin + -(-size // BLOCK) * BLOCK
        if kind in (FILE, OLD_FILE):
            yield _expected(name.removeprefix("./")), body
        elif kind == FOLDER:
            if name.removeprefix("./") not in _FOLDERS:
                raise Unusable(f"unexpected folder {shown(name)}; an archive has only bin")
        elif kind not in EXTENDED:
            raise Unusable(
                f"{shown(name)} is not a regular file; an archive has no links, devices or other kinds"
            )
    raise Unusable(f"the archive has more than {MEMBERS_MAX} files")


def _header(header: bytes) -> tuple[str, int, bytes]:
    """Name, size and kind. Raises Unusable."""
    if len(header) != BLOCK or header[257:262] != b"ustar":
        raise Unusable("the archive is an invalid tar file; make it with: tar --format=ustar -czf")
    if _number(header[148:156]) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise Unusable("the archive has a damaged header")
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name, _number(header[124:136]), header[156:157]


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")


def _number(data: bytes) -> int:
    digits = data.strip(b" \0")
    # Sizes have no sign and no underscore; the extensions for sizes beyond 8 GiB are refused.
    if not digits or digits.strip(b"01234567"):
        raise Unusable("the archive has a damaged header")
    return int(digits, 8)


def _expected(name: str) -> str:
    if name != DESCRIPTION_FILE and _PROGRAM.fullmatch(name) is None:
        raise Unusable(f"unexpected file {shown(name)}; an archive has {DESCRIPTION_FILE} and bin/NAME")
    return name
