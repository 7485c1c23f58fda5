"""Check that an archive yields only the expected files, and that manipulated ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import subprocess
import tarfile
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.services import package_archive
from kubesyncd.services.catalog import OfferedPackage, Unusable
from kubesyncd.services.package_archive import MEMBERS_MAX, UNPACKED_BYTES_MAX, read_files, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DESCRIPTION = b"name: tap\npre_start: [./probe]\n"
PROBE = b"#!/bin/sh\nexit 0\n"


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


GOOD = (member("service.yaml", DESCRIPTION), member("bin/probe", PROBE))


def tarred(*members: Member, form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def archive(*members: Member, form: int = tarfile.USTAR_FORMAT) -> bytes:
    return gzip.compress(tarred(*members, form=form))


def package(data: bytes, name: str = "tap") -> OfferedPackage:
    return OfferedPackage(name, "1", "tap.tgz", hashlib.sha256(data).hexdigest(), {})


# ---- good ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_service_and_its_programs_come_out_of_an_archive(form: int) -> None:
    timed = member("bin/late", b"x")
    timed[0].mtime = 1.5  # which pax says in a header of its own
    data = archive(member("bin", kind=tarfile.DIRTYPE), *GOOD, timed, form=form)
    spec, programs = unpack(package(data), data)
    assert spec.pre_start[0].words == ("./probe",)
    assert programs == {"probe": PROBE, "late": b"x"}


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix", "v7"])
def test_archives_of_debian_s_tar_are_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "service.yaml").write_bytes(DESCRIPTION)
    (tmp_path / "bin/probe").write_bytes(PROBE)
    for what in ((".",), ("service.yaml", "bin")):
        command = ["tar", f"--format={form}", "-czf", "-", *what]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=180)
        if form == "v7":
            with pytest.raises(Unusable, match="--format=ustar"):
                read_files(made.stdout)
            return
        assert read_files(made.stdout) == {"service.yaml": DESCRIPTION, "bin/probe": PROBE}


# ---- hash first -----------------------------------------------------------------------------------


def test_nothing_is_read_before_the_hash_is_right() -> None:
    data = archive(*GOOD)
    for other in (data + b"\0", data[:-1], b"", b"not even gzip"):
        with pytest.raises(Unusable, match="SHA-256"):
            unpack(package(data), other)
    with pytest.raises(Unusable, match="more than 4194304 bytes"):
        unpack(package(data), b"\0" * (package_archive.ARCHIVE_BYTES_MAX + 1))


def test_an_archive_is_of_the_package_it_was_fetched_for() -> None:
    data = archive(*GOOD)
    with pytest.raises(Unusable, match="describes tap, the metadata says other"):
        unpack(package(data, "other"), data)
    data = archive(GOOD[1])
    with pytest.raises(Unusable, match=r"no service\.yaml"):
        unpack(package(data), data)
    data = archive(GOOD[0])
    with pytest.raises(Unusable, match="is not in the package"):
        unpack(package(data), data)


# ---- manipulated archives -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../service.yaml", "/etc/passwd", "bin/../../x", "bin//x", "bin/a/b", "bin/.x", "bin/", "x", "./../x", "bin/a b",
     "bin/x\n", "SERVICE.YAML", "bin/" + "x" * 65, "..", "bin/é", "./bin/./x", "a" * 90 + "/" + "b" * 90],
)  # fmt: skip
def test_no_path_but_those_expected(name: str) -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        with pytest.raises(Unusable):
            read_files(archive(*GOOD, member(name, b"x"), form=form))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE,
     tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"S", b"V", b"Z"],
)  # fmt: skip
def test_no_links_devices_or_other_kinds(kind: bytes) -> None:
    with pytest.raises(Unusable):
        read_files(archive(*GOOD, member("bin/x", b"", kind, "/etc/passwd")))


def test_folders_other_than_bin_and_names_that_come_twice_are_refused() -> None:
    for name in ("etc", "bin/sub", "..", "/"):
        with pytest.raises(Unusable):
            read_files(archive(*GOOD, member(name, kind=tarfile.DIRTYPE)))
    with pytest.raises(Unusable, match="twice"):
        read_files(archive(*GOOD, member("./bin/probe", b"other")))


def test_too_many_files_are_refused() -> None:
    many = [member(f"bin/f{number}") for number in range(MEMBERS_MAX)]
    with pytest.raises(Unusable, match="more than 64 files"):
        read_files(archive(*many))
    assert len(read_files(archive(*many[:-1]))) == MEMBERS_MAX - 1


def test_an_extended_header_changes_neither_name_nor_size() -> None:
    info, content = member("bin/x", b"x" * 10)
    info.pax_headers = {"path": "../../etc/passwd", "size": "1000000", "GNU.sparse.realsize": "1000000"}
    files = read_files(archive(*GOOD, (info, content), form=tarfile.PAX_FORMAT))
    assert sorted(files) == ["bin/probe", "bin/x", "service.yaml"]
    assert len(files["bin/x"]) == 10


def test_a_decompression_bomb_is_refused_without_unpacking_it() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20), compresslevel=9)
    assert len(bomb) < package_archive.ARCHIVE_BYTES_MAX
    tracemalloc.start()
    with pytest.raises(Unusable, match="unpacks to more than"):
        read_files(bomb)
    assert tracemalloc.get_traced_memory()[1] < 3 * UNPACKED_BYTES_MAX
    tracemalloc.stop()


def resummed(header: bytes) -> bytes:
    """A header whose checksum is right again."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % total + header[156:]


@pytest.mark.parametrize(
    "size",
    [b"77777777777\0", b"-0000000001\0", b"00000 00001\0", b"0000000_001\0", b"\x80" + b"\0" * 10 + b"\x01",
     b"\xff" * 12, b"\0" * 12, b"00000009999\0"],
)  # fmt: skip
def test_a_size_that_lies_is_refused(size: bytes) -> None:
    data = tarred(*GOOD)
    lying = resummed(data[:124] + size + data[136:512]) + data[512:]
    with pytest.raises(Unusable):
        read_files(gzip.compress(lying))


def test_a_damaged_cut_or_prolonged_archive_is_refused() -> None:
    data = archive(*GOOD)
    plain = tarred(*GOOD)
    bad: list[Callable[[], bytes]] = [
        lambda: data[:-5],
        lambda: data + b"more",
        lambda: data + data,
        lambda: gzip.compress(plain[:520]),
        lambda: gzip.compress(plain[:100]),
        lambda: gzip.compress(b"x" + plain[1:]),
        lambda: zlib.compress(plain),
        lambda: plain,
        lambda: b"",
    ]
    for make in bad:
        with pytest.raises(Unusable):
            read_files(make())


def test_a_damaged_header_is_not_taken_for_the_end_of_the_archive() -> None:
    data = bytearray(tarred(*GOOD))
    second = 2 * tarfile.BLOCKSIZE
    assert data[second:].startswith(b"bin/probe")
    data[second] ^= 1
    with pytest.raises(Unusable, match="damaged header"):
        read_files(gzip.compress(bytes(data)))


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=12), st.booleans())
def test_no_changed_byte_brings_more_out_than_was_put_in(changes: list[tuple[int, int]], mend: bool) -> None:
    data = bytearray(tarred(*GOOD))
    for at, value in changes:
        data[at % len(data)] = value
    if mend:
        data[:512] = resummed(bytes(data[:512]))
    with contextlib.suppress(Unusable):
        for name, content in read_files(gzip.compress(bytes(data), compresslevel=1)).items():
            assert name == "service.yaml" or name.startswith("bin/")
            assert "/" not in name.removeprefix("bin/")
            assert len(content) < len(data)


@settings(max_examples=300)
@given(st.binary(max_size=2000))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    for raw in (data, gzip.compress(data, compresslevel=1), archive(*GOOD)[:10] + data):
        with contextlib.suppress(Unusable):
            read_files(raw)
