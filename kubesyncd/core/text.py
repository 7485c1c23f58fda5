"""Shorten and escape text from outside, so that it fits on one line of a log or a terminal."""

from __future__ import annotations

import re

_SHOWN_MAX = 40
_DIGITS_MAX = 20
_UNPRINTABLE = re.compile(r"[^ -~]+")
# Where an address's query or fragment begins.
_QUERY = re.compile("[?#]")
# Stands for a secret in a message.
HIDDEN = "***"


def shown(value: str) -> str:
    """Return the untrusted value in quotes, shortened and escaped for one log line."""
    text = ascii(value[:_SHOWN_MAX])
    return (
        text if len(text) <= _SHOWN_MAX + 2 and len(value) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
    )


def quoted(text: str, length_max: int = 80) -> str:
    """Return the untrusted text in quotes: shortened to `length_max` characters, then escaped."""
    return ascii(shortened(text, length_max))


def escaped(text: str, length_max: int) -> str:
    """Return the first `length_max` characters of `text`, as printable ASCII with escapes."""
    return ascii(text[:length_max])[1:-1]


def number_in(text: str) -> int:
    """Return a text of decimal digits as a number; 0 for any other, and for one of more digits than a counter has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else 0


def one_line(text: object, length_max: int) -> str:
    """Return `text` as one line of printable ASCII, with an ellipsis where it is cut."""
    return shortened(_UNPRINTABLE.sub(" ", str(text)), length_max)


def printable(text: object, length_max: int) -> str:
    """Return `text` as one line in any script, with `?` for each control character and an ellipsis where it is cut."""
    words = " ".join(str(text).split())
    return shortened("".join(letter if letter.isprintable() else "?" for letter in words), length_max)


def shortened(text: str, length_max: int) -> str:
    """Return at most `length_max` characters of `text`, with an ellipsis where it is cut."""
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."


def public_address(address: str) -> str:
    """Return the address without what may be secret in it: user and password, query and fragment.

    Of an invalid address, too: a password that is not encoded may have any character in it.
    """
    scheme, mark, rest = address.partition("://")
    if not scheme.isalnum():
        scheme, mark, rest = "", "", address
    user, at, place = rest.rpartition("@")
    if (at and _QUERY.search(user)) or place.startswith(":"):
        return f"{scheme}{mark}{HIDDEN}"
    query = _QUERY.search(place)
    shown_place = place if query is None else f"{place[: query.end()]}{HIDDEN}"
    return "".join((scheme, mark, HIDDEN if at else "", at, shown_place))


def public_text(text: str) -> str:
    """Return the text; where it has an address in it, as `public_address` does."""
    return public_address(text) if "://" in text else text
