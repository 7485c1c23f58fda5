"""Read the current context of a kubeconfig, and create a TLS context from it.

Knows files and OpenSSL; knows no HTTP and no Kubernetes library.
"""

from __future__ import annotations

import base64
import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubesyncd.ports import Unavailable
from kubesyncd.runtime import yaml_reader
from kubesyncd.runtime.x509 import not_after

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = "Kubernetes"


def current_context(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster and the user of the current context. Raises Unavailable where the file cannot be used."""
    try:
        config = yaml_reader.parse(kubeconfig.read_bytes())
        context = _named(config, "context", config["current-context"])
        cluster = _named(config, "cluster", context["cluster"])
        user = _named(config, "user", context["user"])
        if not str(cluster["server"]).startswith("https://"):
            raise Unavailable(SERVICE, f"{kubeconfig}: server {cluster['server']} is not https://")
        return cluster, user
    except OSError as error:
        detail = f"{kubeconfig} cannot be read: {error.strerror}; join the master"
        raise Unavailable(SERVICE, detail) from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise Unavailable(SERVICE, f"{kubeconfig}: invalid kubeconfig; join the master again") from error


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The entry `name` among the kubeconfig's `kind`s."""
    return {entry["name"]: dict(entry[kind]) for entry in config[f"{kind}s"]}[name]


def ends_at(kubeconfig: Path) -> float | None:
    """When the user's certificate expires, in seconds since the epoch; None where that is unknown."""
    try:
        _, user = current_context(kubeconfig)
        return not_after(pem(kubeconfig.parent, user, "client-certificate"))
    except (Unavailable, LookupError, ValueError, OSError):
        return None


def tls_context(
    base: Path, cluster: dict[str, Any], user: dict[str, Any], *, insecure: bool
) -> ssl.SSLContext:
    """Create the client side of TLS; every relative path counts from `base`. Raises Unavailable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=pem(base, cluster, "certificate-authority").decode())
        certificate, key = pem(base, user, "client-certificate"), pem(base, user, "client-key")
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


def pem(base: Path, part: dict[str, Any], key: str) -> bytes:
    """A kubeconfig's `key`: inline (base64) or the file it names. Raises KeyError, ValueError, OSError."""
    inline = part.get(f"{key}-data")
    if inline:
        return base64.b64decode(inline, validate=True)
    return (base / str(part[key])).read_bytes()


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to `content` that exists in memory only."""
    with os.fdopen(os.memfd_create("kubesyncd-credential"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
