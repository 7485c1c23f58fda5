"""Check that the daemon loads only the modules that it uses."""

import os
import subprocess
import sys
from pathlib import Path

from kubesyncd.runtime.lean_imports import TLS_BUFFER_BYTES
from tests.lab.certificates import Authority

PROGRAM = """
import os, ssl, sys
from kubesyncd.runtime import lean_imports
lean_imports.load()
import kubesyncd.daemon.app
from aiohttp.connector import _SSL_CONTEXT_VERIFIED
print("rich" in sys.modules, "kubernetes_asyncio" in sys.modules, _SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print("SSL_CERT_FILE" in os.environ)
print(sorted(name for name in lean_imports.REDIS_UNUSED if name in sys.modules))
import redis.cluster, redis.asyncio.sentinel
print(redis.cluster.RedisCluster.__module__, len(vars(redis.asyncio.sentinel.Sentinel)) > 10)
"""


# A megabyte each way over one TLS connection, in pieces as the network brings them.
CONVERSATION = """
import asyncio, ssl, sys
from kubesyncd.runtime import lean_imports
lean_imports.load()
certificate, key = sys.argv[1:]
said = bytes(range(256)) * 4096

async def answer(reader, writer):
    writer.write(await reader.readexactly(len(said)))
    await writer.drain()

async def main():
    serving, asking = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    serving.load_cert_chain(certificate, key)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=asking)
    writer.write(said)
    heard = await asyncio.wait_for(reader.readexactly(len(said)), 30)
    print(heard == said, len(writer.transport._ssl_protocol._ssl_buffer))

asyncio.run(main())
"""


def _told() -> list[str]:
    environ = {key: value for key, value in os.environ.items() if key != "SSL_CERT_FILE"}
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180, env=environ)
    return ended.stdout.splitlines()


def test_the_daemon_loads_no_colours_no_kubernetes_and_no_public_authorities():
    assert _told()[0] == "False False 0"


def test_other_programs_and_contexts_find_the_public_authorities_as_before():
    assert _told()[1] == "False"


def test_the_daemon_loads_no_client_of_redis_clusters_and_another_program_can():
    assert _told()[2:] == ["[]", "redis.cluster True"]


def test_a_tls_connection_has_a_small_buffer_and_carries_everything(tmp_path: Path):
    pair = Authority(tmp_path).issue("server", "server", server=True)
    command = [sys.executable, "-c", CONVERSATION, str(pair.certificate), str(pair.key)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    assert ended.stdout.split() == ["True", str(TLS_BUFFER_BYTES)]
