"""Load the credential that a kubeconfig's current context names, and create a TLS context from it.

Knows files and OpenSSL; does not know HTTP or the Kubernetes library. runtime.kubeconfig reads the kubeconfig's text.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable
from kubesyncd.runtime.kubeconfig import parse
from kubesyncd.runtime.x509 import not_after

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kubesyncd.runtime.kubeconfig import Kubeconfig, PemSource

SERVICE = "Kubernetes"


def read(path: Path) -> Kubeconfig:
    """Read the kubeconfig at `path`. Raises Unavailable where it cannot be used."""
    try:
        config = parse(path.read_bytes())
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror}; join the master"
        raise Unavailable(SERVICE, detail) from error
    except ValueError as error:
        raise _invalid(path) from error
    if not config.server:
        raise _invalid(path)
    if not config.server.startswith("https://"):
        raise Unavailable(SERVICE, f"{path}: server {config.server} is not https://")
    return config


def _invalid(path: Path) -> Unavailable:
    return Unavailable(SERVICE, f"{path}: invalid kubeconfig; join the master again")


def files(path: Path, config: Kubeconfig) -> tuple[Path, ...]:
    """Return the files that the kubeconfig at `path` names. A relative name counts from the kubeconfig's folder."""
    sources = (config.ca, config.certificate, config.key)
    return tuple(path.parent / source.file for source in sources if source.file)


def certificate_ends_at(path: Path) -> float:
    """Return when the user's certificate expires, in seconds since the epoch.

    Raises Unavailable, KeyError, ValueError, OSError where that is unknown.
    """
    return not_after(_pem(path, read(path).certificate))


def ends_at(path: Path) -> float | None:
    """Return when the user's certificate expires, in seconds since the epoch; None where that is unknown."""
    try:
        return certificate_ends_at(path)
    except (Unavailable, LookupError, ValueError, OSError):
        return None


def tls_context(path: Path, config: Kubeconfig, *, insecure: bool) -> ssl.SSLContext:
    """Create the client side of TLS from the kubeconfig read at `path`. Raises Unavailable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=_pem(path, config.ca).decode())
        certificate, key = _pem(path, config.certificate), _pem(path, config.key)
        # OpenSSL loads a client certificate from a file only; inline ones must not be left in /tmp.
        with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
            context.load_cert_chain(certificate_file, key_file)
    except KeyError as error:
        raise _unusable(f"no {error.args[0]}") from error
    except ssl.SSLError as error:
        raise _unusable(error.reason or str(error)) from error
    except OSError as error:
        raise _unusable(f"{error.filename}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise _unusable("a certificate that is not PEM") from error
    return context


def _unusable(detail: str) -> Unavailable:
    return Unavailable(
        SERVICE, f"the kubeconfig's credential cannot be used: {detail}; join the master again"
    )


def _pem(path: Path, source: PemSource) -> bytes:
    """Return the PEM text, inline or from the file. Raises KeyError where neither is given, ValueError, OSError."""
    if source.inline:
        return source.decoded()
    if not source.file:
        raise KeyError(source.name)
    return (path.parent / source.file).read_bytes()


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield a path to `content` that exists in memory only."""
    with os.fdopen(os.memfd_create("kubesyncd-credential"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
