"""The error tree and its table of codes."""

import grpc
import pytest

from chassis.errors import CODES, Code, NotAllowed, ServiceError, Unavailable, Unknown


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_row_and_a_class(code: Code) -> None:
    error = ServiceError.of(code.value, "text", {"a": "b"})
    assert error.code is code
    assert (error.message, error.meta) == ("text", {"a": "b"})
    assert error.grpc_name in grpc.StatusCode.__members__
    assert error.http_status == CODES[code].twirp_status >= 400


def test_unknown_code_name_becomes_unknown() -> None:
    assert type(ServiceError.of("no_such_code", "x")) is Unknown


def test_missing_grant_is_unauthenticated_on_the_wire() -> None:
    error = NotAllowed()
    assert (error.code.value, error.http_status, str(error)) == (
        "unauthenticated",
        401,
        "permissions denied",
    )


def test_out_of_range_has_its_own_status_for_joins() -> None:
    error = ServiceError.of("out_of_range", "x")
    assert (error.http_status, error.join_status) == (400, 416)
    assert Unavailable("x").join_status == 503
