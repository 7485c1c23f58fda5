"""Get the credential by which this switch joins: from the settings, from the master, or from where SONiC installs one.

Knows the adapter that asks the master, and which files hold a credential; knows no step of a join.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from kubesyncd.adapters import kube_member
from kubesyncd.adapters.kube_member import Member
from kubesyncd.core.text import public_address
from kubesyncd.join import credential
from kubesyncd.join.plan import address
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime import kubeconfig

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.adapters.kubeadm import Kubeadm
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.join.files import JoinFiles
    from kubesyncd.settings import KubeSettings

SERVICE = "Kubernetes"
FILE_BYTES_MAX = 256 * 1024
# Beside admin.conf: the switch's certificate for its REST API, by which fleets of SONiC 202405 and newer join.
INSTALLED = ("credentials/restapiserver.crt", "credentials/restapiserver.key")
PIN_IT = (
    'set [kube] ca_cert_hash = "sha256:…"; the master prints it: kubeadm token create --print-join-command'
)


class JoinMethod(StrEnum):
    """The credential by which a switch joins, as the membership records it."""

    ADMIN_CONF = "admin.conf"
    BOOTSTRAP = "token"
    CERTIFICATE = "certificate"


class CredentialSource:
    """The credential for one join. `kube`: with the name under which it joins. `method`: set by `fetch` at last."""

    def __init__(
        self,
        kube: KubeSettings,
        master: MasterConfig,
        files: JoinFiles,
        kubeadm: Kubeadm,
        log: FilteringBoundLogger,
    ) -> None:
        self._kube = kube
        self._master = master
        self._files = files
        self._kubeadm = kubeadm
        self._log = log
        self.method = JoinMethod.CERTIFICATE if kube.client_certificate else JoinMethod.ADMIN_CONF
        if kube.bootstrap_token_file:
            self.method = JoinMethod.BOOTSTRAP

    async def fetch(self) -> str:
        """Write the credential for kubeadm; return where it is from. Raises PortError."""
        where = address(self._master)
        match self.method:
            case JoinMethod.BOOTSTRAP:
                document, said = await self._token(where), "a bootstrap token"
            case JoinMethod.CERTIFICATE:
                pair = self._configured()
                document, said = await self._certificate(where, pair), f"the client certificate {pair[0]}"
            case JoinMethod.ADMIN_CONF:
                document, said = await self._admin_conf(where)
            case _:
                assert_never(self.method)
        self._files.write_secret(self._files.credential, document)
        return said

    def kept(self) -> tuple[Path, Path]:
        """Return where an administrator's credential may be on this switch: in use, or moved aside by a reset."""
        return self._files.admin_conf, self._files.admin_conf_aside

    def for_reset(self) -> Path | None:
        """Write the client certificate's kubeconfig for the master of the kubelet's credential, which a reset leaves.

        Such a switch may have the right to delete its Node. None without such a certificate.
        """
        pair = self._configured() if self._kube.client_certificate else self._installed()
        if pair is None or not self._files.kubeconfig.exists():
            return None
        try:
            config = kubeconfig.parse(read_file(self._files.kubeconfig))
            named = self._files.kubeconfig.parent / config.ca.file
            ca = config.ca.decoded() if config.ca.inline else read_file(named)
            document = credential.from_certificate(
                config.server.removeprefix("https://"), ca, read_file(pair[0]), read_file(pair[1])
            )
        except (PortError, ValueError):
            return None
        self._files.write_secret(self._files.credential, document)
        return self._files.credential

    async def _token(self, where: str) -> bytes:
        kube = self._kube
        token = read_file(Path(kube.bootstrap_token_file)).decode(errors="replace").strip()
        if not kube.ca_cert_hash:
            raise Refused(SERVICE, 'a bootstrap token needs [kube] ca_cert_hash = "sha256:…"')
        version = await self._kubeadm.version()
        return credential.from_token(
            where, token, kube.ca_cert_hash, kube.node_name, kube.cri_socket, version
        )

    # ---- client certificate ---------------------------------------------------------------------

    def _configured(self) -> tuple[Path, Path]:
        return Path(self._kube.client_certificate), Path(self._kube.client_key)

    def _installed(self) -> tuple[Path, Path] | None:
        """Return the certificate and key that SONiC has installed, if they are there."""
        certificate, key = (self._files.admin_conf.parent / name for name in INSTALLED)
        return (certificate, key) if certificate.exists() and key.exists() else None

    async def _certificate(self, where: str, pair: tuple[Path, Path]) -> bytes:
        """Build the kubeconfig of a client certificate; its CA is `ca_file`, or the master's own one, if pinned."""
        self.method = JoinMethod.CERTIFICATE
        certificate, key = (read_file(path) for path in pair)
        if file := self._kube.ca_file:
            ca = credential.only_pinned(read_file(Path(file)), self._kube.ca_cert_hash, file)
        elif self._kube.ca_cert_hash:
            ca = await self._pinned_ca(where, certificate, key)
        else:
            raise Refused(SERVICE, f"the client certificate {pair[0]} needs the master's CA; {PIN_IT}")
        return credential.from_certificate(where, ca, certificate, key)

    async def _pinned_ca(self, where: str, certificate: bytes, key: bytes) -> bytes:
        """Ask the master for its CA, before it can be verified; return only what the pin names. Raises PortError."""
        asking = self._files.credential
        self._files.write_secret(asking, credential.from_certificate(where, b"", certificate, key))
        async with Member.open(asking, self._kube.node_name, insecure=True) as member:
            given = await member.root_ca()
        return credential.only_pinned(given, self._kube.ca_cert_hash, where)

    # ---- admin.conf -----------------------------------------------------------------------------

    async def _admin_conf(self, where: str) -> tuple[bytes, str]:
        """Fetch the master's admin.conf; where it is not served, use what is on this switch."""
        url = self._kube.admin_conf_url.replace("{ip}", where.rpartition(":")[0])
        url = url.replace("{port}", str(self._master.port))
        told = public_address(url)
        if self._master.insecure:
            self._log.warning(
                "insecure_master", url=told, why="any certificate is accepted; see insecure off"
            )
        ca = read_file(Path(self._kube.ca_file)) if self._kube.ca_file else None
        try:
            fetched = await kube_member.fetch(url, ca_file=self._kube.ca_file, insecure=self._master.insecure)
        except (Refused, Unavailable) as error:
            return await self._on_switch(where, ca, error)
        pin = self._kube.ca_cert_hash
        return credential.for_master(fetched, where, ca, pin, told), f"from {told}"

    async def _on_switch(
        self, where: str, ca: bytes | None, not_served: Refused | Unavailable
    ) -> tuple[bytes, str]:
        """Return a credential of this switch in place of the master's admin.conf. Raises PortError.

        Where the CA is known, the installed certificate comes before an admin.conf that ctrmgrd has left.
        """
        pair = self._installed()
        if pair is not None and (self._kube.ca_cert_hash or self._kube.ca_file):
            self._log.info("installed_certificate", why=f"{not_served.detail}; {pair[0]} is used")
            return await self._certificate(where, pair), f"the installed certificate {pair[0]}"
        kept = next((path for path in self.kept() if path.exists()), None)
        if kept is not None and isinstance(not_served, Unavailable):
            self._log.warning("admin_conf_kept", why=f"{not_served.detail}; the kept {kept} is used")
            pin = self._kube.ca_cert_hash
            return credential.for_master(read_file(kept), where, ca, pin, str(kept)), f"kept in {kept}"
        if pair is None:
            raise not_served
        why = (
            f"no admin.conf ({not_served.detail.partition('; ')[0]}), and the CA for {pair[0]} is not pinned"
        )
        raise Refused(SERVICE, f"{why}; {PIN_IT}")


def read_file(path: Path) -> bytes:
    """Read a small file. Raises Refused with its name."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise Refused(SERVICE, f"{path} cannot be read: {error.strerror}") from error
