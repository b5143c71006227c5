"""gRPC between services: servers, channels, errors, deadlines, and the proof of being one of us.

A `ServiceError` raised in a servicer reaches the caller's code as the same `ServiceError`. Every
call proves itself with the cluster's shared token unless both ends are told to be insecure, carries
the trace context, and has a deadline. Streams have none: keepalive tells when a peer is gone.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from pydantic import SecretStr

from chassis import telemetry
from chassis.errors import CODES, Code, ServiceError, SettingsError, Unreachable

DEFAULT_DEADLINE_S: Final = 5.0
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
KEEPALIVE_MS: Final = 1_500
"""How long a connection may be silent before a ping, and how long a ping may stay unanswered: a peer that vanished is
known after twice that."""
CONNECTION_AGE_GRACE_MS: Final = 30_000
TLS_NAME: Final = "roomwright.internal"
"""The name in every service's certificate."""

AddToServer = Callable[[Any], object]
"""Registers one servicer: `partial(add_XServicer_to_server, servicer)`, or a lambda."""


class Tls:
    """A directory with `ca.crt`, `tls.crt` and `tls.key`, as certificate issuers keep it up to date.

    Both ends show a certificate of that authority, for the name `roomwright.internal` whatever the address. A server
    takes changed files for its next handshake, a client for its next channel.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._served = self.read()

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Authority, certificate, key; `SettingsError` names the file that cannot be read."""
        return (self._file("ca.crt"), self._file("tls.crt"), self._file("tls.key"))

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that asks every client for its certificate."""
        self._served = self.read()
        return grpc.dynamic_ssl_server_credentials(
            _server_certificates(self._served),
            self._changed,  # type: ignore[arg-type]  # the stubs leave out that None means "no change"
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel that shows ours."""
        authority, certificate, key = self.read()
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """New certificates, if there are; called before each handshake."""
        try:
            found = self.read()
        except SettingsError as error:
            # In the middle of being replaced: the old ones serve until the next handshake.
            log.warning("certificates not read", error=str(error))
            return None
        if found == self._served:
            return None
        self._served = found
        return _server_certificates(found)

    def _file(self, name: str) -> bytes:
        path = self._directory / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"internal_tls_directory: {path}: {error.strerror}") from None
        if not content.strip():
            raise SettingsError(f"internal_tls_directory: {path} is empty")
        return content


def _server_certificates(found: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    authority, certificate, key = found
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


@dataclass(frozen=True, slots=True)
class RpcAuth:
    """How services prove themselves to each other; `token` None means that they need not."""

    token: str | None = field(repr=False)
    tls: Tls | None = None
    """What encrypts; None: nothing does."""

    @staticmethod
    def of(
        internal_token: SecretStr, *, insecure: bool, tls_directory: Path | None = None
    ) -> RpcAuth:
        """From settings; without a token only when `insecure` says so."""
        tls = Tls(tls_directory) if tls_directory is not None else None
        if insecure:
            return RpcAuth(None, tls)
        if not internal_token.get_secret_value():
            raise SettingsError(
                "internal_token is not set: give every service the same secret "
                "(internal_token_file names a file with it), or set insecure=true on a closed network"
            )
        return RpcAuth(internal_token.get_secret_value(), tls)

    def accepts(self, metadata: tuple[tuple[str, str | bytes], ...]) -> bool:
        """Does a call with this metadata come from one of us?"""
        if self.token is None:
            return True
        given = dict(metadata).get("authorization", "")
        text = given if isinstance(given, str) else given.decode("latin-1")
        return hmac.compare_digest(text.encode(), f"Bearer {self.token}".encode())


class RpcServer:
    """A gRPC server with its bound address; made by `make_server`."""

    def __init__(self, server: grpc.aio.Server, address: str, port: int) -> None:
        self._server = server
        self.address = address
        """host:port as bound."""
        self.port = port

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls at once, and end running ones after `grace_s`."""
        await self._server.stop(grace_s)


def make_server(
    address: str, *add: AddToServer, auth: RpcAuth, max_connection_age_s: float | None = None
) -> RpcServer:
    """A server bound to `address` (port 0: any free one) that is not started yet.

    Connections older than `max_connection_age_s` are ended between calls, so that clients look up who serves and
    spread over new replicas. Not for servers with streams that live as long as calls do. Raises `SettingsError` when
    the address cannot be bound.
    """
    age_options = (
        [
            ("grpc.max_connection_age_ms", int(max_connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
        ]
        if max_connection_age_s is not None
        else []
    )
    server = grpc.aio.server(
        interceptors=[_ServerEdge(auth)],
        options=[
            *_COMMON_OPTIONS,
            # Without this, two processes could listen on one port and each get half of the calls.
            ("grpc.so_reuseport", 0),
            # Our clients ping as often as they need to: no count of how often is too often.
            ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
            ("grpc.http2.max_ping_strikes", 0),
            *age_options,
        ],
    )
    for register in add:
        register(server)
    try:
        if auth.tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, auth.tls.server_credentials())
    except RuntimeError:
        raise SettingsError(f"cannot listen for gRPC on {address}: is the port in use?") from None
    host = address.rpartition(":")[0]
    return RpcServer(server, f"{host}:{port}", port)


def channel(
    address: str, *, auth: RpcAuth, deadline_s: float = DEFAULT_DEADLINE_S
) -> grpc.aio.Channel:
    """A channel to one service; it connects when first used, and again by itself.

    An address `dns:///name:port` with several hosts behind it is used in turn, and looked up again when one goes.
    """
    options: list[tuple[str, Any]] = [
        *_COMMON_OPTIONS,
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.enable_retries", 0),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _UnaryEdge(auth, deadline_s),
        _StreamStreamEdge(auth),
        _UnaryStreamEdge(auth),
    ]
    if auth.tls is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        address,
        auth.tls.channel_credentials(),
        options=[*options, ("grpc.ssl_target_name_override", TLS_NAME)],
        interceptors=interceptors,
    )


async def connected(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Is the channel connected, perhaps after a moment? A call on one that is not was surely not done."""
    try:
        async with asyncio.timeout(timeout_s):
            while (state := channel.get_state(try_to_connect=True)) is not _READY:
                if state in (_FAILED, _CLOSED):
                    return False
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return True


@contextmanager
def service_errors() -> Iterator[None]:
    """Turn gRPC's error into ours around the use of a stream; unary calls need no help."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise to_service_error(error) from error


def to_service_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """Ours for gRPC's; exact when the other end is ours, by status code when it is not."""
    message = error.details() or error.code().name.lower()
    if error.code() is grpc.StatusCode.INTERNAL and message == _LOST_STATUS:
        return Unreachable("the stream broke while it was written to")
    for key, value in error.trailing_metadata() or ():
        if key == _ERROR_KEY:
            try:
                described = json.loads(value)
                return ServiceError.of(described["code"], message, described["meta"])
            except (ValueError, KeyError, TypeError):
                break
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(message)
    return ServiceError.of(_CODE_OF_GRPC.get(error.code().name, Code.UNKNOWN), message)


class _ServerEdge(grpc.aio.ServerInterceptor):
    """Refuses strangers, continues traces, and answers with our errors."""

    def __init__(self, auth: RpcAuth) -> None:
        self._auth = auth

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        metadata = tuple(handler_call_details.invocation_metadata or ())
        guard = _Guard(
            handler_call_details.method,
            metadata,
            allowed=self._auth.accepts(metadata),
        )
        if handler.response_streaming:
            kind = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = handler.stream_stream or handler.unary_stream
            return kind(
                guard.stream(behavior), handler.request_deserializer, handler.response_serializer
            )
        kind = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        behavior = handler.stream_unary or handler.unary_unary
        return kind(
            guard.unary(behavior), handler.request_deserializer, handler.response_serializer
        )


@dataclass(frozen=True, slots=True)
class _Guard:
    """Wraps one call's behavior."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    allowed: bool

    def unary(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            await self._admit(context)
            try:
                with telemetry.span(self.method.rpartition(".")[2], self._parent()):
                    return await behavior(request, context)
            except ServiceError as error:
                await _abort(context, error)

        return run

    def stream(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def run(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            await self._admit(context)
            try:
                answers = behavior(request, context)
                if hasattr(answers, "__aiter__"):
                    async for answer in answers:
                        yield answer
                else:
                    await answers
            except ServiceError as error:
                await _abort(context, error)

        return run

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if not self.allowed:
            log.warning("internal call refused", method=self.method, peer=context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "internal token missing or wrong")

    def _parent(self) -> Any:
        return telemetry.extract(
            {key: value for key, value in self.metadata if isinstance(value, str)}
        )


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> None:
    described = json.dumps({"code": error.code.value, "meta": error.meta})
    await context.abort(
        grpc.StatusCode[error.grpc_name], error.message, ((_ERROR_KEY, described.encode()),)
    )


class _Outgoing:
    """What every call of ours carries."""

    def __init__(self, auth: RpcAuth) -> None:
        self._auth = auth

    def details(
        self, details: grpc.aio.ClientCallDetails, timeout_s: float | None
    ) -> grpc.aio.ClientCallDetails:
        headers: dict[str, str] = {}
        telemetry.inject(headers)
        if self._auth.token is not None:
            headers["authorization"] = f"Bearer {self._auth.token}"
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *headers.items())
        return grpc.aio.ClientCallDetails(
            details.method, timeout_s, metadata, details.credentials, details.wait_for_ready
        )


class _UnaryEdge(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    """Token, trace and deadline out; our error back."""

    def __init__(self, auth: RpcAuth, deadline_s: float) -> None:
        super().__init__(auth)
        self._deadline_s = deadline_s

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        given = client_call_details.timeout
        details = self.details(client_call_details, self._deadline_s if given is None else given)
        try:
            call = await continuation(details, request)
            return await call
        except grpc.aio.AioRpcError as error:
            raise to_service_error(error) from error


# Two classes for two kinds of stream: grpc.aio files an interceptor under one kind only.
class _StreamStreamEdge(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    """Token and trace out; errors are the reader's (`service_errors`)."""

    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        details = self.details(client_call_details, client_call_details.timeout)
        return await continuation(details, request_iterator)


class _UnaryStreamEdge(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    """As above, for streams of answers only."""

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        details = self.details(client_call_details, client_call_details.timeout)
        return await continuation(details, request)


log = structlog.get_logger(__name__)
_READY: Final = grpc.ChannelConnectivity.READY
_FAILED: Final = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_CLOSED: Final = grpc.ChannelConnectivity.SHUTDOWN
_ERROR_KEY: Final = "roomwright-error-bin"
# What grpc.aio says when a stream ends during a write: the status the other end sent is lost.
_LOST_STATUS: Final = "Internal error from Core"
_COMMON_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    # Measured: without it an unanswered keepalive ping is waited for a minute, whatever its own timeout says.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CODE_OF_GRPC: Final = {
    row.grpc: code for code, row in CODES.items() if code not in (Code.MALFORMED, Code.BAD_ROUTE)
}
