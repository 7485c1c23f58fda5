"""Read the validity, the subject's common name and the key's hash of a certificate, without a library.

Pure. Checks nothing else: OpenSSL verifies certificates.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import ssl
import time
from typing import TYPE_CHECKING

from kubesyncd.core.certificate_life import CertificateLife

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"

_SEQUENCE = 0x30
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_VERSION = 0xA0
# Behind these bits the tag goes on.
_LONG_TAG = 0x1F
# The object identifier 2.5.4.3.
_COMMON_NAME = b"\x55\x04\x03"


def life(pem: bytes) -> CertificateLife:
    """Return the validity of the first certificate in `pem`. Raises ValueError."""
    try:
        validity = _to_validity(pem).enter()
        return CertificateLife(validity.instant(), validity.instant())
    except IndexError:
        raise ValueError("its certificate is cut short") from None


def common_name(pem: bytes) -> str:
    """Return the subject's common name of the first certificate in `pem`; empty without one. Raises ValueError."""
    try:
        to_be_signed = _to_validity(pem)
        to_be_signed.skip()
        return _common_name(to_be_signed.enter())
    except IndexError:
        raise ValueError("its certificate is cut short") from None


def key_hash(pem: bytes) -> str:
    """Return the hash of the first certificate's public key, as kubeadm spells it: `sha256:...`. Raises ValueError."""
    try:
        to_be_signed = _to_validity(pem)
        for _ in ("validity", "subject"):
            to_be_signed.skip()
        return f"sha256:{hashlib.sha256(to_be_signed.whole()).hexdigest()}"
    except IndexError:
        raise ValueError("its certificate is cut short") from None


def pinned(pem: bytes, pin: str) -> bytes:
    """Return the certificates in `pem` whose public key has this hash (see key_hash), encoded here. Raises ValueError.

    Only what was hashed is passed on: another reader of the same text could find other certificates in it.
    """
    encoded = map(ssl.DER_cert_to_PEM_cert, _certificates(pem))
    return "".join(one for one in encoded if key_hash(one.encode()) == pin).encode()


def _certificates(pem: bytes) -> Iterator[bytes]:
    """Yield each certificate of `pem` in DER. Raises ValueError without one, or where one is not exactly that."""
    text, at = pem.decode("ascii", errors="replace"), 0
    while (begin := text.find(_BEGIN, at)) >= 0 and (end := text.find(_END, begin)) >= 0:
        at = end + len(_END)
        yield _decoded(text[begin + len(_BEGIN) : end])
    if not at:
        raise ValueError("no certificate found in it")


def _decoded(body: str) -> bytes:
    """Decode the lines of a PEM block: base64 alone, of one element alone. Raises ValueError."""
    try:
        der = base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise ValueError("its certificate is not valid base64") from None
    try:
        whole = _Reader(der).whole()
    except IndexError:
        raise ValueError("its certificate is cut short") from None
    if whole != der:
        raise ValueError("its certificate has other data behind it")
    return der


def _to_validity(pem: bytes) -> _Reader:
    """Return a reader of tbsCertificate that is before its validity (RFC 5280, section 4.1)."""
    certificate = _Reader(next(_certificates(pem))).enter()
    to_be_signed = certificate.enter()
    if to_be_signed.tag == _VERSION:
        to_be_signed.skip()
    for _ in ("serialNumber", "signature", "issuer"):
        to_be_signed.skip()
    return to_be_signed


def _common_name(subject: _Reader) -> str:
    """Read the last common name of a Name: a sequence of sets of pairs of an identifier and a string."""
    found = ""
    while subject.more:
        pairs = _Reader(subject.skip())
        while pairs.more:
            pair = pairs.enter()
            if pair.skip() == _COMMON_NAME:
                found = pair.skip().decode(errors="replace")
    return found


class _Reader:
    """Reads the elements of one DER sequence in order. Raises ValueError, IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def tag(self) -> int:
        """The tag of the next element."""
        return self._data[self._at]

    @property
    def more(self) -> bool:
        """Whether an element is left."""
        return self._at < len(self._data)

    def skip(self) -> bytes:
        """Read the next element; return its content.

        DER has one spelling of each length. Other readers take others of BER in other ways, and a pin must not.
        """
        if self.tag & _LONG_TAG == _LONG_TAG:
            raise ValueError("its certificate is not valid DER")
        length, at = self._data[self._at + 1], self._at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(self._data[at : at + count], "big"), at + count
            if length < 0x80 or length >> 8 * (count - 1) == 0:
                raise ValueError("its certificate is not valid DER")
        if at + length > len(self._data):
            raise IndexError
        self._at = at + length
        return self._data[at : self._at]

    def whole(self) -> bytes:
        """Read the next element; return it with its tag and length."""
        begin = self._at
        self.skip()
        return self._data[begin : self._at]

    def enter(self) -> _Reader:
        """Read the next element, a sequence; return a reader of its elements."""
        if self.tag != _SEQUENCE:
            raise ValueError("its certificate is not valid X.509")
        return _Reader(self.skip())

    def instant(self) -> float:
        """Read the next element, a time, as seconds since the epoch."""
        tag, text = self.tag, self.skip().decode("ascii")
        if tag == _UTC_TIME:
            # Two digits: 1950 to 2049.
            text = ("20" if text < "5" else "19") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError("its certificate has no time of expiry")
        return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
