"""Unpack a package's gzipped tar in memory; nothing of it is written to disk.

Pure. An archive is untrusted: its hash is checked before any of it is parsed, and only a small part of the tar format
is accepted. The only names are `service.yaml` and `bin/NAME`. Links, devices and sizes beyond the available bytes are
refused.

`tarfile.TarInfo` decodes each header. `tarfile.open` is not used: it takes a damaged header for the end of the archive,
and lets extended headers, which are not checked here, replace a member's name and size.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from typing import TYPE_CHECKING

from kubesyncd.core.text import shown
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
_FOLDERS = (".", "bin")

# The size in a header: octal digits only. `tarfile` also accepts a sign, an underscore, nothing, and binary sizes.
_SIZE = slice(124, 136)
_MAGIC = slice(257, 262)


def unpack(package: OfferedPackage, data: bytes) -> tuple[ServiceSpec, dict[str, bytes]]:
    """Read the service in an archive, and its programs by name. Raises Unusable."""
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
    """Read the files in a gzipped tar, by name. Raises Unusable where it contains anything else."""
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
    """Yield the names and contents of the files in a tar."""
    at = 0
    for _ in range(MEMBERS_MAX):
        header = content[at : at + tarfile.BLOCKSIZE]
        if not header.strip(b"\0"):
            return
        member = _member(header)
        begin = at + tarfile.BLOCKSIZE
        body = content[begin : begin + member.size]
        if len(body) != member.size:
            raise Unusable(f"{shown(member.name)} is truncated")
        at = begin + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        name = member.name.removeprefix("./")
        match member.type:
            case tarfile.REGTYPE | tarfile.AREGTYPE:
                yield _expected(name), body
            case tarfile.DIRTYPE:
                if name not in _FOLDERS:
                    raise Unusable(f"unexpected folder {shown(member.name)}; an archive has only bin")
            case tarfile.XHDTYPE | tarfile.XGLTYPE:
                # Times and attributes, which are not used; a name that needs an extended header is refused.
                pass
            case _:
                raise Unusable(
                    f"{shown(member.name)} is not a regular file; an archive has no links, devices or other kinds"
                )
    raise Unusable(f"the archive has more than {MEMBERS_MAX} files")


def _member(header: bytes) -> tarfile.TarInfo:
    """Decode a header. Raises Unusable."""
    if len(header) != tarfile.BLOCKSIZE or header[_MAGIC] != b"ustar":
        raise Unusable("the archive is an invalid tar file; make it with: tar --format=ustar -czf")
    size = header[_SIZE].strip(b" \0")
    if not size or size.strip(b"01234567"):
        raise Unusable("the archive has a damaged header")
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise Unusable("the archive has a damaged header") from error


def _expected(name: str) -> str:
    if name != DESCRIPTION_FILE and _PROGRAM.fullmatch(name) is None:
        raise Unusable(f"unexpected file {shown(name)}; an archive has {DESCRIPTION_FILE} and bin/NAME")
    return name
