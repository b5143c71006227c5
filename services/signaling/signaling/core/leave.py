"""The last word to a client whose session is gone: join anew, now."""

from livekit.protocol import models, rtc

FIRST_PROTOCOL_WITH_ACTION = 13


def join_anew(protocol: int) -> bytes:
    """A serialized `leave` that every SDK answers with a full reconnect; older protocols know a flag in its place."""
    leave = rtc.LeaveRequest(reason=models.DisconnectReason.STATE_MISMATCH)
    if protocol >= FIRST_PROTOCOL_WITH_ACTION:
        leave.action = rtc.LeaveRequest.RECONNECT
    else:
        leave.can_reconnect = True
    return rtc.SignalResponse(leave=leave).SerializeToString()
