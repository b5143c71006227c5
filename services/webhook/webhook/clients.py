"""Outbound: requests to targets, and the records of this service on NATS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from google.protobuf.message import DecodeError

from chassis import kv, subjects
from chassis.bus import Bus
from chassis.errors import KeyExists, KvError, WrongRevision
from chassis.kv import Kv
from contracts.webhook.v1 import webhook_pb2
from webhook.core.delivery import Answer
from webhook.core.guard import Network, is_allowed
from webhook.core.targets import Target

log = structlog.get_logger(__name__)

SCHEMA = 1
MAX_ERROR_CHARACTERS = 200
OVERLOADED = frozenset({408, 429, 502, 503, 504})
PATIENTLY_REFUSED = frozenset({401, 403, 404, 407, 421, 425})
"""A receiver's configuration is wrong rather than the fact: retried like its other faults."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    answer: Answer
    error: str = ""
    retry_after_s: float = 0.0


class AddressRefused(OSError):
    """A name resolves to an address that webhooks must not go to."""


class _GuardedResolver(AbstractResolver):
    """Resolves names to allowed addresses alone, so that what was checked is what is connected to."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = [str(address[0]) for *_, address in found]
        allowed = [one for one in dict.fromkeys(addresses) if is_allowed(one, self._allowed)]
        if not allowed:
            raise AddressRefused(refused_text(host, addresses))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in allowed
        ]

    async def close(self) -> None:
        """Nothing is held."""


def refused_text(host: str, addresses: Sequence[str]) -> str:
    """Why a request is not made, and what would allow it."""
    shown = ", ".join(addresses[:3]) or "no address"
    return (
        f"{host} is {shown}, where webhooks must not go: list its network in "
        "webhook.allowed_networks if it is meant"
    )


class Sender:
    """Posts to targets. Redirects are not followed, bodies of answers not read."""

    def __init__(self, allowed: Sequence[Network], timeout_s: float, in_flight: int) -> None:
        self._allowed = allowed
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._in_flight = in_flight
        self._session: aiohttp.ClientSession | None = None

    async def post(self, target: Target, body: bytes, headers: dict[str, str]) -> Outcome:
        """Make one request; never raises for what a target does."""
        host = urlsplit(target.url).hostname or ""
        if _is_address(host) and not is_allowed(host, self._allowed):
            return Outcome(Answer.UNREACHABLE, refused_text("the host", [host]))
        try:
            async with self._open().post(
                target.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return outcome_of(response.status, response.headers.get("Retry-After", ""))
        except AddressRefused as error:
            return Outcome(Answer.UNREACHABLE, str(error))
        except TimeoutError:
            return Outcome(Answer.UNREACHABLE, f"no answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, AddressRefused) else error
            text = str(cause) if isinstance(cause, AddressRefused) else _words(error)
            return Outcome(Answer.UNREACHABLE, text[:MAX_ERROR_CHARACTERS])

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_GuardedResolver(self._allowed),
                limit=0,
                limit_per_host=self._in_flight,
                use_dns_cache=True,
                ttl_dns_cache=10,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                headers={"User-Agent": "roomwright-webhook"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=8190,
                max_field_size=8190,
            )
        return self._session


def outcome_of(status: int, retry_after: str = "") -> Outcome:
    """What a status means for a fact."""
    if 200 <= status < 300:
        return Outcome(Answer.TAKEN)
    error = f"answered {status}"
    wait_s = min(float(retry_after), 3600.0) if retry_after.isdecimal() else 0.0
    if status in OVERLOADED:
        return Outcome(Answer.UNREACHABLE, error, wait_s)
    if 300 <= status < 400:
        return Outcome(Answer.FAILED, f"{error}: redirects are not followed, give the final URL")
    if status == 501 or (400 <= status < 500 and status not in PATIENTLY_REFUSED):
        return Outcome(Answer.REFUSED, error)
    return Outcome(Answer.FAILED, error)


class ShardRecords:
    """Who delivers what: the bucket `webhook_shards`."""

    def __init__(self, bucket: Kv, replica: str) -> None:
        self._bucket = bucket
        self._replica = replica
        self._revisions: dict[int, int] = {}
        self._beat = 0

    async def take(self, shard: int, revision: int) -> bool:
        """Become the owner unless somebody was faster."""
        record = self._record(self._replica)
        try:
            if revision:
                made = await self._bucket.update(_shard_key(shard), record, revision)
            else:
                made = await self._bucket.create(_shard_key(shard), record)
        except (WrongRevision, KeyExists):
            return False
        self._revisions[shard] = made
        return True

    async def beat(self, shard: int) -> bool:
        """Say that the owner lives; False: it is somebody else's now."""
        try:
            record = self._record(self._replica)
            revision = self._revisions[shard]
            self._revisions[shard] = await self._bucket.update(_shard_key(shard), record, revision)
        except WrongRevision:
            return await self._reread(shard)
        return True

    async def give_back(self, shard: int) -> None:
        """Write it free, if it is still this replica's."""
        try:
            await self._bucket.update(_shard_key(shard), self._record(""), self._revisions[shard])
        except (KvError, KeyError):
            log.info("shard not given back; others take it after a while", shard=shard)

    async def say_alive(self) -> None:
        """Count up this replica's own record."""
        record = webhook_pb2.ReplicaRecord(schema=SCHEMA, beat=self._beat)
        await self._bucket.put(kv.path("replica", self._replica), record.SerializeToString())

    async def say_goodbye(self) -> None:
        """Take it away."""
        await self._bucket.delete(kv.path("replica", self._replica))

    async def _reread(self, shard: int) -> bool:
        """A write whose answer was lost made the revision one that nobody was told of."""
        entry = await self._bucket.get(_shard_key(shard))
        if entry is None or owner_of(entry.value) != self._replica:
            return False
        self._revisions[shard] = entry.revision
        return True

    def _record(self, owner: str) -> bytes:
        self._beat += 1
        record = webhook_pb2.ShardRecord(schema=SCHEMA, owner=owner, beat=self._beat)
        return record.SerializeToString()


def owner_of(record: bytes) -> str:
    """The owner in a shard's record; "" for none, and for a record that cannot be read."""
    try:
        return webhook_pb2.ShardRecord.FromString(record).owner
    except DecodeError:
        return ""


def _shard_key(shard: int) -> str:
    return kv.path("shard", str(shard))


class ProgressRecords:
    """How far targets have got: the bucket `webhook_progress`."""

    def __init__(self, bucket: Kv) -> None:
        self._bucket = bucket
        self._revisions: dict[tuple[str, int], int] = {}

    async def read(self, target: Target, shard: int) -> webhook_pb2.ProgressRecord | None:
        """What was saved last; None: nothing yet."""
        entry = await self._bucket.get(kv.path(target.id, str(shard)))
        self._revisions[target.id, shard] = 0 if entry is None else entry.revision
        if entry is None:
            return None
        try:
            return webhook_pb2.ProgressRecord.FromString(entry.value)
        except DecodeError:
            log.exception(
                "progress record cannot be read: begins anew", target=target.id, shard=shard
            )
            return None

    async def save(self, target: Target, shard: int, record: webhook_pb2.ProgressRecord) -> bool:
        """Save it; False: somebody else did meanwhile, and delivers the shard."""
        key, data = kv.path(target.id, str(shard)), record.SerializeToString()
        revision = self._revisions.get((target.id, shard), 0)
        try:
            if revision:
                made = await self._bucket.update(key, data, revision)
            else:
                made = await self._bucket.create(key, data)
        except (WrongRevision, KeyExists):
            entry = await self._bucket.get(key)
            if entry is None or entry.value != data:
                return False
            made = entry.revision  # our own, whose answer was lost
        self._revisions[target.id, shard] = made
        return True


class DeadLetters:
    """Facts that were given up: the stream WEBHOOKS_DEAD."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._is_open = False

    async def bury(self, letter: webhook_pb2.DeadLetter, message_id: str) -> None:
        """Keep it. Raises `BusError`: not now."""
        if not self._is_open:
            await self._bus.open_stream(subjects.WEBHOOKS_DEAD)
            self._is_open = True
        subject = subjects.dead_letter_subject(letter.target)
        await self._bus.publish_durable(subject, letter.SerializeToString(), message_id)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
