"""How often one client address may come and one API key may call; over it: 429, with the time to wait."""

import math
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from chassis.clock import Clock
from chassis.errors import ResourceExhausted
from signaling.core.addresses import Network, client_address, limit_key
from signaling.core.limits import Buckets
from signaling.metrics import SignalingMetrics

FAILED_AUTHENTICATION_COST = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one replica. Each method raises `ResourceExhausted`, whose meta has `retry_after` in seconds."""

    joins: Buckets
    failures: Buckets
    calls: Buckets
    trusted_proxies: tuple[Network, ...]
    clock: Clock
    metrics: SignalingMetrics

    def address_of(self, connection: HTTPConnection) -> str:
        """Where a request really comes from; empty when the transport does not say."""
        peer = connection.client.host if connection.client is not None else ""
        if not self.trusted_proxies:
            return peer
        forwarded = ",".join(connection.headers.getlist("x-forwarded-for"))
        return client_address(peer, forwarded, self.trusted_proxies)

    def admit_join(self, address: str) -> None:
        """One join, resume or validation."""
        self._admit(self.joins, limit_key(address), "joins from this address", "joins")

    def admit_caller(self, address: str) -> None:
        """Anything from an address: refused after many tokens that were."""
        key = limit_key(address)
        self._admit(self.failures, key, "failed authentications from this address", "failures", 0)

    def token_refused(self, address: str) -> None:
        """A request without a valid token: this many cost more than as many joins."""
        self.failures.charge(limit_key(address), self.clock.now(), FAILED_AUTHENTICATION_COST)

    def admit_call(self, api_key: str) -> None:
        """One API call with a valid token of this key."""
        self._admit(self.calls, api_key, "calls with this API key", "calls")

    def _admit(self, buckets: Buckets, key: str, what: str, kind: str, cost: float = 1.0) -> None:
        wait_s = buckets.take(key, self.clock.now(), cost)
        if wait_s > 0:
            self.metrics.limited.add(1, kind)
            seconds = math.ceil(wait_s)
            raise ResourceExhausted(
                f"too many {what}, try again in {seconds} s", {"retry_after": str(seconds)}
            )
