"""A target of webhooks that notes the id and the time of every fact it takes: `webhook_target PORT FILE`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

NOTE_SEPARATOR = " "


async def main(port: int, notes: Path) -> None:
    """Listen until killed; a note is written before the answer."""
    with notes.open("a", buffering=1) as output:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    event = json.loads(await reader.readexactly(length))
                    output.write(f"{event['id']}{NOTE_SEPARATOR}{time.time()}\n")
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
