"""Watch both databases for changes of features and of the master's configuration.

redis-py reconnects a PubSub silently and loses messages meanwhile, so the subscription is one bare connection that
never reconnects: the connection that replaces it reports GAP. Redis publishes a keyspace event only where flags ask for
it, another program may replace the flags, and a flushed database publishes nothing. So there is a look at Redis every
`LOOK_S`, whatever is published meanwhile, and as soon as a call has failed. While Redis refuses calls, the looks go on
until it answers: one place, and not every feature, asks for the end of an outage.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from kubesyncd.adapters.db_schema import shared_row
from kubesyncd.adapters.redis_client import FEATURE, INITIALIZED, MASTER, feature_key, pipelined, text_of
from kubesyncd.adapters.redis_refusals import is_answer, translated
from kubesyncd.core.model import Signal, valid_feature_name
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping

    from kubesyncd.adapters.redis_client import Hash, Link, RedisClient

NOTIFY = "notify-keyspace-events"
# (K)eyspace events of (g)eneric commands, (h)ashes, ($) strings and keys that e(x)pired.
FLAGS = "Kghx$"
FLAGS_IN_A = "g$lshzxetd"

LOOK_S = 12.0
# After so many looks without a message the subscription itself is asked.
QUIET_LOOKS = 5
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0
# What the daemon reads and writes, with nothing changed: Redis checks each command of a transaction when it is queued.
# No feature has an empty name.
_TRIAL = (
    ("HGETALL", FEATURE),
    ("GET", INITIALIZED),
    ("MULTI",),
    ("HSET", FEATURE, "trial", ""),
    ("HDEL", FEATURE, "trial"),
    ("DISCARD",),
)


class RedisEvents:
    """The events of both databases.

    `names` returns the known features; `rows`: the fields of ours that each feature's row in STATE_DB has had when it
    was last read or written; `look_s`: seconds between two looks.
    """

    def __init__(
        self,
        client: RedisClient,
        rng: random.Random,
        *,
        names: Callable[[], Iterable[str]],
        rows: MutableMapping[str, Hash],
        look_s: float,
    ) -> None:
        self._client = client
        self._names = names
        self._rows = rows
        self._look_s = look_s
        self._backoff = Backoff(rng, BACKOFF_S, BACKOFF_S_MAX)
        # Whether the last look was good; when it was, when the next one is due, and when GAP and messages were.
        self._well = False
        self._looked_at = self._look_at = self._gap_at = self._heard_at = 0.0
        # Whether a call has failed since the last look, and since the last GAP.
        self._suspect = self._doubt = False
        self._limit: asyncio.Timeout | None = None
        client.failed = self._note_failure

    async def events(self, lost: Callable[[str], object]) -> AsyncIterator[str | Signal]:
        """Yield the names of features whose row changed in either database, and MASTER.

        GAP where events may be missing: on every loss and return of the subscription, after an outage, where flags were
        missing and where STATE_DB was flushed. Never ends and never raises; while Redis is down it tries again every
        2 s at most.
        """
        while True:
            connection: Link | None = None
            try:
                connection = await self._subscribe()
                self._look_at, self._heard_at = 0.0, _now()
                while True:
                    for event in await self._next(connection, lost):
                        yield event
            except (Unavailable, Refused) as error:
                lost(error.detail)
                # Reconcilers observe again at once: their own reads detect the state of Redis.
                if self._well:
                    yield Signal.GAP
            finally:
                self._well = False
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(self._backoff.next_s())

    async def _next(self, connection: Link, lost: Callable[[str], object]) -> tuple[str | Signal, ...]:
        """Return the subjects of the next message or look. Raises Unavailable where the subscription is lost."""
        if _now() < self._look_at:
            message = await self._hear(connection)
            return () if message is None else self._subjects(message)
        gap = (Signal.GAP,) if await self._look(lost) else ()
        if _now() - self._heard_at < self._look_s * QUIET_LOOKS:
            return gap
        return (*self._subjects(await self._ping(connection)), *gap)

    async def _hear(self, connection: Link) -> Any:
        """Return the next message, or None where a look is due before it."""
        try:
            async with asyncio.timeout_at(self._look_at) as self._limit:
                # A cancelled read loses nothing: what has arrived stays with the connection.
                return await connection.read_response(timeout=self._look_s * 2, disconnect_on_error=False)
        except TimeoutError:
            return None
        except (RedisError, OSError) as error:
            raise translated("keyspace events", error) from error
        finally:
            self._limit = None

    async def _ping(self, connection: Link) -> Any:
        """Return the next message of a silent connection; at the latest, the answer to a ping."""
        async with self._client.edge("keyspace events"):
            await connection.send_command("PING")
            return await connection.read_response()

    def _subjects(self, message: Any) -> tuple[str | Signal, ...]:
        """Return the subject of a message; for a row that containers of several ASICs share, all of them."""
        self._heard_at = _now()
        event = _event(message)
        if event is None:
            return ()
        if not self._client.open().place.asics:
            return (event,)
        return (event, *(name for name in self._names() if shared_row(name) == event))

    def _note_failure(self) -> None:
        """Have a look soon: a call has failed."""
        self._suspect = self._doubt = True
        soon = max(_now(), self._looked_at + min(BACKOFF_S_MAX, self._look_s / 6))
        if not self._well or soon >= self._look_at:
            return
        self._look_at = soon
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(soon)

    async def _look(self, lost: Callable[[str], object]) -> bool:
        """Look at Redis; return whether events may be missing. Raises Unavailable where it does not answer."""
        thorough, self._suspect = self._suspect or not self._well, False
        try:
            missed = await self._check(thorough=thorough)
        except Unavailable as error:
            if not is_answer(error.__cause__):
                raise
            # The subscription is not affected, but its flags are not known.
            self._well, self._doubt = False, True
            self._look_at = _now() + self._backoff.next_s()
            lost(error.detail)
            return self._gap(missed=False)
        self._looked_at = _now()
        self._look_at = self._looked_at + self._look_s
        returned, self._well = not self._well, True
        if returned:
            self._backoff.reset()
            lost("")
        return self._gap(missed=missed or returned)

    def _gap(self, *, missed: bool) -> bool:
        """Return whether to report GAP: events are `missed`, or may be because calls have failed since the last one.

        A call that fails for a reason of its own reports one in `look_s` at most.
        """
        now = _now()
        if not missed and not (self._doubt and now >= self._gap_at + self._look_s):
            return False
        self._gap_at, self._doubt = now, False
        return True

    async def _check(self, *, thorough: bool) -> bool:
        """Restore the flags; return whether some were missing, or a row of ours is. Raises Unavailable."""
        keys = [feature_key(feature) for feature, fields in self._rows.items() if fields]
        commands = (("CONFIG GET", NOTIFY), ("EXISTS", *(keys or [FEATURE])))
        async with self._client.edge("keyspace events"):
            state = self._client.open().state
            answers = await pipelined(state, (*commands, *(_TRIAL if thorough else ())), transaction=False)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            flags, there = answers[0][NOTIFY], answers[1]
            missing = missing_flags(flags)
            if missing:
                await state.config_set(NOTIFY, flags + missing)
        flushed = bool(keys) and there < len(keys)
        if flushed:
            # Not known any more: the next observation of each feature reads its row again.
            self._rows.clear()
        return bool(missing) or flushed

    async def _subscribe(self) -> Link:
        """Open a connection subscribed to both databases; every pattern is acknowledged. Raises Unavailable."""
        place = self._client.locate()
        await self._client.close_if_moved(place)
        connection: Link = self._client.open().config.connection_pool.make_connection()
        try:
            async with self._client.edge("keyspace events"):
                patterns = channels(place.config_db, place.state_db)
                await connection.connect()
                await connection.send_command("PSUBSCRIBE", *patterns)
                waiting = len(patterns)
                while waiting:
                    message = await connection.read_response()
                    waiting -= message[0] == b"psubscribe"
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


def channels(config_db: int, state_db: int) -> tuple[str, ...]:
    """Return the patterns of the channels that the daemon subscribes to."""
    return (
        f"__keyspace@{config_db}__:{FEATURE}*",
        f"__keyspace@{state_db}__:{FEATURE}*",
        f"__keyspace@{config_db}__:{MASTER}",
        f"__keyspace@{config_db}__:{INITIALIZED}",
    )


def missing_flags(flags: str) -> str:
    """Return the needed flags that `flags`, the server's keyspace flags, lacks; `A` stands for several."""
    there = flags + (FLAGS_IN_A if "A" in flags else "")
    return "".join(flag for flag in FLAGS if flag not in there)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _event(message: Any) -> str | Signal | None:
    """Return the subject of a message; None for a ping's answer and for a key that does not belong to a feature."""
    if message[0] != b"pmessage":
        return None
    key = text_of(message[2]).partition(":")[2]
    if key == MASTER:
        return Signal.MASTER
    if key == INITIALIZED:
        return Signal.GAP
    name = key.removeprefix(FEATURE)
    return name if valid_feature_name(name) else None
