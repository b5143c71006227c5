"""A collector of traces: a real OTLP receiver over gRPC, which keeps what it was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2 as collector,
)
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2_grpc as collector_grpc,
)
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True)
class Span:
    """One span as received."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int]
    failed: bool


@dataclass
class Collector(collector_grpc.TraceServiceServicer):
    """Where services send their spans."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Every request as it came."""

    async def Export(
        self, request: collector.ExportTraceServiceRequest, _context: object
    ) -> collector.ExportTraceServiceResponse:
        self.raw.append(request.SerializeToString())
        for resource in request.resource_spans:
            named = {it.key: it.value.string_value for it in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_span(named["service.name"], it) for it in scope.spans]
        return collector.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        """Every span of this name."""
        return [it for it in self.spans if it.name == name]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    server = grpc.aio.server()
    taken = Collector()
    collector_grpc.add_TraceServiceServicer_to_server(taken, server)
    taken.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield taken
    finally:
        await server.stop(None)


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={it.key: it.value.string_value or it.value.int_value for it in span.attributes},
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )
