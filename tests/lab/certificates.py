"""Make the certificates and kubeconfigs of a lab cluster: one CA in a folder, and what it signs.

Knows X.509 and the kubeconfig's shape; no server and no client.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A CA whose pair lives in `folder` (`ca.crt`, `ca.key`); made there when it is not."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = Pair(folder / "ca.crt", folder / "ca.key")
        if not self.pair.certificate.exists():
            self._make()

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.pair.certificate.read_bytes()

    def issue(
        self,
        name: str,
        common_name: str,
        organization: str = "",
        *,
        server: bool = False,
        host: str = "127.0.0.1",
        valid: dt.timedelta = 300 * DAY,
        age: dt.timedelta = 2 * DAY,
    ) -> Pair:
        """A pair `name.crt`, `name.key`, replaced atomically; a negative `valid` makes an expired one.

        `age`: since when it is valid. `host`: the address that a server's is good for, besides localhost.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name, organization))
            .issuer_name(x509.load_pem_x509_certificate(self.pem).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - age)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        if server:
            names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        ca_key = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        _write(pair.key, _key_pem(key))
        _write(
            pair.certificate, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        return pair

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = _name("lab-ca", "")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.pair.key, _key_pem(key))
        _write(self.pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def service_account_keys(folder: Path) -> Pair:
    """A bare key pair (`sa.pub`, `sa.key`), which a real API server wants for its tokens."""
    pair = Pair(folder / "sa.pub", folder / "sa.key")
    if not pair.key.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(pair.certificate, public)
        _write(pair.key, _key_pem(key))
    return pair


def write_kubeconfig(path: Path, server: str, ca_pem: bytes, pair: Pair, *, inline: bool) -> None:
    """A kubeconfig, mode 0600 (JSON, which is YAML). `inline`: the pair goes inside, as kubeadm does
    in admin.conf; else as paths, as the kubelet keeps its own.
    """
    user = (
        {"client-certificate-data": _b64(pair.certificate), "client-key-data": _b64(pair.key)}
        if inline
        else {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    )
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca_pem).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "current-context": "lab",
    }
    _write(path, json.dumps(config, indent=1).encode())


def write_kubeconfigs(authority: Authority, server: str, node: str, *, admin: Path, kubelet: Path) -> None:
    """An administrator's and a kubelet's kubeconfig, with fresh certificates."""
    issued = authority.issue("admin", "admin", "system:masters")
    write_kubeconfig(admin, server, authority.pem, issued, inline=True)
    issued = authority.issue("kubelet", f"system:node:{node}", "system:nodes")
    write_kubeconfig(kubelet, server, authority.pem, issued, inline=False)


def _name(common_name: str, organization: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    os.replace(fresh, path)
