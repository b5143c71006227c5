"""The published agents framework as a participant, without a job: an AgentSession in a room, run by itself.

Its packages lie in a directory of their own, the only argument; they pin another release of the Python SDK. Commands
on stdin, answers and events on stdout, JSON lines, as tests/support/client_process.py tells. No model is asked for
anything: what the agent says is given as sound and text.
"""

import asyncio
import json
import math
import os
import sys
from array import array
from collections.abc import AsyncIterator
from typing import Any

sys.path.insert(0, sys.argv[1])

from livekit import rtc  # of the directory given above
from livekit.agents import Agent, AgentSession

SAMPLE_RATE = 48_000
TONE_HZ = 440.0


def say(line: dict[str, object]) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def tone(seconds: float) -> AsyncIterator[Any]:
    """The agent's voice."""
    samples = SAMPLE_RATE // 100
    turn = 2 * math.pi * TONE_HZ / SAMPLE_RATE
    for number in range(int(seconds * 100)):
        begin = number * samples
        wave = array("h", (int(16_000 * math.sin(turn * (begin + i))) for i in range(samples)))
        yield rtc.AudioFrame(wave.tobytes(), SAMPLE_RATE, 1, samples)


class Participant:
    """The commands, by name."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.session: Any = AgentSession()

    async def join(self, url: str, token: str) -> None:
        await self.room.connect(url, token)
        await self.session.start(Agent(instructions="none"), room=self.room)
        self.room.local_participant.register_rpc_method("ask", self._answer)

    async def speak(self, text: str, seconds: float) -> bool:
        """Whether it was said to its end."""
        speech = self.session.say(text, audio=tone(seconds))
        await speech.wait_for_playout()
        return not speech.interrupted

    async def leave(self) -> None:
        await self.session.aclose()
        await self.room.disconnect()

    async def _answer(self, call: Any) -> str:
        return f"the agent heard {call.payload}"


async def main() -> None:
    """Do what stdin says until it ends."""
    participant = Participant()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        number, does = command.pop("id"), command.pop("does")
        try:
            say({"id": number, "answer": await getattr(participant, does)(**command)})
        except Exception as error:  # noqa: BLE001  # the test is told, whatever it is
            say({"id": number, "error": repr(error)})


asyncio.run(main())
# Its native threads do not survive the interpreter's own end.
os._exit(0)
