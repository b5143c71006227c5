"""The HTTP front when something inside fails."""

import httpx
from fastapi import APIRouter

from signaling.http import make_app

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJldmUifQ.c2lnbmF0dXJl"


async def test_a_failure_inside_is_a_bare_500() -> None:
    router = APIRouter()

    async def broken() -> None:
        raise RuntimeError(f"could not read /rtc?access_token={TOKEN}")

    router.add_api_route("/broken", broken)
    transport = httpx.ASGITransport(app=make_app([router], None), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/broken", params={"access_token": TOKEN})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
