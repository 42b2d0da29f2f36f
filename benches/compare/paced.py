#!/usr/bin/env python3
"""Opens connections at a fixed rate, whether or not the other side is quick, with one request on each.

    paced.py http://ADDRESS:PORT/PATH RATE SECONDS

Each millisecond it opens those that have become due, and closes each as soon as its answer is whole. At the end it prints one line
of JSON: answers, bytes of their bodies, the time they took from when they were due, and errors by what they are.
"""

import gc
import json
import sys
import time
from select import EPOLLET, EPOLLIN, EPOLLOUT, epoll
from socket import AF_INET, SOCK_NONBLOCK, SOCK_STREAM, socket
from statistics import quantiles
from urllib.parse import urlsplit

# So many may be open at once; what is due beyond that waits, and the rate is not kept.
MOST = 4096
# Seconds after the last was due in which answers may still come.
PATIENCE = 5
BEAT = 0.001


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
        """None while it is under way, else what it came to: `status`, the size of the body, or an OSError."""
        if not self.asked:
            self.sock.send(request)
            self.asked = True
        try:
            read = self.sock.recv(65536)
        except BlockingIOError:
            return None
        self.answer += read
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if end and len(body) >= length(head):
            return len(body) if head.startswith(b"HTTP/1.1 200 ") else "status"
        return None if read else "read"


def length(head):
    """What an answer's head says of its body."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


class Load:
    """All visits of a run."""

    def __init__(self, url, rate, seconds):
        target = urlsplit(url)
        self.address = (target.hostname, target.port)
        self.request = f"GET {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n\r\n".encode()
        self.rate, self.total = rate, rate * seconds
        self.events = epoll()
        self.visits = {}
        self.begun = 0
        self.sizes, self.times = [], []
        self.kinds = {"connect": 0, "read": 0, "status": 0, "timeout": 0}

    def run(self):
        """Ends when all have had their answer, or the patience is over; gives the seconds it took."""
        self.start = time.monotonic()
        last = self.start + self.total / self.rate + PATIENCE
        while self.begun < self.total or self.visits:
            now = time.monotonic()
            if now > last:
                self.kinds["timeout"] = self.total - self.begun + len(self.visits)
                break
            self.open_those_due(now)
            for descriptor, _ in self.events.poll(BEAT):
                self.attend(descriptor)
        return time.monotonic() - self.start

    def open_those_due(self, now):
        due = min(self.total, int((now - self.start) * self.rate) + 1)
        while self.begun < due and len(self.visits) < MOST:
            visit = Visit(self.address, self.start + self.begun / self.rate)
            self.begun += 1
            self.visits[visit.sock.fileno()] = visit
            self.events.register(visit.sock, EPOLLIN | EPOLLOUT | EPOLLET)

    def attend(self, descriptor):
        visit = self.visits[descriptor]
        try:
            outcome = visit.go_on(self.request)
        except OSError:
            outcome = "read" if visit.asked else "connect"
        if outcome is None:
            return
        if isinstance(outcome, str):
            self.kinds[outcome] += 1
        else:
            self.sizes.append(outcome)
            self.times.append(time.monotonic() - visit.due)
        del self.visits[descriptor]
        visit.sock.close()


def main():
    url, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Nothing here is in a circle, and looking for one takes milliseconds.
    gc.disable()
    load = Load(url, rate, seconds)
    took = load.run()
    cut = quantiles(load.times, n=100) if len(load.times) > 1 else [0] * 99
    print(json.dumps({
        "requests": len(load.times),
        "bytes": sum(load.sizes),
        "wall_us": took * 1e6,
        "p50_us": cut[49] * 1e6,
        "p99_us": cut[98] * 1e6,
        "kinds": {kind: number for kind, number in load.kinds.items() if number},
    }))


if __name__ == "__main__":
    main()
