#!/usr/bin/env python3
"""Opens connections at a fixed rate, whether or not the other side is quick, with one request on each.

    paced.py http://ADDRESS:PORT/PATH RATE SECONDS

They come as those of many clients that know nothing of each other (a Poisson process, the same one each time), and each is closed
as soon as its answer is whole. At the end it prints one line of JSON: answers, bytes of their bodies, the time they took from when
they were due, and errors by what they are.
"""

import gc
import json
import sys
import time
from itertools import accumulate
from random import Random
from select import EPOLLET, EPOLLIN, EPOLLOUT, epoll, select
from socket import AF_INET, SOCK_NONBLOCK, SOCK_STREAM, socket
from statistics import quantiles
from urllib.parse import urlsplit

# So many may be open at once; what is due beyond that waits, and the rate is not kept.
MOST = 4096
# Seconds after the last was due in which answers may still come.
PATIENCE = 5


class Visit:
    """One connection from when it is due until its answer is whole."""

    __slots__ = ("sock", "due", "asked", "answer")

    def __init__(self, address, due):
        self.due = due
        self.asked = False
        self.answer = b""
        self.sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        # Under way; whether it stands is seen when it can be written to.
        self.sock.connect_ex(address)

    def go_on(self, request):
        """None while it is under way, else what it came to: the size of the body, `read` or `status`."""
        if not self.asked:
            self.sock.send(request)
            self.asked = True
        while True:
            try:
                read = self.sock.recv(65536)
            except BlockingIOError:
                return None
            self.answer += read
            head, end, body = self.answer.partition(b"\r\n\r\n")
            if end and len(body) >= length(head):
                return len(body) if head.startswith(b"HTTP/1.1 200 ") else "status"
            if not read:
                return "read"


def length(head):
    """What an answer's head says of its body."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0


class Load:
    """All visits of a run."""

    def __init__(self, url, rate, seconds):
        target = urlsplit(url)
        self.address = (target.hostname, target.port)
        self.request = f"GET {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n\r\n".encode()
        self.seconds, self.total = seconds, rate * seconds
        dice = Random(1)
        # When each is due, in seconds from the start.
        self.dues = list(accumulate(dice.expovariate(rate) for _ in range(self.total)))
        self.events = epoll()
        self.visits = {}
        self.begun = 0
        self.sizes, self.times = [], []
        self.kinds = {"connect": 0, "read": 0, "status": 0, "timeout": 0}
        self.took = seconds

    def run(self):
        """Ends when all have had their answer, or the patience is over."""
        start = time.monotonic()
        last = self.dues[-1] + PATIENCE
        while (self.begun < self.total or self.visits) and (now := time.monotonic() - start) < last:
            while self.begun < self.total and self.dues[self.begun] <= now and len(self.visits) < MOST:
                self.open(start + self.dues[self.begun])
            due = self.dues[self.begun] if self.begun < self.total and len(self.visits) < MOST else last
            # For events, and not longer; epoll itself counts in milliseconds.
            select([self.events], [], [], max(0, start + due - time.monotonic()))
            for descriptor, _ in self.events.poll(0):
                if self.attend(descriptor):
                    self.took = max(self.dues[-1], time.monotonic() - start)
        self.kinds["timeout"] = self.total - self.begun + len(self.visits)

    def open(self, due):
        self.begun += 1
        try:
            visit = Visit(self.address, due)
        except OSError:
            self.kinds["connect"] += 1
            return
        self.visits[visit.sock.fileno()] = visit
        self.events.register(visit.sock, EPOLLIN | EPOLLOUT | EPOLLET)

    def attend(self, descriptor):
        """Whether this was an answer."""
        visit = self.visits[descriptor]
        try:
            outcome = visit.go_on(self.request)
        except OSError:
            outcome = "read" if visit.asked else "connect"
        if outcome is None:
            return False
        del self.visits[descriptor]
        visit.sock.close()
        if isinstance(outcome, str):
            self.kinds[outcome] += 1
            return False
        self.sizes.append(outcome)
        self.times.append(time.monotonic() - visit.due)
        return True


def main():
    url, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Nothing here is in a circle, and looking for one takes milliseconds.
    gc.disable()
    load = Load(url, rate, seconds)
    load.run()
    cut = quantiles(load.times, n=100) if len(load.times) > 1 else [0] * 99
    print(json.dumps({
        "requests": len(load.times),
        "bytes": sum(load.sizes),
        "wall_us": load.took * 1e6,
        "p50_us": cut[49] * 1e6,
        "p99_us": cut[98] * 1e6,
        "kinds": {kind: number for kind, number in load.kinds.items() if number},
    }))


if __name__ == "__main__":
    main()
