"""Load the credential that a kubeconfig's current context names, and create a TLS context from it.

Knows files and OpenSSL; does not know HTTP or the Kubernetes library. runtime.kubeconfig reads the kubeconfig's text.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kubesyncd.core.node_name import certified_name
from kubesyncd.core.text import public_address
from kubesyncd.ports import Unavailable
from kubesyncd.runtime.file_stamp import stamp_of
from kubesyncd.runtime.kubeconfig import parse
from kubesyncd.runtime.x509 import common_name, life

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kubesyncd.core.certificate_life import CertificateLife
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
        raise Unavailable(SERVICE, f"{path}: server {public_address(config.server)} is not https://")
    return config


def _invalid(path: Path) -> Unavailable:
    return Unavailable(SERVICE, f"{path}: invalid kubeconfig; join the master again")


def files(path: Path, config: Kubeconfig) -> tuple[Path, ...]:
    """Return the files that the kubeconfig at `path` names. A relative name counts from the kubeconfig's folder."""
    sources = (config.ca, config.certificate, config.key)
    return tuple(path.parent / source.file for source in sources if source.file)


def certificate_life(path: Path) -> CertificateLife:
    """Return the validity of the user's certificate.

    Raises Unavailable, KeyError, ValueError, OSError where that is unknown.
    """
    return life(_pem(path, read(path).certificate))


def known_life(path: Path) -> CertificateLife | None:
    """Return the validity of the user's certificate; None where that is unknown."""
    try:
        return certificate_life(path)
    except (Unavailable, LookupError, ValueError, OSError):
        return None


class CertifiedName:
    """The Node's name in the kubeconfig's certificate. It is read again after a change of one of the files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: tuple[Path, ...] = (path,)
        self._stamp: tuple[object, ...] | None = None
        self._name = ""

    def __call__(self) -> str:
        """Return the name; empty where the certificate cannot be read, or is not a Node's. Never raises."""
        if self._stamp != stamp(self._files):
            self._read()
        return self._name

    def _read(self) -> None:
        # Each file's stamp is taken before the file is read: what changes meanwhile is read again.
        self._files, self._name = (self._path,), ""
        self._stamp = stamp(self._files)
        try:
            config = read(self._path)
            named = files(self._path, config)
            self._files, self._stamp = (self._path, *named), (*self._stamp, *stamp(named))
            self._name = certified_name(common_name(_pem(self._path, config.certificate)))
        except (Unavailable, LookupError, ValueError, OSError):
            return


def stamp(paths: tuple[Path, ...]) -> tuple[object, ...]:
    """Return a value that changes whenever one of `paths` does; a missing file counts as a change, not as an error."""
    return tuple(stamp_of(path) for path in paths)


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
