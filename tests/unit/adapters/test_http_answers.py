"""Every HTTP client turns the same faults into its own errors: status, length, certificate, silence, closed port."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")

from aiohttp import ClientConnectorDNSError
from aiohttp.client_reqrep import ConnectionKey

from kubesyncd.adapters import docker_sync, http_session, kube_member
from kubesyncd.adapters.http_session import Fault, NoAnswer
from kubesyncd.adapters.kube_lists import ClusterLists
from kubesyncd.adapters.kube_member import Member
from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.adapters.package_server import HttpsFiles
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable
from tests.lab.certificates import Authority, write_kubeconfig
from tests.lab.https_answer import Answer, AnswerServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATUS = json.dumps({"kind": "Status", "message": "no\nway"}).encode()
MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnswerServer]:
    with AnswerServer(tmp_path) as server:
        yield server


async def change_a_label(server: AnswerServer) -> None:
    cluster = KubeCluster(server.kubeconfig, lambda: "switch1", MasterConfig(ip="127.0.0.1"))
    try:
        await cluster.apply_labels({"a": "1"})
    finally:
        await cluster.close()


async def ask_the_master(server: AnswerServer) -> str:
    async with Member.open(server.kubeconfig, "switch1") as member:
        return await member.ask()


def list_nodes(server: AnswerServer) -> object:
    return ClusterLists(server.kubeconfig, call_s=60).nodes()


async def get_a_file(server: AnswerServer) -> object:
    return await HttpsFiles(server.ca_file).get(f"{server.url}/x", 1000)


async def fetch_admin_conf(server: AnswerServer) -> bytes:
    return await kube_member.fetch(f"{server.url}/x", ca_file=server.ca_file, insecure=False)


def is_error(caught: pytest.ExceptionInfo[PortError], error: type[PortError], detail: str) -> None:
    assert (type(caught.value), caught.value.detail) == (error, detail)


NOT_REGISTERED = "node switch1 is not registered yet; its kubelet registers it"
UNAUTHORIZED = (
    "the master does not accept the kubelet's certificate, which may have expired, or be another master's: "
    "config kube join -f"
)


@pytest.mark.parametrize(
    ("status", "error", "detail"),
    [
        (302, Unavailable, "302: no way"),
        (400, Refused, "no way"),
        (401, Unavailable, f"401: no way; {UNAUTHORIZED}"),
        (403, Forbidden, "no way"),
        (404, Missing, NOT_REGISTERED),
        (409, Unavailable, "409: no way"),
        (405, Refused, "no way"),
        (408, Unavailable, "408: no way"),
        (410, Refused, "no way"),
        (413, Refused, "no way"),
        (422, Refused, "no way"),
        (429, Unavailable, "429: no way"),
        (500, Unavailable, "500: no way"),
    ],
)
async def test_a_label_change_names_the_servers_reason(
    server: AnswerServer, status: int, error: type[PortError], detail: str
) -> None:
    server.answer = Answer(status, STATUS)
    with pytest.raises(PortError) as caught:
        await change_a_label(server)
    is_error(caught, error, detail)


async def test_a_label_that_a_node_may_not_set_is_refused_and_the_credential_is_not_blamed(
    server: AnswerServer,
) -> None:
    reason = "is not allowed to modify labels: kubernetes.io/x"
    server.answer = Answer(403, json.dumps({"message": reason}).encode())
    with pytest.raises(PortError) as caught:
        await change_a_label(server)
    is_error(caught, Refused, reason)


async def test_a_long_plain_text_answer_is_cut_to_one_line(server: AnswerServer) -> None:
    server.answer = Answer(503, b"<html>\n\x1b[31m" + b"x" * 1000, {"Retry-After": "7"})
    with pytest.raises(Unavailable) as caught:
        await change_a_label(server)
    start = "Service Unavailable: <html> [31m"
    assert caught.value.detail == f"503: {start}{'x' * (237 - len(start))}... (retry_after=7)"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, Refused),
        (400, Refused),
        (401, Forbidden),
        (403, Forbidden),
        (404, Missing),
        (409, Refused),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_a_call_of_a_join_quotes_the_server(
    server: AnswerServer, status: int, error: type[PortError]
) -> None:
    server.answer = Answer(status, STATUS)
    with pytest.raises(PortError) as caught:
        await ask_the_master(server)
    is_error(caught, error, rf"{status}: no\nway")
    server.answer = Answer(status, b"<html>" + b"x" * 1000)
    with pytest.raises(PortError) as caught:
        await ask_the_master(server)
    is_error(caught, error, f"{status}: <html>{'x' * 234}")


@pytest.mark.parametrize(
    ("status", "error", "detail"),
    [
        (302, Unavailable, "the master at {where} cannot answer /api/v1/nodes now (302)"),
        (400, Refused, "the master refuses /api/v1/nodes (400)"),
        (401, Forbidden, "the master refuses our credential for /api/v1/nodes (401); join again"),
        (403, Forbidden, "the master refuses our credential for /api/v1/nodes (403); join again"),
        (404, Missing, "the master at {where} does not have /api/v1/nodes"),
        (429, Refused, "the master refuses /api/v1/nodes (429)"),
        (500, Unavailable, "the master at {where} cannot answer /api/v1/nodes now (500)"),
    ],
)
def test_an_operators_list_names_what_was_asked(
    server: AnswerServer, status: int, error: type[PortError], detail: str
) -> None:
    server.answer = Answer(status, STATUS)
    with pytest.raises(PortError) as caught:
        list_nodes(server)
    is_error(caught, error, detail.format(where=server.where))


@pytest.mark.parametrize(
    ("status", "error", "detail"),
    [
        (302, Refused, "{url} is answered with 302; set [packages] url to where the file is"),
        (304, Refused, "{url} is answered with 304; set [packages] url to where the file is"),
        (403, Refused, "{url} is answered with 403; set [packages] url to where the file is"),
        (404, Missing, "{url} is not there (404)"),
        (408, Unavailable, "{url} is answered with 408"),
        (410, Missing, "{url} is not there (410)"),
        (425, Unavailable, "{url} is answered with 425"),
        (429, Unavailable, "{url} is answered with 429"),
        (206, Unavailable, "{url} is answered with 206"),
        (500, Unavailable, "{url} is answered with 500"),
    ],
)
async def test_a_package_servers_status_is_an_error_with_the_address(
    server: AnswerServer, status: int, error: type[PortError], detail: str
) -> None:
    server.answer = Answer(status, b"" if status == 304 else STATUS)
    with pytest.raises(PortError) as caught:
        await get_a_file(server)
    is_error(caught, error, detail.format(url=f"{server.url}/x"))


@pytest.mark.parametrize("status", [204, 302, 401, 404, 500])
async def test_an_admin_conf_that_is_not_served_is_refused(server: AnswerServer, status: int) -> None:
    server.answer = Answer(status)
    with pytest.raises(PortError) as caught:
        await fetch_admin_conf(server)
    is_error(caught, Refused, f"{server.url}/x is answered with {status}; check [kube] admin_conf_url")


async def test_an_answer_beyond_the_limit_is_not_read_to_its_end(server: AnswerServer) -> None:
    server.answer = Answer(200, b" " * (16 * MIB + 1))
    with pytest.raises(PortError) as caught:
        await ask_the_master(server)
    assert type(caught.value) is Unavailable
    assert caught.value.detail.startswith(f"{server.url}: the answer is longer than 16777216 bytes")
    with pytest.raises(PortError) as caught:
        list_nodes(server)
    is_error(caught, Unavailable, f"the master at {server.where} cannot answer /api/v1/nodes now (200)")
    server.answer = Answer(200, b" " * (256 * 1024 + 1))
    with pytest.raises(PortError) as caught:
        await fetch_admin_conf(server)
    assert type(caught.value) is Unavailable
    assert caught.value.detail.startswith(f"{server.url}/x: the answer is longer than 262144 bytes")
    server.answer = Answer(200, b" " * 1001)
    with pytest.raises(PortError) as caught:
        await get_a_file(server)
    is_error(caught, Refused, f"{server.url}/x is longer than 1000 bytes")
    server.answer = Answer(200, b" " * 1000)
    await get_a_file(server)


async def test_an_answer_that_is_not_json_is_unavailable(server: AnswerServer) -> None:
    server.answer = Answer(200, b"<html>")
    for call in (change_a_label, ask_the_master):
        with pytest.raises(PortError) as caught:
            await call(server)
        assert type(caught.value) is Unavailable
    with pytest.raises(PortError) as caught:
        list_nodes(server)
    is_error(caught, Unavailable, f"{server.where} answers /api/v1/nodes with something that is not JSON")


async def test_a_server_without_tls_is_reported_with_openssls_reason(tmp_path: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    plain = await asyncio.start_server(answer, "127.0.0.1", 0)
    where = "{}:{}".format(*plain.sockets[0].getsockname())
    authority = Authority(tmp_path / "pki")
    pair = authority.issue("client", "system:node:switch1", "system:nodes")
    write_kubeconfig(tmp_path / "plain.conf", f"https://{where}", authority.pem, pair, inline=False)
    cluster = KubeCluster(tmp_path / "plain.conf", lambda: "switch1", MasterConfig(ip="127.0.0.1"))
    async with plain:
        with pytest.raises(Unavailable) as caught:
            await cluster.apply_labels({"a": "1"})
        await cluster.close()
    assert caught.value.detail.startswith(f"{where} cannot be reached: [SSL")


def test_an_unknown_host_is_reported_in_the_resolvers_words() -> None:
    told: list[NoAnswer] = []

    def word(failed: NoAnswer) -> str:
        told.append(failed)
        return ""

    key = ConnectionKey("master.example", 6443, True, True, None, None, None)
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(Unavailable), http_session.answered("Kubernetes", word):
        raise ClientConnectorDNSError(key, unknown)
    (failed,) = told
    assert (failed.fault, failed.where) == (Fault.UNREACHABLE, "master.example:6443")
    assert (failed.reason, failed.errno) == ("Name or service not known", 0)


async def test_a_closed_port_is_unavailable_and_named(tmp_path: Path) -> None:
    with AnswerServer(tmp_path) as server:
        pass
    with pytest.raises(Unavailable) as caught:
        await change_a_label(server)
    assert caught.value.detail == f"{server.where} cannot be reached: Connection refused"
    with pytest.raises(Unavailable) as caught:
        await ask_the_master(server)
    assert caught.value.detail.startswith(f"{server.where} cannot be reached: [Errno 111]")
    with pytest.raises(Unavailable) as caught:
        list_nodes(server)
    assert caught.value.detail == f"the master at {server.where} does not answer (Connection refused)"
    with pytest.raises(Unavailable) as caught:
        await get_a_file(server)
    assert caught.value.detail.startswith(f"{server.url}/x: Cannot connect to host {server.where}")


async def test_a_certificate_of_another_authority_is_not_trusted(
    server: AnswerServer, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    pair = stranger.issue("client", "someone")
    write_kubeconfig(server.kubeconfig, server.url, stranger.pem, pair, inline=False)
    server.ca_file = str(stranger.pair.certificate)
    node = f"check this switch's clock, and that {server.kubeconfig} is from this master"
    join = "check this switch's clock, the address, and the CA ([kube] ca_file)"
    for call, start, end in (
        (change_a_label, "the master's certificate is not trusted: ", f"; {node}"),
        (ask_the_master, f"the certificate of {server.url} is not trusted: ", f"; {join}"),
        (fetch_admin_conf, f"the certificate of {server.url}/x is not trusted: ", f"; {join}"),
        (get_a_file, f"{server.url}/x: Cannot connect to host {server.where}", ""),
    ):
        with pytest.raises(PortError) as caught:
            await call(server)
        assert type(caught.value) is Unavailable
        assert caught.value.detail.startswith(start)
        assert caught.value.detail.endswith(end)


@pytest.mark.parametrize("insecure", [False, True])
async def test_a_token_is_sent_to_the_server_that_the_kubeconfig_trusts(
    server: AnswerServer, insecure: bool
) -> None:
    config = json.loads(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "secret"}
    server.kubeconfig.write_text(json.dumps(config))
    server.answer = Answer(200, b'{"gitVersion": "v1.22.2"}')
    async with Member.open(server.kubeconfig, "switch1", insecure=insecure) as member:
        assert await member.ask() == "v1.22.2"
    assert server.authorizations == ["Bearer secret"]


async def test_a_token_is_not_sent_where_the_kubeconfig_has_no_inline_ca(server: AnswerServer) -> None:
    config = json.loads(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "secret"}
    config["clusters"][0]["cluster"] = {"server": server.url, "certificate-authority": server.ca_file}
    server.kubeconfig.write_text(json.dumps(config))
    with pytest.raises(Unavailable) as caught:
        await ask_the_master(server)
    detail = f"the CA in {server.kubeconfig} cannot be used: 'certificate-authority-data'"
    is_error(caught, Unavailable, detail)
    assert server.authorizations == []


async def test_the_error_of_decoding_is_quoted_without_a_stray_quote_mark(
    server: AnswerServer,
) -> None:
    server.answer = Answer(200, b"<html>")
    with pytest.raises(Unavailable) as caught:
        await ask_the_master(server)
    is_error(caught, Unavailable, f"{server.url}: Expecting value: line 1 column 1 (char 0)")


@contextmanager
def engine(path: Path, answer: Answer) -> Iterator[str]:
    """Answer every request on a Unix socket like this; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    class Server(socketserver.ThreadingUnixStreamServer):
        def handle_error(self, *_: object) -> None:
            """Stay silent about a client that reads no further."""

    with Server(str(path), Handler) as unix:
        thread = threading.Thread(target=unix.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"unix://{path}"
        unix.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>"),
        Answer(200, b"[1]"),
        Answer(200, b'{"Version": "' + b"x" * MIB + b'"}'),
        Answer(200, b"[" * 100_000),
    ],
    ids=["not JSON", "not an object", "too long", "too deep"],
)
def test_an_engine_that_answers_with_anything_else_is_unavailable(tmp_path: Path, answer: Answer) -> None:
    with engine(tmp_path / "docker.sock", answer) as url, pytest.raises(Unavailable) as caught:
        docker_sync.docker_version(url, 60)
    assert caught.value.detail.startswith(f"{url} does not answer (")


def test_a_list_of_containers_that_is_none_has_no_pods(tmp_path: Path) -> None:
    with engine(tmp_path / "docker.sock", Answer(200, b'{"message": "no"}')) as url:
        assert docker_sync.pods(url, ["sonic"], 60) == {}


def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    with pytest.raises(Unavailable) as caught:
        docker_sync.docker_version(url, 60)
    is_error(caught, Unavailable, f"{url} does not answer (No such file or directory)")


def test_a_container_is_inspected_and_a_missing_one_is_not_there(tmp_path: Path) -> None:
    with engine(tmp_path / "docker.sock", Answer(200, b'{"Id": "1"}')) as url:
        assert docker_sync.inspect(url, "snmp", 60) == {"Id": "1"}
    (tmp_path / "docker.sock").unlink()
    with engine(tmp_path / "docker.sock", Answer(404, b'{"message": "no"}')) as url:
        assert docker_sync.inspect(url, "snmp", 60) is None


def test_a_plain_path_of_the_engine_is_allowed_as_for_the_daemon(tmp_path: Path) -> None:
    with engine(tmp_path / "docker.sock", Answer(200, b'{"Version": "24.0.7"}')):
        assert docker_sync.docker_version(str(tmp_path / "docker.sock"), 60) == "24.0.7"


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_the_query_of_an_address_may_be_secret_and_is_not_told(
    server: AnswerServer, status: int
) -> None:
    server.answer = Answer(status, b" " * (256 * 1024 + 1))
    url = f"{server.url}/x?token=hunter2"
    for call in (
        kube_member.fetch(url, ca_file=server.ca_file, insecure=False),
        HttpsFiles(server.ca_file).get(url, 1000),
    ):
        with pytest.raises(PortError) as caught:
            await call
        assert "hunter2" not in str(caught.value)
        assert f"{server.url}/x?***" in str(caught.value)


async def test_an_invalid_header_is_told_without_the_address() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x?token=hunter2"
    async with listener:
        with pytest.raises(Unavailable) as caught:
            await HttpsFiles().get(where, 1000)
    assert "hunter2" not in str(caught.value)
    assert "400, " in str(caught.value)
