"""Twirp: `POST /twirp/<service>/<method>` with protobuf or JSON, as LiveKit's server SDKs speak it.

The router decodes, calls, encodes and maps errors. What it is not: authorization. It is given a
function that reads the caller's grants from a request; what they allow is for the call to say.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response
from google.protobuf import json_format
from google.protobuf.message import DecodeError, EncodeError, Message
from starlette.requests import ClientDisconnect

from chassis import telemetry
from chassis.errors import (
    BadRoute,
    ChassisError,
    DeadlineExceeded,
    Internal,
    Malformed,
    ServiceError,
    TokenError,
)
from chassis.tokens import Grants

MAX_BODY_BYTES: Final = 10 * 1024 * 1024
PROTOBUF: Final = "application/protobuf"
JSON: Final = "application/json"

Methods = Mapping[str, tuple[type[Message], type[Message]]]
"""Method name to the types of its request and response."""
Authenticate = Callable[[Request], "Grants | None"]
"""Grants of a request, None without a token; raises TokenError for a bad one, ServiceError for one too many."""
Call = Callable[["TwirpContext", str, str, Message], Awaitable[Message]]
"""Performs one call: context, service, method, request; raises ServiceError."""


@dataclass(frozen=True, slots=True)
class TwirpContext:
    """Who calls, from where, and how long they will wait."""

    grants: Grants | None
    client_address: str
    timeout_s: float | None


Called = Callable[[str, str, str, float], None]
"""Told of every call that reached its method: service, method, Twirp code ("" for success), seconds."""


class BodyTooLarge(ChassisError):
    """A request body is over `MAX_BODY_BYTES`."""


def twirp_router(
    services: Mapping[str, Methods],
    call: Call,
    authenticate: Authenticate,
    called: Called | None = None,
) -> APIRouter:
    """A router for these services; anything else under /twirp is a plain 404."""
    router = APIRouter()
    router.add_api_route(
        "/twirp/{service}/{method}",
        _Front(services, call, authenticate, called).handle,
        methods=_ALL_METHODS,
        include_in_schema=False,
    )
    return router


class _Front:
    """Answers the requests of one router."""

    def __init__(
        self,
        services: Mapping[str, Methods],
        call: Call,
        authenticate: Authenticate,
        called: Called | None,
    ) -> None:
        self._called = called
        self._services = services
        self._call = call
        self._authenticate = authenticate

    async def handle(self, service: str, method: str, request: Request) -> Response:
        """Any request under /twirp: limits first, then the token, then the route."""
        try:
            body = await read_body(request)
            grants = self._authenticate(request)
        except BodyTooLarge:
            return _text(413, "request body too large")
        except TokenError as error:
            return _text(error.http_status, str(error))
        except ServiceError as error:
            return error_response(error)
        except ClientDisconnect:
            return _text(499, "client closed request")
        methods = self._services.get(service)
        if methods is None:
            return _text(404, "404 page not found")
        try:
            content_type = _checked_route(request, service, method, methods)
            message = _decoded(methods[method][0], body, content_type)
            context = TwirpContext(
                grants=grants,
                client_address=request.client.host if request.client else "",
                timeout_s=_timeout_s(request),
            )
            response = await self._traced(context, service, method, message)
            return Response(_encoded(response, content_type), media_type=content_type)
        except ServiceError as error:
            return error_response(error)

    async def _traced(
        self, context: TwirpContext, service: str, method: str, message: Message
    ) -> Message:
        began, code = time.perf_counter(), ""
        try:
            with telemetry.trace_from_here("signaling.api", service=service, method=method):
                return await self._perform(context, service, method, message)
        except ServiceError as error:
            code = error.code.value
            raise
        finally:
            if self._called is not None:
                self._called(service, method, code, time.perf_counter() - began)

    async def _perform(
        self, context: TwirpContext, service: str, method: str, message: Message
    ) -> Message:
        try:
            async with asyncio.timeout(context.timeout_s):
                return await self._call(context, service, method, message)
        except ServiceError:
            raise
        except TimeoutError:
            raise DeadlineExceeded("deadline exceeded") from None
        except Exception as error:
            # The edge: whatever went wrong inside is ours, and its text stays inside.
            log.exception("api call failed", service=service, method=method)
            raise Internal("internal error") from error


def error_response(error: ServiceError) -> Response:
    """The JSON body and status every Twirp error has, whatever the request's encoding."""
    body: dict[str, object] = {"code": error.code.value, "msg": error.message}
    if error.meta:
        body["meta"] = error.meta
    retry_after = error.meta.get("retry_after")
    headers = {"Retry-After": retry_after} if retry_after else None
    return Response(
        json.dumps(body), status_code=error.http_status, media_type=JSON, headers=headers
    )


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body; `BodyTooLarge` before more than `limit` bytes of it are held."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge
    return bytes(body)


def _checked_route(request: Request, service: str, method: str, methods: Methods) -> str:
    """The request's content type, once method, verb and type are right; else `BadRoute`."""
    path = f"/twirp/{service}/{method}"
    invalid = {"twirp_invalid_route": f"{request.method} {path}"}
    if request.method != "POST":
        raise BadRoute(f"unsupported method {request.method!r} (only POST is allowed)", invalid)
    if method not in methods:
        raise BadRoute(f"no handler for path {path!r}", invalid)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (PROTOBUF, JSON):
        raise BadRoute(f"unexpected Content-Type: {content_type!r}", invalid)
    return content_type


def _decoded(kind: type[Message], body: bytes, content_type: str) -> Message:
    message = kind()
    if content_type == PROTOBUF:
        try:
            message.ParseFromString(body)
        except DecodeError:
            raise Malformed("the protobuf request could not be decoded") from None
        return message
    if not body.lstrip().startswith(b"{"):
        raise Malformed(_BAD_JSON)  # the parser takes an empty list for an empty message
    try:
        json_format.Parse(body, message, ignore_unknown_fields=True)
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError):
        # The parser lets errors of Python's own conversions through for odd shapes.
        raise Malformed(_BAD_JSON) from None
    return message


def _encoded(message: Message, content_type: str) -> bytes:
    try:
        if content_type == PROTOBUF:
            return message.SerializeToString()
        return json_format.MessageToJson(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            indent=None,
            ensure_ascii=False,
        ).encode()
    except (EncodeError, json_format.Error) as error:
        raise Internal("the response could not be encoded") from error


def _timeout_s(request: Request) -> float | None:
    value = request.headers.get("x-twirp-timeout-ms", "")
    return int(value) / 1000 if value.isdecimal() and len(value) < 10 and int(value) > 0 else None


def _text(status: int, text: str) -> Response:
    return Response(text, status_code=status, media_type="text/plain")


log = structlog.get_logger(__name__)
_BAD_JSON: Final = "the json request could not be decoded"
_ALL_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
