"""Logs: structlog for us, the standard library's loggers routed through it, one redaction for all.

Event names are static and values are fields. Access tokens and join requests travel in query
strings, so every event passes `redact` whoever wrote it: web server, client library or our code.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from chassis import telemetry

REDACTED = "[redacted]"
SECRET_KEYS = frozenset(
    {
        "access_token",
        "join_request",
        "authorization",
        "token",
        "secret",
        "password",
        "internal_token",
    }
)

_SECRETS_IN_TEXT = re.compile(
    r"(?P<query>\b(?:access_token|join_request)\b(?:=|%3D|\"?'?\s*:\s*\"?'?))[^&\s\"'<>]+"
    r"|(?P<bearer>\bbearer\s+)[^\s\"',]+"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)


def configure(*, json: bool, level: str, stream: TextIO | None = None) -> None:
    """Set up logging of this process; called once, before anything logs."""
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if json:
        render: list[Processor] = [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(default=repr),
        ]
    else:
        render = [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=out.isatty()),
        ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_level(level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # Access logs repeat query strings, and libraries at debug level print whole requests.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").filters[:] = [_is_news]
    for chatty in ("uvicorn", "uvicorn.error", "websockets", "asyncio", "grpc", "nats", "httpx"):
        logging.getLogger(chatty).handlers.clear()
        logging.getLogger(chatty).propagate = True
        logging.getLogger(chatty).setLevel(max(_level(level), logging.WARNING))


def bind_process(*, service: str, node_id: str) -> None:
    """Name this process in every line of the caller's context and the tasks made from it."""
    structlog.contextvars.bind_contextvars(service=service, node_id=node_id)


def _add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    trace_id = telemetry.trace_id()
    if trace_id:
        event.setdefault("trace_id", trace_id)
    return event


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn takes every refused WebSocket, answered as it should be, for an application's fault.
    return "without completing handshake" not in record.msg


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: take secrets out of every field and text of an event."""
    return {key: _clean_field(key, value) for key, value in event.items()}


def redact_text(text: str) -> str:
    """`text` without tokens and join requests."""
    return _SECRETS_IN_TEXT.sub(
        lambda found: (found["query"] or found["bearer"] or "") + REDACTED, text
    )


def _clean_field(key: object, value: Any) -> Any:
    if isinstance(key, str) and key.lower() in SECRET_KEYS and value:
        return REDACTED
    return _clean(value)


def _clean(value: Any) -> Any:
    match value:
        case str():
            return redact_text(value)
        case bytes():
            return redact_text(value.decode("utf-8", "replace"))
        case Mapping():
            return {key: _clean_field(key, item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return redact_text(str(value))


def _level(name: str) -> int:
    level = logging.getLevelNamesMapping().get(name.upper())
    if level is None:
        raise ValueError(f"unknown log level {name!r}: use debug, info, warning or error")
    return level
