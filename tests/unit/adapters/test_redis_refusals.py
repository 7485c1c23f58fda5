"""Check what is made of Redis' refusals: asked again within a verb's limit, or failed with the fix."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_errors

from kubesyncd.adapters.redis_client import edge
from kubesyncd.ports import Busy, PortError, Refused, Unavailable

PIPELINE = "Command # 1 (HSET FEATURE|snmp system_state up) of pipeline caused error: {}"


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
            Busy,
            "it is loading its data",
        ),
        (redis_errors.ResponseError("BUSY Redis is busy running a script."), Busy, "SCRIPT KILL"),
        (redis_errors.ResponseError("MASTERDOWN Link with MASTER is down"), Busy, "REPLICAOF NO ONE"),
        (redis_errors.AuthenticationError("Authentication required."), Unavailable, "[redis] url"),
        (redis_errors.NoPermissionError("this user has no permissions"), Refused, "ACL SETUSER"),
        (redis_errors.ResponseError("MISCONF Redis is configured to save"), Unavailable, "INFO persistence"),
        (redis_errors.ReadOnlyError("You can't write against a replica."), Unavailable, "REPLICAOF NO ONE"),
        (redis_errors.ResponseError("OOM command not allowed"), Unavailable, "CONFIG SET maxmemory"),
        (redis_errors.ResponseError("NOREPLICAS Not enough good replicas"), Unavailable, "min-replicas"),
        (redis_errors.ResponseError("WRONGTYPE Operation against a key"), Refused, "not a hash; delete it"),
        (redis_errors.ExecAbortError("EXECABORT because of: OOM command"), Unavailable, "maxmemory"),
        (redis_errors.ConnectionError("Error 111 connecting. refused"), Unavailable, "refused"),
        (redis_errors.TimeoutError(), Unavailable, "no answer in time"),
    ],
)
def test_each_refusal_has_its_fix(error: Exception, kind: type[PortError], says: str) -> None:
    for told in (error, type(error)(PIPELINE.format(str(error)))) if str(error) else (error,):
        translated = asyncio.run(raised(told))
        assert type(translated) is kind
        assert says in str(translated)
        assert "HSET" not in str(translated), "the whole command is not Redis' answer"
