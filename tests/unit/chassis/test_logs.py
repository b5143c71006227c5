"""Logs say nothing of tokens and join requests, whoever writes them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from chassis import logs

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrZXkifQ.c2lnbmF0dXJl"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    logs.configure(json=True, level="debug", stream=stream)
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_events_are_json_with_fields(out: io.StringIO) -> None:
    structlog.get_logger("x").info("track published", kind="audio")
    event = json.loads(out.getvalue())
    assert (event["event"], event["kind"], event["level"]) == ("track published", "audio", "info")


@pytest.mark.parametrize(
    "fields",
    [
        {"url": f"/rtc?access_token={TOKEN}&sdk=js"},
        {"url": "/rtc/v1?join_request=CgYKBHRlc3Q%3D"},
        {"access_token": TOKEN},
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"args": [("a", f"bearer {TOKEN}")]},
        {"raw": f"authorization: Bearer {TOKEN}".encode()},
        {"error": ValueError(f"bad {TOKEN}")},
        {"text": "{'join_request': 'CgYKBHRlc3Q%3D'}"},
    ],
)
def test_secrets_never_reach_the_output(out: io.StringIO, fields: dict[str, object]) -> None:
    structlog.get_logger("x").warning("request", **fields)
    text = out.getvalue()
    assert TOKEN not in text
    assert "CgYKBHRlc3Q" not in text
    assert logs.REDACTED in text


def test_loggers_of_libraries_and_tracebacks_are_redacted_too(out: io.StringIO) -> None:
    try:
        int(f"GET /rtc?access_token={TOKEN}")
    except ValueError:
        logging.getLogger("uvicorn.error").exception(
            '"WebSocket %s" failed', f"/?access_token={TOKEN}"
        )
    assert TOKEN not in out.getvalue()
    assert "Traceback" in out.getvalue()


def test_access_log_is_off(out: io.StringIO) -> None:
    logging.getLogger("uvicorn.access").info("GET /")
    assert out.getvalue() == ""


def test_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        logs.configure(json=True, level="loud", stream=io.StringIO())
