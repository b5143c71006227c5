"""WHIP (RFC 9725): publish by one HTTP request, `POST /whip/v1`, and end with `DELETE` of its Location.

A client without a signaling socket: its offer joins and publishes, the answer has all candidates, and
the session lives as long as its media. There is no PATCH: nothing is left to trickle, and who loses
its connection posts anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import assert_never
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Request
from livekit.protocol import models, rtc
from starlette.responses import JSONResponse, Response

from chassis import telemetry
from chassis.errors import ServiceError
from contracts.node.v1 import node_pb2
from signaling.api import RtcApi
from signaling.core.join import Join, JoinRefused
from signaling.core.session import (
    FIRST_RESPONSE_TIMEOUT_S,
    Accept,
    Close,
    Deny,
    Effect,
    Event,
    FindHome,
    HomeFound,
    SignalSocket,
    Started,
    Ticked,
    Write,
    Written,
)
from signaling.core.whip import MAX_OFFER_BYTES, joining_with, parse_offer, returning
from signaling.join_watch import JoinWatch
from signaling.runner import FindOpening, NodeStream, answer_headers, home_not_found

PATH = "/whip/v1"
SDP = "application/sdp"

log = structlog.get_logger(__name__)

Act = Callable[[Request, str], Awaitable[Response]]


class WhipApi:
    """The WHIP endpoint beside the signaling sockets."""

    def __init__(self, rtc_api: RtcApi) -> None:
        self._rtc_api = rtc_api

    def router(self) -> APIRouter:
        """The endpoint and its resources."""
        router = APIRouter()
        resource = f"{PATH}/{{participant_sid}}"
        router.add_api_route(PATH, self._guarded(self._publish), methods=["POST"])
        router.add_api_route(resource, self._guarded(self._end), methods=["DELETE"])
        router.add_api_route(PATH, _options, methods=["OPTIONS"])
        router.add_api_route(resource, _options, methods=["OPTIONS"])
        router.add_api_route(resource, _nothing, methods=["GET", "HEAD"])
        return router

    def _guarded(self, act: Act):  # type: ignore[no-untyped-def]  # the framework reads the inner annotations
        async def answer(request: Request) -> Response:
            try:
                async with asyncio.timeout(FIRST_RESPONSE_TIMEOUT_S):
                    return await act(request, request.path_params.get("participant_sid", ""))
            except TimeoutError:
                refused = JoinRefused(503, "no answer from the room in time, try again")
            except JoinRefused as error:
                refused = error
            log.info("whip request refused", status=refused.status, reason=refused.text)
            headers = answer_headers(refused.retry_after)
            return JSONResponse({"error": refused.text}, refused.status, headers=headers)

        return answer

    async def _publish(self, request: Request, _sid: str) -> Response:
        rtc_api, address = self._rtc_api, self._rtc_api.limits.address_of(request)
        watch = JoinWatch(rtc_api.clock, rtc_api.metrics, PATH)
        with telemetry.under(watch.context):
            try:
                join = await rtc_api.check(request, address, v1=False)
                watch.room_known(join.room_name, is_resume=False)
                join = joining_with(join, parse_offer(await _body(request)))
                response = await self._answer(join, address, watch)
                watch.accepted()
            except JoinRefused as refused:
                rtc_api.metrics.joins_refused.add(1, str(refused.status))
                watch.refused(refused.status)
                raise
            finally:
                watch.gone()
        return response

    async def _answer(self, join: Join, address: str, watch: JoinWatch) -> Response:
        joined = rtc.JoinResponse()
        async with aclosing(self._exchange(join, address, watch).responses()) as responses:
            async for response in responses:
                match response.WhichOneof("message"):
                    case "join":
                        joined = response.join
                    case "answer":
                        sid = joined.participant.sid
                        log.info("whip session opened", participant=sid)
                        return _created(sid, response.answer.sdp, joined.ice_servers)
                    case "leave":
                        raise JoinRefused(400, "the room could not take the offer")
                    case "request_response":
                        raise JoinRefused(
                            400, response.request_response.message or "a track was refused"
                        )
                    case _:
                        pass
        raise JoinRefused(400, "the room could not take the offer")

    async def _end(self, request: Request, participant_sid: str) -> Response:
        address = self._rtc_api.limits.address_of(request)
        join = await self._rtc_api.check(request, address, v1=False)
        exchange = self._exchange(returning(join, participant_sid), address, None)
        is_there = False
        async with aclosing(exchange.responses()) as responses:
            async for response in responses:
                match response.WhichOneof("message"):
                    case "reconnect":
                        is_there = True
                        leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
                        await exchange.send(rtc.SignalRequest(leave=leave))
                    case "leave":
                        break
                    case _:
                        pass
        if not is_there:
            raise JoinRefused(404, "no such session in the token's room under its identity")
        return Response(headers=answer_headers())

    def _exchange(self, join: Join, address: str, watch: JoinWatch | None) -> _Exchange:
        find_opening = self._rtc_api.finder_for(join, address, one_shot=True)
        return _Exchange(self._rtc_api.machine_for(join), find_opening, self._rtc_api, watch)


class _Exchange:
    """A signaling socket's machine without a socket: what it would write is given as it comes."""

    def __init__(
        self,
        machine: SignalSocket,
        find_opening: FindOpening,
        rtc_api: RtcApi,
        watch: JoinWatch | None,
    ) -> None:
        self._machine = machine
        self._find_opening = find_opening
        self._clock = rtc_api.clock
        self._watch = watch
        self._effects: asyncio.Queue[Effect] = asyncio.Queue()
        self._stream: NodeStream | None = None
        self._session_id = 0

    async def responses(self) -> AsyncGenerator[rtc.SignalResponse]:
        """Until the node ends it; raise `JoinRefused` when it does not begin."""
        self._feed(Started())
        try:
            while True:
                match await self._next():
                    case FindHome(doubted_epoch):
                        await self._find_home(doubted_epoch)
                    case Write(response):
                        self._feed(Written())
                        yield rtc.SignalResponse.FromString(response.payload)
                    case Deny(http_status, message):
                        raise JoinRefused(http_status, message)
                    case Close():
                        return
                    case Accept():
                        pass
                    case effect:
                        assert_never(effect)
        finally:
            self._end_session()

    async def send(self, request: rtc.SignalRequest) -> None:
        """One request of the client."""
        if self._stream is not None:
            await self._stream.send(self._session_id, request.SerializeToString())

    async def _next(self) -> Effect:
        while True:
            deadline = self._machine.next_timeout()
            wait_s = None if deadline is None else max(0.0, deadline - self._clock.now())
            try:
                return await asyncio.wait_for(self._effects.get(), wait_s)
            except TimeoutError:
                self._feed(Ticked())

    def _feed(self, event: Event) -> None:
        for effect in self._machine.handle(event, self._clock.now()):
            self._effects.put_nowait(effect)

    async def _find_home(self, doubted_epoch: int) -> None:
        self._end_session()
        try:
            opening = await self._find_opening(doubted_epoch)
        except ServiceError as error:
            self._feed(home_not_found(error))
            return
        self._feed(HomeFound(opening.request.epoch))
        self._stream = opening.stream
        self._session_id = opening.stream.open(opening.request, self._feed, self._opened)

    def _opened(self, participant_sid: str) -> None:
        if self._watch is not None:
            self._watch.session_opened(participant_sid)

    def _end_session(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end(self._session_id, node_pb2.SocketClosed.CAUSE_SERVER_CLOSED)


async def _body(request: Request) -> bytes:
    """The offer, or so much of it that its excess is seen."""
    if request.headers.get("content-type", "").strip().lower() != SDP:
        raise JoinRefused(400, f"the content type must be {SDP}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_OFFER_BYTES:
            break
    return bytes(body)


def _created(sid: str, sdp: str, ice_servers: Iterable[rtc.ICEServer]) -> Response:
    headers = answer_headers() | {
        "Location": f"{PATH}/{sid}",
        "Access-Control-Expose-Headers": "Location, Link",
    }
    response = Response(sdp, 201, headers=headers, media_type=SDP)
    for server in ice_servers:
        for url in server.urls:
            link = f'<{quote(url, safe=":?=&")}>; rel="ice-server"'
            if server.username:
                link += f'; username="{server.username}"; credential="{server.credential}"; credential-type="password"'
            response.headers.append("Link", link)
    return response


async def _options() -> Response:
    return Response(headers=answer_headers() | {"Accept-Post": SDP})


async def _nothing() -> Response:
    return Response(status_code=204)
