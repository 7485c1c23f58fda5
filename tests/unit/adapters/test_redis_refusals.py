"""Check what is made of Redis' refusals: asked again within a verb's limit, or failed with the fix."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_errors

from kubesyncd.adapters.redis_client import edge
from kubesyncd.core.failed_action import TEXT_MAX
from kubesyncd.ports import Forbidden, Lasting, Passing, PortError, Refused

PIPELINE = "Command # 1 (HSET FEATURE|snmp system_state up) of pipeline caused error: {}"


MISCONF = (
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that "
    "may modify the data set are disabled, because this instance is configured to report errors during writes if RDB "
    "snapshotting fails. Please check the Redis logs for details about the RDB error."
)


def caused_by(error: OSError) -> redis_errors.ConnectionError:
    """As redis-py wraps an error of the connection."""
    wrapped = redis_errors.ConnectionError(str(error))
    wrapped.__context__ = error
    return wrapped


async def raised(error: Exception) -> PortError:
    try:
        async with edge("FEATURE|snmp"):
            raise error
    except PortError as translated:
        return translated


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
            Passing,
            "it is loading its data",
        ),
        (redis_errors.ResponseError("BUSY Redis is busy running a script."), Passing, "SCRIPT KILL"),
        (redis_errors.ResponseError("MASTERDOWN Link with MASTER is down"), Passing, "REPLICAOF NO ONE"),
        (redis_errors.ResponseError("CLUSTERDOWN The cluster is down"), Passing, "CLUSTER INFO"),
        (redis_errors.ConnectionError("max number of clients reached"), Passing, "CLIENT LIST"),
        (caused_by(ConnectionRefusedError("Error 111 connecting. refused")), Passing, "start database"),
        (caused_by(FileNotFoundError("Error 2 connecting")), Passing, "start database"),
        (redis_errors.ConnectionError("Connection closed by server."), Passing, "status database"),
        (redis_errors.TimeoutError(), Passing, "no answer in time"),
        (redis_errors.AuthenticationError("Authentication required."), Lasting, "password_file"),
        (redis_errors.ConnectionError("Authentication required."), Lasting, "password_file"),
        (redis_errors.AuthenticationError("invalid username-password pair"), Lasting, "ACL LIST"),
        (redis_errors.AuthenticationError("AUTH <password> called without any password"), Lasting, "remove"),
        (redis_errors.NoPermissionError("this user has no permissions"), Lasting, "ACL SETUSER"),
        (redis_errors.ResponseError("NOPERM No permissions to access a key"), Lasting, "docs/security.md"),
        (redis_errors.ResponseError("DENIED Redis is running in protected mode"), Lasting, "Unix socket"),
        (redis_errors.ResponseError(MISCONF), Lasting, "INFO persistence"),
        (redis_errors.ReadOnlyError("You can't write against a replica."), Lasting, "REPLICAOF NO ONE"),
        (redis_errors.ResponseError("OOM command not allowed"), Lasting, "CONFIG SET maxmemory"),
        (redis_errors.ResponseError("NOREPLICAS Not enough good replicas"), Lasting, "min-replicas"),
        (redis_errors.ResponseError("unknown command 'CONFIG'"), Lasting, "redis.conf"),
        (redis_errors.ResponseError("ERR something else"), Passing, "something else"),
        (redis_errors.ResponseError("TRYAGAIN Multiple keys request"), Passing, "TRYAGAIN"),
        (caused_by(PermissionError("Error 13 connecting")), Forbidden, "use sudo"),
        (redis_errors.ResponseError("WRONGTYPE Operation against a key"), Refused, "not a hash; delete it"),
        (redis_errors.ExecAbortError("EXECABORT because of: OOM command"), Lasting, "maxmemory"),
    ],
)
def test_each_refusal_has_its_fix(error: Exception, kind: type[PortError], says: str) -> None:
    of_pipeline = type(error)(PIPELINE.format(str(error)))
    of_pipeline.__context__ = error.__context__
    for told in (error, of_pipeline) if str(error) else (error,):
        translated = asyncio.run(raised(told))
        assert type(translated) is kind
        assert says in str(translated)
        assert "HSET" not in str(translated), "the whole command is not Redis' answer"
        assert len(str(translated)) < TEXT_MAX, "the fix is not cut off"
