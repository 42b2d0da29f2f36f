"""httpx with HTTP/2: httpx_client.py URL CA"""

import asyncio
import sys

import httpx
import ssl

url, authority = sys.argv[1:]
trust = ssl.create_default_context(cafile=authority)
body = bytes(range(256)) * 8192


async def pieces():
    for at in range(0, len(body), 70_000):
        yield body[at : at + 70_000]


async def main():
    async with httpx.AsyncClient(http1=False, http2=True, verify=trust, timeout=30) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/{number}") for number in range(300)))
        for answer in answers:
            assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "hello"), answer
        for content in (body, pieces()):
            answer = await client.post(f"{url}/echo", content=content)
            assert answer.http_version == "HTTP/2" and answer.content == body, answer
        # Left in the middle; the connection goes on.
        async with client.stream("POST", f"{url}/echo", content=body) as answer:
            async for _ in answer.aiter_bytes(1000):
                break
        assert (await client.get(url)).text == "hello"
    async with httpx.AsyncClient(verify=trust) as client:
        answer = await client.post(f"{url}/echo", content=pieces())
        assert answer.http_version == "HTTP/1.1" and answer.content == body, answer


asyncio.run(main())
