"""The Python SDK as a program: numbers its reliable packets, and prints the numbers that others send.

    python -m tests.support.numbering_client URL TOKEN single|dual

For hosts of a network that is cut; it runs until it is killed.
"""

import asyncio
import json
import sys

from livekit import rtc

PACKET_EVERY_S = 0.02


async def main(url: str, token: str, mode: str) -> None:
    """Join, and wait for somebody else before the first number."""
    room = rtc.Room()
    others = asyncio.Event()
    room.on("participant_connected", lambda _who: others.set())
    room.on("data_received", _print)
    for name in ("reconnecting", "reconnected", "disconnected"):
        room.on(name, lambda *_reason, name=name: _say(name))
    await room.connect(url, token, rtc.RoomOptions(single_peer_connection=mode == "single"))
    if not room.remote_participants:
        await others.wait()
    await asyncio.sleep(1)
    number = 0
    while True:
        number += 1
        await room.local_participant.publish_data(number.to_bytes(4, "big"), reliable=True)
        await asyncio.sleep(PACKET_EVERY_S)


def _print(packet: rtc.DataPacket) -> None:
    _say(json.dumps({"number": int.from_bytes(packet.data, "big")}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
