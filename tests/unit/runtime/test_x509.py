"""Check that the end of a certificate's validity is read right, and that invalid input is an error."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubesyncd.core.certificate_life import CertificateLife
from kubesyncd.runtime.x509 import common_name, key_hash, life, pinned
from tests.lab.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(end: dt.datetime, name: str = "switch1", subject: x509.Name | None = None) -> bytes:
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = dt.datetime(1951, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@settings(max_examples=60)
@given(
    st.integers(-594_000_000, 253_402_300_799),
    st.text("abc", min_size=1, max_size=60),
)
@example(2_524_607_999, "the last one in two digits")
@example(2_524_608_000, "the first one in four")
def test_the_end_of_validity_is_what_the_certificate_was_made_with(end: int, name: str) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    made = certificate(epoch + dt.timedelta(seconds=end), name)
    assert life(made) == CertificateLife(-599_616_000, end)
    assert common_name(made) == name


def test_the_first_certificate_counts_whatever_surrounds_it() -> None:
    first = certificate(dt.datetime(2031, 5, 1, tzinfo=dt.UTC))
    second = certificate(dt.datetime(2041, 5, 1, tzinfo=dt.UTC))
    key = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    expected = dt.datetime(2031, 5, 1, tzinfo=dt.UTC).timestamp()
    assert life(b"subject=CN = switch1\n" + first + second + key).ends == expected
    assert life(key + first).ends == expected


WHOLE = x509.load_pem_x509_certificate(certificate(dt.datetime(2031, 5, 1, tzinfo=dt.UTC))).public_bytes(
    serialization.Encoding.DER
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(WHOLE)),
)
def test_a_damaged_certificate_is_an_error_or_a_time(damage: list[tuple[int, int]], length: int) -> None:
    der = bytearray(WHOLE)
    for at, byte in damage:
        der[at] = byte
    body = base64.encodebytes(bytes(der)[:length])
    with suppress(ValueError):
        assert isinstance(
            life(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n").ends, float
        )


@pytest.mark.parametrize(
    "text", [b"", b"-----BEGIN CERTIFICATE-----", b"\xff\xfe", b"-----END CERTIFICATE-----"]
)
def test_an_invalid_certificate_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        life(text)


def test_a_subject_without_a_common_name_is_empty_and_the_last_of_several_counts() -> None:
    end = dt.datetime(2031, 5, 1, tzinfo=dt.UTC)
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("first", "system:node:leaf1")]
    for parts, expected in (([organization], ""), ([organization, *names], "system:node:leaf1")):
        made = certificate(end, subject=x509.Name(parts))
        assert common_name(made) == expected
    with pytest.raises(ValueError, match="cut short"):
        common_name(cut(made))


def cut(pem: bytes) -> bytes:
    """The first third of a certificate, in PEM."""
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    text = base64.encodebytes(der[: len(der) // 3])
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def test_a_key_is_pinned_as_kubeadm_does(tmp_path: Path) -> None:
    """By the SHA-256 of its SubjectPublicKeyInfo in DER."""
    ours, theirs = Authority(tmp_path / "ours").pem, Authority(tmp_path / "theirs").pem
    key = x509.load_pem_x509_certificate(ours).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = f"sha256:{hashlib.sha256(der).hexdigest()}"
    assert key_hash(ours) == pin
    assert pinned(b"# a bundle\n" + theirs + ours, pin) == ours
    assert pinned(theirs, pin) == b""
    for wrong in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="certificate"):
            pinned(wrong, pin)


def body(pem: bytes) -> bytes:
    return b"".join(pem.splitlines(keepends=True)[1:-1])


def block(*lines: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + b"".join(lines) + b"-----END CERTIFICATE-----\n"


def test_only_what_was_hashed_is_passed_on(tmp_path: Path) -> None:
    """Text that Go and OpenSSL read as another certificate than Python does would get round the pin."""
    ours, theirs = Authority(tmp_path / "ours").pem, Authority(tmp_path / "theirs").pem
    pin, der, other = key_hash(ours), *(base64.b64decode(body(pem)) for pem in (ours, theirs))
    for wrong in (
        block(body(ours), b"-----BEGIN CERTIFICATE-----\n", body(theirs)),
        block(body(ours), body(theirs)),
        block(base64.encodebytes(der + other)),
        block(base64.encodebytes(der + b"\0")),
        block(b"Comment: none\n\n", body(ours)),
        block(body(ours), b"=\n", body(theirs)),
        block(body(ours), b"\xc3\xa9\n"),
        block(body(ours)) + block(b"!\n", body(theirs)),
    ):
        with pytest.raises(ValueError, match="certificate"):
            pinned(wrong, pin)
    for around in (
        ours.replace(b"\n", b"\r\n"),
        theirs + b"said: " + ours + b"-----BEGIN CERTIFICATE-----\n",
    ):
        assert pinned(around, pin) == ours


@pytest.mark.parametrize("length", [b"\x80", b"\x81\x03", b"\x82\x00\x85", b"\x83\x00\x01\x05"])
def test_a_length_in_another_spelling_than_ders_is_an_error(length: bytes) -> None:
    """OpenSSL reads an element without a length to its end; taken for an empty one, the next would be hashed."""
    with pytest.raises(ValueError, match="not valid DER"):
        key_hash(block(base64.encodebytes(b"\x30" + length + bytes(0x105))))


def test_a_long_tag_is_an_error() -> None:
    inner = b"\x1f\x02\x01\x00"
    for depth in (inner, b"\x30\x08\x30\x06\xa0\x00" + inner):
        with pytest.raises(ValueError, match="not valid DER"):
            key_hash(block(base64.encodebytes(depth)))
