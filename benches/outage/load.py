#!/usr/bin/env python3
"""The load on one proxy: requests at a fixed rate, whether or not the ones before were answered, each with its fate.

    load.py PLAN.json RESULT.json

wrk is not enough here: it asks as fast as answers come, so a backend that hangs stops it instead of being counted, and a
request that is never answered is in none of its figures. A request's time counts from when it was due.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

HOST = "127.0.0.1"
REQUESTS = {
    "GET": b"GET /work HTTP/1.1\r\nHost: outage\r\n\r\n",
    "POST": b"POST /work HTTP/1.1\r\nHost: outage\r\nX-Number: %s\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
    # Through the TCP proxy: a session of one request.
    "TCP": b"GET /work HTTP/1.1\r\nHost: outage\r\nConnection: close\r\n\r\n",
}
HEAD = re.compile(rb"HTTP/1\.1 (\d\d\d)[^\n]*\n(.*?)\r\n\r\n", re.DOTALL)
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
CLOSE = re.compile(rb"(?im)^connection: *close")
ORIGIN = re.compile(rb"(?im)^x-origin: *(\d+)")


class Answer:
    """A whole answer in `got`, or None."""

    @staticmethod
    def within(got):
        head = HEAD.match(got)
        if not head:
            return None
        length = LENGTH.search(head[2])
        if len(got) < head.end() + int(length[1] if length else 0):
            return None
        return Answer(head)

    def __init__(self, head):
        self.status = int(head[1])
        origin = ORIGIN.search(head[2])
        self.origin = int(origin[1]) if origin else None
        self.closes = bool(CLOSE.search(head[2]))


class Stream:
    """All requests of one kind."""

    def __init__(self, plan, kind, port, rate):
        self.plan = plan
        self.kind = kind
        self.port = port
        self.rate = rate
        self.idle = []
        self.records = []

    async def run(self):
        loop = asyncio.get_running_loop()
        pending = set()
        for number in range(int(self.rate * self.plan["seconds"])):
            due = self.plan["start"] + number / self.rate
            await asyncio.sleep(max(0, due - loop.time()))
            task = loop.create_task(self.one(due, f"{self.plan['name']}-{number}"))
            pending.add(task)
            task.add_done_callback(pending.discard)
        while pending:
            await asyncio.wait(pending)

    async def one(self, due, number):
        """One request from when it is due to its fate: a status, or what came instead of one."""
        loop = asyncio.get_running_loop()
        fate, origin = "timeout", None
        try:
            async with asyncio.timeout_at(due + self.plan["patience"]):
                fate, origin = await self.ask(number)
        except TimeoutError:
            pass
        self.records.append([round(due - self.plan["start"], 4), round(loop.time() - due, 4), fate, origin, number])

    async def ask(self, number):
        line = self.idle.pop() if self.idle else None
        if not line:
            try:
                _, line = await asyncio.get_running_loop().create_connection(lambda: Line(self), HOST, self.port)
            except OSError as fault:
                return type(fault).__name__, None
        request = REQUESTS[self.kind]
        if self.kind == "POST":
            request %= number.encode()
        try:
            answer = await line.ask(request)
        except asyncio.CancelledError:
            line.transport.abort()
            raise
        if isinstance(answer, str):
            return answer, None
        if answer.closes or self.kind == "TCP":
            line.transport.close()
        else:
            self.idle.append(line)
        return answer.status, answer.origin


class Line(asyncio.Protocol):
    """A connection to the proxy."""

    def __init__(self, stream):
        self.stream = stream
        self.waiting = None

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, request):
        """A future of the answer, or of a word for what came instead."""
        self.got = b""
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiting

    def data_received(self, data):
        if self.waiting:
            self.got += data
            answer = Answer.within(self.got)
            if answer:
                self.settle(answer)

    def connection_lost(self, fault):
        if self in self.stream.idle:
            self.stream.idle.remove(self)
        self.settle("reset" if fault else "closed")

    def settle(self, result):
        if self.waiting and not self.waiting.done():
            self.waiting.set_result(result)
        self.waiting = None


async def main():
    plan_file, result_file = map(Path, sys.argv[1:])
    plan = json.loads(plan_file.read_text())
    streams = [Stream(plan, **stream) for stream in plan["streams"]]
    await asyncio.gather(*(stream.run() for stream in streams))
    result_file.write_text(json.dumps({stream.kind: stream.records for stream in streams}))


asyncio.run(main())
