"""WebSocket by `websockets`: `websockets_echo.py serve`, or `websockets_echo.py ask URL CA`"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(socket):
    try:
        async for message in socket:
            if message == "leave":
                await socket.close(4001, "as you wish")
                return
            await socket.send(message)
    except ConnectionClosed:
        pass


async def serving():
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        host, port = server.sockets[0].getsockname()
        print(f"{host}:{port}", flush=True)
        await server.serve_forever()


async def one(url, trust, number):
    async with connect(url, ssl=trust, max_size=None) as socket:
        for message in (f"text {number} äöü", bytes(range(256)) * 4096, "", b"x" * 65_536):
            await socket.send(message)
            assert await socket.recv() == message, number
        await socket.send(part for part in ("in ", "three ", "parts"))
        assert await socket.recv() == "in three parts"
        await asyncio.wait_for(await socket.ping(), 20)
        await socket.send("leave")
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish"), socket


async def asking(url, authority):
    trust = ssl.create_default_context(cafile=authority)
    await asyncio.gather(*(one(url, trust, number) for number in range(20)))


asyncio.run(serving() if sys.argv[1] == "serve" else asking(*sys.argv[2:]))
