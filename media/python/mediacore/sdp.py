"""The SDP values alone, for code that may not touch the engine; see `_native.pyi` for what each is."""

from mediacore._native import (
    MediaSection,
    SdpCache,
    SdpCodec,
    SdpError,
    SdpRid,
    SdpSsrcGroup,
    SessionDescription,
)

__all__ = [
    "MediaSection",
    "SdpCache",
    "SdpCodec",
    "SdpError",
    "SdpRid",
    "SdpSsrcGroup",
    "SessionDescription",
]
