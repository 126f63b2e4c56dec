"""A model server whose streams last as many seconds as the last message states.

It is a separate process, so that callers do not share its descriptors or its CPU time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

from fake_upstream import DONE, chunk

# Events per second of a stream. At full size both ends are Python, and need more CPU than the
# gateway.
TICKS = 1 if "TOKEN_SHIELD_FULL" in os.environ else 4


class Clock:
    """The running server. Streams last as many seconds as the last message states.

    They send TICKS events per second.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the server did not start"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = json.loads(await reader.readexactly(length) or b"{}")
            if not body:
                writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                continue
            seconds = float(body["messages"][-1]["content"])
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(int(seconds * TICKS)):
                writer.write(_framed(chunk("tick ")))
                await writer.drain()
                await asyncio.sleep(1 / TICKS)
            writer.write(_framed(chunk(None, "stop")) + _framed(DONE) + b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        # The pipe closes when the parent process ends.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
