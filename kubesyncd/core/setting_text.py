"""Declare the form of a text of the settings file in the field that holds it: an address, a path, a name, a key.

The loader of the settings file reads the form, and so does the program that writes the pages about the settings. The
libraries that use these texts must accept each one that has its form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from kubesyncd.core.host import is_host
from kubesyncd.core.model import DNS_LABEL, valid_feature_name
from kubesyncd.core.text import HIDDEN, public_address, public_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import Field

_Default = TypeVar("_Default")

FORM = "form"
# The metadata of a list that needs an element.
NOT_EMPTY = {"not_empty": True}
# The kernel's limit of a socket's path.
SOCKET_PATH_BYTES_MAX = 107
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.service")
_CA_HASH = re.compile(r"sha256:[0-9a-f]{64}")
# 42 bytes in base64, of which the first two are "Ed".
_PUBLIC_KEY = re.compile(r"RW[Q-T][A-Za-z0-9+/]{53}")
_PLACE = r"(?:[A-Za-z0-9._-]+|(?P<ipv6>\[[^\[\]]+\]))(?::(?P<port>[0-9]{1,5}))?"
_HTTPS = re.compile(rf"https://{_PLACE}(?:[/?][^#\s]*)?")
# The options of redis-py's addresses that the daemon does not set itself.
_OPTION = r"(?:(?:username|password)=[^&#\s]*|db=[0-9]{1,9})"
_OPTIONS = rf"(?:\?{_OPTION}(?:&{_OPTION})*)?"
_REDIS = re.compile(rf"rediss?://(?:[^@/?#\s]*@)?{_PLACE}(?:/[0-9]{{0,9}})?{_OPTIONS}")
_REDIS_SOCKET = re.compile(rf"unix://(?:[^@/?#\s]*@)?(?P<path>/[^?#]*){_OPTIONS}")
_REDIS_USER = re.compile(r"\S{1,64}")
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class TextForm:
    """`fits`: whether a text has the form; `says`: which texts have it. An empty text fits only where `optional`.

    `public`: returns a text without what may be secret in it, for a message.
    """

    fits: Callable[[str], object]
    says: str
    optional: bool
    public: Callable[[str], str] = public_text

    def __contains__(self, text: str) -> bool:
        if not text:
            return self.optional
        return text.isprintable() and bool(self.fits(text))

    def __str__(self) -> str:
        return f"{self.says}, or empty" if self.optional else self.says


def form_of(key: Field[Any]) -> TextForm | None:
    """Return the form of a text's field; None: any text is allowed."""
    found: TextForm | None = key.metadata.get(FORM)
    return found


def path(default: str, *, optional: bool = False) -> str:
    """Return a dataclass field with this default that holds an absolute path."""
    return _text(default, _is_path, "an absolute path", optional=optional)


def secret_path(default: str) -> str:
    """Return a dataclass field with this default that holds the path of a file with a secret, or is empty.

    No other text is shown: it may be the secret itself.
    """
    return _text(default, _is_path, "an absolute path", optional=True, public=_only_path)


def socket_path(default: str) -> str:
    """Return a dataclass field with this default that holds the path of a Unix socket."""
    says = f"an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes"
    return _text(default, _is_socket_path, says)


def service(default: str) -> str:
    """Return a dataclass field with this default that holds a service's name."""
    return _text(default, _UNIT.fullmatch, "the name of a unit, NAME.service")


def redis_url(default: str) -> str:
    """Return a dataclass field with this default that holds the address of a Redis server."""
    says = "unix:///PATH, redis://HOST:PORT or rediss://HOST:PORT"
    return _text(default, _is_redis_url, says, optional=True, public=public_address)


def redis_user(default: str) -> str:
    """Return a dataclass field with this default that holds the name of a user at Redis."""
    return _text(default, _REDIS_USER.fullmatch, "a name without spaces", optional=True)


def docker_url(default: str) -> str:
    """Return a dataclass field with this default that holds the address of a Docker engine."""
    return _text(default, _is_docker_url, "unix:///PATH", public=public_address)


def cri_url(default: str) -> str:
    """Return a dataclass field with this default that holds the address of a container runtime."""
    return _text(default, _is_docker_url, "unix:///PATH", optional=True, public=public_address)


def https_url(default: str) -> str:
    """Return a dataclass field with this default that holds the https address of a file."""
    says = "https://HOST/FILE; only https is allowed"
    return _text(default, _is_https_url, says, optional=True, public=public_address)


def admin_url(default: str) -> str:
    """Return a dataclass field with this default that holds a pattern of an https address."""
    says = "https://HOST/FILE, in which {ip} and {port} are the master's"
    return _text(default, _is_admin_url, says, public=public_address)


def ca_hash(default: str) -> str:
    """Return a dataclass field with this default that holds the hash of a certificate authority."""
    return _text(default, _CA_HASH.fullmatch, "sha256: and 64 hexadecimal digits", optional=True)


def public_key(default: str) -> str:
    """Return a dataclass field with this default that holds a public key of minisign."""
    says = "the second line of minisign.pub"
    return _text(default, _PUBLIC_KEY.fullmatch, says, optional=True)


def feature_names(*default: str) -> tuple[str, ...]:
    """Return a dataclass field with this default that holds a list of features."""
    return _text(default, valid_feature_name, "a list of names of features")


def namespace_names(*default: str) -> tuple[str, ...]:
    """Return a dataclass field with this default that holds a list of Kubernetes' namespaces, at least one."""
    says = "a non-empty list of namespaces: lower-case letters, digits and -, at most 63 characters each"
    return _text(default, DNS_LABEL.fullmatch, says, not_empty=True)


def _text(
    default: _Default,
    fits: Callable[[str], object],
    says: str,
    *,
    optional: bool = False,
    public: Callable[[str], str] = public_text,
    not_empty: bool = False,
) -> _Default:
    more = NOT_EMPTY if not_empty else {}
    return field(default=default, metadata={FORM: TextForm(fits, says, optional, public), **more})


def _is_path(text: str) -> bool:
    return text.startswith("/")


def _only_path(text: str) -> str:
    return text if _is_path(text) else HIDDEN


def _is_socket_path(text: str) -> bool:
    return _is_path(text) and not text.endswith("/") and len(text.encode()) <= SOCKET_PATH_BYTES_MAX


def _is_docker_url(text: str) -> bool:
    # A plain path is a socket as well.
    return _is_socket_path(text.removeprefix("unix://"))


def _is_redis_url(text: str) -> bool:
    found = _REDIS_SOCKET.fullmatch(text)
    return _is_socket_path(found["path"]) if found is not None else _has_place(_REDIS.fullmatch(text))


def _is_https_url(text: str) -> bool:
    return _has_place(_HTTPS.fullmatch(text))


def _is_admin_url(text: str) -> bool:
    text = text.replace("{ip}", "192.0.2.1").replace("{port}", "6443")
    return "{" not in text and "}" not in text and _is_https_url(text)


def _has_place(found: re.Match[str] | None) -> bool:
    """Return whether an address was found: brackets, if any, hold an IPv6 address, and a port, if any, is valid."""
    return (
        found is not None
        and (found["ipv6"] is None or is_host(found["ipv6"]))
        and (found["port"] is None or 0 < int(found["port"]) <= _PORT_MAX)
    )
