"""Build the documents by which kubeadm introduces a switch to its master, from the available credential.

Pure: bytes in, bytes out. A kubeconfig from the network may name programs to run and files to read; only its
certificates, key and token are used.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from kubesyncd.ports import Refused
from kubesyncd.runtime import kubeconfig, x509

if TYPE_CHECKING:
    from kubesyncd.runtime.kubeconfig import Kubeconfig

SERVICE = "Kubernetes"
DOCUMENT_BYTES_MAX = 256 * 1024
# kubeadm retries an unknown token; its own limit, 5 min, is the limit of a whole join here.
DISCOVERY_TIMEOUT = "30s"

# Every other user entry of a kubeconfig runs a program or reads a file of this switch.
_USER_KEYS = ("client-certificate-data", "client-key-data", "token")
_CONTEXT = "switch@master"
_CA_KEY = "certificate-authority-data"
# kubeadm's own API versions: before 1.22 it reads v1beta2 only, from then on v1beta3 too.
_V1BETA3_SINCE = (1, 22)


def only_pinned(ca: bytes, pin: str, source: str) -> bytes:
    """Return what of `ca` (PEM, from `source`) the pin names; without a pin, all. Raises Refused where none is."""
    if not pin:
        return ca
    try:
        found = x509.pinned(ca, pin)
    except ValueError as error:
        raise Refused(SERVICE, f"the CA that {source} gives cannot be read: {error}") from error
    if not found:
        raise Refused(
            SERVICE,
            f"the CA that {source} gives is not the pinned one; correct [kube] ca_cert_hash, or that CA",
        )
    return found


def for_master(document: bytes, master: str, ca: bytes | None, pin: str, source: str) -> bytes:
    """Build from `document`'s current context a kubeconfig for `master` (`ip:port`), with nothing else of it.

    `ca`: used when the document has no CA. `pin`: see only_pinned; `source`: where the document is from. Raises
    Refused where the document cannot be used to join.
    """
    config = _current(document)
    foreign = sorted(config.user_keys.difference(_USER_KEYS))
    if foreign:
        raise Refused(
            SERVICE, f"the master's admin.conf names its user by {foreign[0][:40]}; it must be inline"
        )
    if not (config.token or (config.certificate.inline and config.key.inline)):
        raise Refused(SERVICE, "the master's admin.conf has neither a token nor a certificate with its key")
    inside = config.ca.inline or (_base64(ca) if ca else "")
    if not inside:
        raise Refused(
            SERVICE,
            "the master's admin.conf has no certificate-authority-data; put the CA in it or set [kube] ca_file",
        )
    inside = _only_pinned_inline(inside, pin, source)
    found = zip(_USER_KEYS, (config.certificate.inline, config.key.inline, config.token), strict=True)
    return _kubeconfig(master, inside, {key: value for key, value in found if value})


def is_ours(document: bytes) -> bool:
    """Return whether this module built the document; otherwise an operator has put it there."""
    try:
        tree = json.loads(document)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get("current-context") == _CONTEXT


def from_certificate(master: str, ca: bytes, certificate: bytes, key: bytes) -> bytes:
    """Build a kubeconfig for `master` from a client certificate installed on this switch (all PEM)."""
    user = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
    return _kubeconfig(master, _base64(ca), user)


def from_token(
    master: str, token: str, ca_hash: str, node: str, cri_socket: str, kubeadm: tuple[int, int]
) -> bytes:
    """Build kubeadm's configuration for a bootstrap token: in a file, because any user can read a command line.

    `kubeadm`: its major and minor version.
    """
    group = "v1beta3" if kubeadm >= _V1BETA3_SINCE else "v1beta2"
    registration = {"name": node, **({"criSocket": cri_socket} if cri_socket else {})}
    discovery = {"apiServerEndpoint": master, "token": token, "caCertHashes": [ca_hash]}
    document = {
        "apiVersion": f"kubeadm.k8s.io/{group}",
        "kind": "JoinConfiguration",
        "discovery": {"bootstrapToken": discovery, "timeout": DISCOVERY_TIMEOUT},
        "nodeRegistration": registration,
    }
    return json.dumps(document, indent=1).encode()


def _current(document: bytes) -> Kubeconfig:
    if len(document) > DOCUMENT_BYTES_MAX:
        raise Refused(SERVICE, f"the master's admin.conf is longer than {DOCUMENT_BYTES_MAX} bytes")
    try:
        return kubeconfig.parse(document)
    except ValueError as error:
        detail = "the master's admin.conf is an invalid kubeconfig; check [kube] admin_conf_url"
        raise Refused(SERVICE, detail) from error


def _kubeconfig(master: str, ca: str, user: dict[str, str]) -> bytes:
    """Encode as JSON, which is valid YAML."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "master", "cluster": {"server": f"https://{master}", _CA_KEY: ca}}],
        "users": [{"name": "switch", "user": user}],
        "contexts": [{"name": _CONTEXT, "context": {"cluster": "master", "user": "switch"}}],
        "current-context": _CONTEXT,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _only_pinned_inline(inline: str, pin: str, source: str) -> str:
    if not pin:
        return inline
    try:
        ca = base64.b64decode(inline, validate=True)
    except ValueError as error:
        raise Refused(SERVICE, f"the CA that {source} gives cannot be read: {error}") from error
    return _base64(only_pinned(ca, pin, source))


def _base64(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
