#!/usr/bin/env python3
"""One backend: answers every request after 100 ms, /healthz at once. With SIGUSR1 its trouble begins, with SIGUSR2 it ends.

    origin.py ADDRESS PORT NUMBER TROUBLE SEEN

The X-Number of every POST is appended to SEEN when it arrives, so that what became of it can be told after a SIGKILL.

TROUBLE: `hanging` (accepts and reads, but never answers again), `half500` (every second request, by chance, is answered 500,
/healthz is not) or `slow` (everything takes half a second longer).
"""

import asyncio
import os
import random
import re
import signal
import sys

WORK = 0.1
SLOWER = 0.5
HEAD = re.compile(rb"(\S+) (\S+) HTTP/1\.(.)\r\n(.*?\r\n)?\r\n", re.DOTALL)
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
NUMBER = re.compile(rb"(?im)^x-number: *(\S+)")
CLOSE = re.compile(rb"(?im)^connection: *close")


class Origin:
    """What all connections of this backend share."""

    def __init__(self, number, trouble, seen):
        self.name = number.encode()
        self.trouble = trouble
        self.seen = os.open(seen, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.is_ill = False
        self.dice = random.Random(4)

    def has(self, trouble):
        return self.is_ill and self.trouble == trouble

    def is_ill_from_now(self, is_ill):
        self.is_ill = is_ill

    def note(self, method, fields):
        number = NUMBER.search(fields)
        if method == b"POST" and number:
            os.write(self.seen, number[1] + b"\n")

    def answer(self, path):
        """The answer to a request and after how long it is given; None when it never is."""
        if self.has("hanging"):
            return None
        is_probe = path == b"/healthz"
        delay = (0 if is_probe else WORK) + (SLOWER if self.has("slow") else 0)
        fails = not is_probe and self.has("half500") and self.dice.random() < 0.5
        status = b"500 Internal Server Error" if fails else b"200 OK"
        return delay, b"HTTP/1.1 %s\r\nX-Origin: %s\r\nContent-Length: 3\r\n\r\nok\n" % (status, self.name)


class Connection(asyncio.Protocol):
    def __init__(self, origin):
        self.origin = origin
        self.got = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data
        head = HEAD.match(self.got)
        if not head:
            return
        method, path, minor, fields = head.groups(b"")
        length = LENGTH.search(fields)
        end = head.end() + int(length[1] if length else 0)
        if len(self.got) < end:
            return
        self.got = self.got[end:]
        self.origin.note(method, fields)
        planned = self.origin.answer(path)
        if planned:
            delay, text = planned
            closes = minor == b"0" or CLOSE.search(fields)
            asyncio.get_running_loop().call_later(delay, self.say, text, closes)

    def say(self, text, closes):
        self.transport.write(text)
        if closes:
            self.transport.close()


async def main():
    address, port, number, trouble, seen = sys.argv[1:]
    origin = Origin(number, trouble, seen)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, origin.is_ill_from_now, True)
    loop.add_signal_handler(signal.SIGUSR2, origin.is_ill_from_now, False)
    server = await loop.create_server(lambda: Connection(origin), address, int(port), backlog=4096)
    await server.serve_forever()


asyncio.run(main())
