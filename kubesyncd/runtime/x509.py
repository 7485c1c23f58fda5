"""Read the expiry time of a certificate, without a library.

Pure. Checks nothing else: OpenSSL verifies certificates.
"""

from __future__ import annotations

import calendar
import ssl
import time

# The kubelet renews its certificate earlier. Where less is left, there is still time to find the reason.
EXPIRY_WARNING_S = 30 * 86_400.0

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"

_SEQUENCE = 0x30
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_VERSION = 0xA0


def not_after(pem: bytes) -> float:
    """Return the end of the first certificate's validity in `pem`, in seconds since the epoch. Raises ValueError."""
    text = pem.decode("ascii", errors="replace")
    begin, end = text.find(_BEGIN), text.find(_END)
    if not 0 <= begin < end:
        raise ValueError("no certificate found in it")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    try:
        return _end_of(der)
    except IndexError:
        raise ValueError("its certificate is cut short") from None


def _end_of(der: bytes) -> float:
    """Read Certificate > tbsCertificate > validity > notAfter (RFC 5280, section 4.1)."""
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
    """Reads the elements of one DER sequence in order. Raises ValueError, IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def tag(self) -> int:
        """The tag of the next element."""
        return self._data[self._at]

    def skip(self) -> bytes:
        """Read the next element; return its content."""
        length, at = self._data[self._at + 1], self._at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(self._data[at : at + count], "big"), at + count
        if at + length > len(self._data):
            raise IndexError
        self._at = at + length
        return self._data[at : self._at]

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
