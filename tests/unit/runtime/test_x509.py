"""Check that the end of a certificate's validity is read right, and that invalid input is an error."""

from __future__ import annotations

import base64
import datetime as dt
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubesyncd.runtime.x509 import not_after

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(end: dt.datetime, name: str = "switch1") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
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
    assert not_after(certificate(epoch + dt.timedelta(seconds=end), name)) == end


def test_the_first_certificate_counts_whatever_surrounds_it() -> None:
    first = certificate(dt.datetime(2031, 5, 1, tzinfo=dt.UTC))
    second = certificate(dt.datetime(2041, 5, 1, tzinfo=dt.UTC))
    key = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    expected = dt.datetime(2031, 5, 1, tzinfo=dt.UTC).timestamp()
    assert not_after(b"subject=CN = switch1\n" + first + second + key) == expected
    assert not_after(key + first) == expected


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
            not_after(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"), float
        )


@pytest.mark.parametrize(
    "text", [b"", b"-----BEGIN CERTIFICATE-----", b"\xff\xfe", b"-----END CERTIFICATE-----"]
)
def test_an_invalid_certificate_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        not_after(text)
