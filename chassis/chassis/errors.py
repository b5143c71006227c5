"""The errors of the chassis, and the one table that maps their codes to HTTP, Twirp and gRPC.

    ChassisError
    ├── ServiceError              an answer to a caller: a code, a message, optional meta
    │   ├── Canceled  Unknown  InvalidArgument  Malformed  DeadlineExceeded  NotFound  BadRoute
    │   ├── AlreadyExists  PermissionDenied  ResourceExhausted  FailedPrecondition  Aborted
    │   ├── OutOfRange  Unimplemented  Internal  DataLoss
    │   ├── Unavailable
    │   │   └── Unreachable           the other service was not reached, or went before it answered
    │   └── Unauthenticated
    │       └── NotAllowed        the token lacks the grant ("permissions denied", 401 on the wire)
    ├── TokenError                an access token was refused; the text never contains the token
    ├── BusError                  the message bus did not do it
    │   ├── NotConnected
    │   ├── NoResponders
    │   └── RequestTimedOut
    ├── KvError                   the key-value store did not do it
    │   ├── KeyExists             create: the key is there already
    │   ├── WrongRevision         update or delete: somebody else wrote in between
    │   ├── KvUnavailable         it cannot be reached, or refused: nothing was written
    │   └── OutcomeUnknown        the write may or may not have happened: read back
    └── SettingsError             the process cannot start with these settings

What it is not: an exception per cause. A caller branches on the code; people read the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar


class Code(StrEnum):
    """What kind of failure a call ended with; the values are the names on the Twirp wire."""

    CANCELED = "canceled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    MALFORMED = "malformed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    BAD_ROUTE = "bad_route"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    UNAUTHENTICATED = "unauthenticated"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATALOSS = "dataloss"


@dataclass(frozen=True, slots=True)
class CodeMapping:
    """One row of the table: the same failure on each wire."""

    twirp_status: int
    """HTTP status of a Twirp answer."""
    join_status: int
    """HTTP status when the failure refuses a WebSocket join (LiveKit signal protocol)."""
    grpc: str
    """Name of the gRPC status code; a name, so that cores may import this module without gRPC."""


CODES: Mapping[Code, CodeMapping] = MappingProxyType(
    {
        Code.CANCELED: CodeMapping(408, 503, "CANCELLED"),
        Code.UNKNOWN: CodeMapping(500, 500, "UNKNOWN"),
        Code.INVALID_ARGUMENT: CodeMapping(400, 400, "INVALID_ARGUMENT"),
        Code.MALFORMED: CodeMapping(400, 400, "INVALID_ARGUMENT"),
        Code.DEADLINE_EXCEEDED: CodeMapping(408, 503, "DEADLINE_EXCEEDED"),
        Code.NOT_FOUND: CodeMapping(404, 404, "NOT_FOUND"),
        Code.BAD_ROUTE: CodeMapping(404, 404, "UNIMPLEMENTED"),
        Code.ALREADY_EXISTS: CodeMapping(409, 409, "ALREADY_EXISTS"),
        Code.PERMISSION_DENIED: CodeMapping(403, 403, "PERMISSION_DENIED"),
        Code.UNAUTHENTICATED: CodeMapping(401, 401, "UNAUTHENTICATED"),
        Code.RESOURCE_EXHAUSTED: CodeMapping(429, 429, "RESOURCE_EXHAUSTED"),
        Code.FAILED_PRECONDITION: CodeMapping(412, 412, "FAILED_PRECONDITION"),
        Code.ABORTED: CodeMapping(409, 409, "ABORTED"),
        Code.OUT_OF_RANGE: CodeMapping(400, 416, "OUT_OF_RANGE"),
        Code.UNIMPLEMENTED: CodeMapping(501, 501, "UNIMPLEMENTED"),
        Code.INTERNAL: CodeMapping(500, 500, "INTERNAL"),
        Code.UNAVAILABLE: CodeMapping(503, 503, "UNAVAILABLE"),
        Code.DATALOSS: CodeMapping(500, 500, "DATA_LOSS"),
    }
)


class ChassisError(Exception):
    """Root of the tree."""


class ServiceError(ChassisError):
    """A call's failure, as its caller is told it; construct a subclass, or `ServiceError.of`."""

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str, meta: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.meta: dict[str, str] = dict(meta or {})

    @staticmethod
    def of(code: str, message: str, meta: Mapping[str, str] | None = None) -> ServiceError:
        """The error of a code that arrived by name; a name nobody knows becomes `Unknown`."""
        return _BY_CODE.get(code, Unknown)(message, meta)

    @property
    def http_status(self) -> int:
        """Status of the Twirp answer."""
        return CODES[self.code].twirp_status

    @property
    def join_status(self) -> int:
        """Status when this refuses a WebSocket join."""
        return CODES[self.code].join_status

    @property
    def grpc_name(self) -> str:
        """Name of the gRPC status code."""
        return CODES[self.code].grpc


class Canceled(ServiceError):
    """The caller went away."""

    code = Code.CANCELED


class Unknown(ServiceError):
    """A failure that carried no code we know."""

    code = Code.UNKNOWN


class InvalidArgument(ServiceError):
    """The request is wrong whatever the state."""

    code = Code.INVALID_ARGUMENT


class Malformed(ServiceError):
    """The request's bytes cannot be decoded."""

    code = Code.MALFORMED


class DeadlineExceeded(ServiceError):
    """The time for the call ran out; it may have been done."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(ServiceError):
    """The thing named does not exist."""

    code = Code.NOT_FOUND


class BadRoute(ServiceError):
    """No such method, or it was not called as it must be."""

    code = Code.BAD_ROUTE


class AlreadyExists(ServiceError):
    """The thing to be made is there already."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(ServiceError):
    """Who you are is clear; you may not."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(ServiceError):
    """No valid proof of who is asking."""

    code = Code.UNAUTHENTICATED


class NotAllowed(Unauthenticated):
    """The token (or its absence) does not grant this call; 401 on the LiveKit server APIs."""

    def __init__(
        self, message: str = "permissions denied", meta: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, meta)


class ResourceExhausted(ServiceError):
    """A limit is reached."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(ServiceError):
    """The state does not allow it now."""

    code = Code.FAILED_PRECONDITION


class Aborted(ServiceError):
    """A concurrent change won; the caller may try again."""

    code = Code.ABORTED


class OutOfRange(ServiceError):
    """A position beyond the valid range."""

    code = Code.OUT_OF_RANGE


class Unimplemented(ServiceError):
    """Known, and not offered."""

    code = Code.UNIMPLEMENTED


class Internal(ServiceError):
    """Our fault; details are in the log, not in the answer."""

    code = Code.INTERNAL


class Unavailable(ServiceError):
    """Not now; the caller may try again."""

    code = Code.UNAVAILABLE


class Unreachable(Unavailable):
    """The other service could not be reached, or the connection broke before its answer: it may have done the call."""


class DataLoss(ServiceError):
    """Stored data is gone or broken."""

    code = Code.DATALOSS


class TokenError(ChassisError):
    """An access token was refused. The message is for the caller and never contains the token."""

    http_status: ClassVar[int] = 401


class BusError(ChassisError):
    """The message bus did not do what was asked."""


class NotConnected(BusError):
    """There is no connection to the bus now."""


class NoResponders(BusError):
    """Nobody listens on the subject of a request."""


class RequestTimedOut(BusError):
    """No answer, or no acknowledgement, came in time."""


class KvError(ChassisError):
    """The key-value store did not do what was asked."""


class KeyExists(KvError):
    """`create` found the key there already."""


class WrongRevision(KvError):
    """The key's revision is not the one the write was conditional on."""


class KvUnavailable(KvError):
    """The store cannot be reached, or refused the write; nothing was written."""


class InvalidKey(KvError):
    """The key is too long for the store."""


class OutcomeUnknown(KvError):
    """No acknowledgement came: the write may or may not have happened. Read back to learn which."""


class SettingsError(ChassisError):
    """The process cannot start with these settings; the message says what to change."""


_BY_CODE: Mapping[str, type[ServiceError]] = {
    kind.code.value: kind for kind in ServiceError.__subclasses__()
}
