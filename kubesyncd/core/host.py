"""Spell a master's address in one way, so that addresses are compared as addresses and never as text.

Knows no database, no network and no name service: a host name and an IP address are never the same host.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

# The last part has a letter: 300.1.1.1 and 10.1.2 are mistyped addresses, not names.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:]+):([0-9]{1,5})")
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?=[^.]*[A-Za-z])({_LABEL})\.?")


def is_host(text: str) -> bool:
    """Return whether this is an IP address (IPv6 also in brackets, never with a zone) or a host name; no port."""
    bare = _without_brackets(text)
    try:
        found = ip_address(bare)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return "%" not in text and (found.version == 6 or bare == text)


def canonical_host(text: str) -> str:
    """Return the one spelling of an address or host name: two texts are the same host exactly where it is equal.

    An IP address without brackets in its shortest form, an IPv4 address mapped into IPv6 as IPv4 (the connection is
    the same), a host name in lower case without its final dot. Anything else is returned in lower case.
    """
    bare = _without_brackets(text.strip())
    try:
        found = ip_address(bare)
    except ValueError:
        return bare.lower().removesuffix(".")
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def host_port(host: str, port: int) -> str:
    """Return `host:port` as a URL has it: the host's one spelling, an IPv6 address in brackets."""
    known = canonical_host(host)
    return f"[{known}]:{port}" if ":" in known else f"{known}:{port}"


def canonical_host_port(text: str) -> str:
    """Return the one spelling of `host:port`; a text without a port is returned as a host."""
    found = _HOST_PORT.fullmatch(text)
    return canonical_host(text) if found is None else host_port(found[1], int(found[2]))


def _without_brackets(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text
