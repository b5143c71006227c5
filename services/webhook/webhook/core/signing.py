"""One request as receivers verify it: the body's bytes, and a token with their digest (protocol.md section 9)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from chassis.tokens import Grants, sign

CONTENT_TYPE: Final = "application/webhook+json"
TOKEN_LIFE_S: Final = 300.0


def headers(body: bytes, api_key: str, secret: SecretStr, wall_s: float) -> Mapping[str, str]:
    """The headers of a request with this body, sent now (Unix time)."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    token = sign(Grants(identity="", sha256=digest), api_key, secret, TOKEN_LIFE_S, wall_s)
    return {"Content-Type": CONTENT_TYPE, "Authorization": token}
