"""aiohttp, which speaks HTTP/1.1: aiohttp_client.py URL CA"""

import asyncio
import ssl
import sys

import aiohttp

url, authority = sys.argv[1:]
body = bytes(range(256)) * 8192


async def pieces():
    for at in range(0, len(body), 70_000):
        yield body[at : at + 70_000]


async def get(client, number):
    async with client.get(f"{url}/{number}") as answer:
        assert (answer.status, answer.version, await answer.text()) == (200, aiohttp.HttpVersion11, "hello"), answer


async def main():
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority), limit=20)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30)) as client:
        await asyncio.gather(*(get(client, number) for number in range(300)))
        for data, expect100 in ((body, False), (pieces(), False), (body, True)):
            async with client.post(f"{url}/echo", data=data, expect100=expect100) as answer:
                assert await answer.read() == body, answer


asyncio.run(main())
