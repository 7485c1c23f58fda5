"""Read until when a certificate is valid, without a library.

Pure. Checks nothing else: whether a certificate is to be trusted is OpenSSL's business.
"""

from __future__ import annotations

import calendar
import ssl
import time

# The kubelet renews its certificate earlier. Where less is left, there is still time to find out why it did not.
EXPIRY_WARNING_S = 30 * 86_400.0

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"

_SEQUENCE = 0x30
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_VERSION = 0xA0


def not_after(pem: bytes) -> float:
    """The end of the first certificate's validity in `pem`, in seconds since the epoch. Raises ValueError."""
    text = pem.decode("ascii", errors="replace")
    begin, end = text.find(_BEGIN), text.find(_END)
    if not 0 <= begin < end:
        raise ValueError("there is no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    try:
        return _end_of(der)
    except IndexError:
        raise ValueError("its certificate is cut short") from None


def _end_of(der: bytes) -> float:
    """Certificate > tbsCertificate > validity > notAfter (RFC 5280, section 4.1)."""
    certificate = _Reader(der).enter()
    to_be_signed = certificate.enter()
    if to_be_signed.tag == _VERSION:
        to_be_signed.skip()
    for _ in ("serialNumber", "signature", "issuer"):
        to_be_signed.skip()
    validity = to_be_signed.enter()
    validity.skip()
    return validity.instant()


class _Reader:
    """Walks through the elements of one DER sequence. Raises ValueError, IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def tag(self) -> int:
        """The next element's."""
        return self._data[self._at]

    def skip(self) -> bytes:
        """Step over the next element; returns its content."""
        length, at = self._data[self._at + 1], self._at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(self._data[at : at + count], "big"), at + count
        if at + length > len(self._data):
            raise IndexError
        self._at = at + length
        return self._data[at : self._at]

    def enter(self) -> _Reader:
        """Step over the next element, a sequence; returns a reader of what is in it."""
        if self.tag != _SEQUENCE:
            raise ValueError("its certificate is no X.509")
        return _Reader(self.skip())

    def instant(self) -> float:
        """Step over the next element, a time."""
        tag, text = self.tag, self.skip().decode("ascii")
        if tag == _UTC_TIME:
            # Two digits: 1950 to 2049.
            text = ("20" if text < "5" else "19") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError("its certificate has no time of expiry")
        return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
