#!/usr/bin/env python3
"""Counts the user instructions that Evenkeel spends on one request, with callgrind. See README.md.

Exit code: 0 counted, 1 Evenkeel answered wrongly, 2 the bench could not run. No count ever decides the exit code.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the repository
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "compare"))

import profile_file
from processes import Program, Trouble, fill, free_ports

SMALL = b"GET /128 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BROWSER = b"""GET /articles/2024/a-page.html?from=start HTTP/1.1
Host: www.example.com
Connection: keep-alive
Cache-Control: max-age=0
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Referer: https://www.example.com/articles/
Accept-Encoding: gzip, deflate, br
Accept-Language: en-GB,en;q=0.9,de;q=0.8
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; seen=1

""".replace(b"\n", b"\r\n")


def answer(size, more=b""):
    head = b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\n%sContent-Length: %d\r\n\r\n"
    return head % (more, size) + b"x" * size


USUAL = b"""Date: Mon, 01 Jan 2024 00:00:00 GMT
Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT
ETag: "0123456789"
Cache-Control: max-age=600
Vary: Accept-Encoding
X-Frame-Options: DENY
Set-Cookie: seen=2; Path=/
""".replace(b"\n", b"\r\n")

# The request that ends its connection, and the answer to it.
LAST = SMALL.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CLOSING = b"Connection: close\r\n"

# name → listener, request, answer
SCENARIOS = {
    "http-128": ("web", SMALL, answer(128)),
    "http-16k": ("web", SMALL, answer(16 * 1024)),
    "http-browser": ("web", BROWSER, answer(4096, USUAL)),
    "l4-128": ("l4", SMALL, answer(128)),
    "l4-16k": ("l4", SMALL, answer(16 * 1024)),
    "http-connect": ("web", LAST, answer(128, CLOSING)),
    "l4-connect": ("l4", LAST, answer(128, CLOSING)),
}


def main():
    options = arguments()
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if not shutil.which("valgrind"):
        say("skipped: valgrind is not installed (apt install valgrind)")
        return 0 if options.smoke else 2
    try:
        return count(options, binary(options))
    except Trouble as trouble:
        say(f"error: {trouble}")
        return 2
    except Wrong as wrong:
        say(f"FAILED: {wrong}")
        return 1


class Wrong(Exception):
    """Evenkeel did not do what a proxy does."""


def arguments():
    parser = argparse.ArgumentParser(description="User instructions a request, by callgrind. See README.md.")
    parser.add_argument("--scenarios", type=scenarios, default=list(SCENARIOS), metavar="LIST",
                        help=f"which ones, with commas between (all: {','.join(SCENARIOS)})")
    parser.add_argument("--requests", type=int, default=1000, metavar="N",
                        help="the difference between a run with N and one with 3 N requests is what counts (1000)")
    parser.add_argument("--repeat", type=int, default=2, metavar="N", help="how often all is done (2)")
    parser.add_argument("--functions", type=int, default=12, metavar="N", help="how many functions are named (12)")
    parser.add_argument("--lines", action="store_true", help="name source lines, not functions")
    parser.add_argument("--smoke", action="store_true", help="a few requests, once: does it run?")
    parser.add_argument("--evenkeel", type=Path, metavar="PATH", help="this binary; nothing is built")
    parser.add_argument("--no-build", action="store_true", help="take target/dist/evenkeel")
    parser.add_argument("--keep", type=Path, metavar="DIR",
                        help="leave callgrind's files there, for callgrind_annotate")
    parser.add_argument("--json", metavar="FILE", help="also write all counts to FILE")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.repeat = 20, 1
    return options


def scenarios(text):
    for name in text.split(","):
        if name not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"`{name}` is not one of {', '.join(SCENARIOS)}")
    return text.split(",")


def say(text):
    """Progress and trouble, beside the table on stdout."""
    print(text, file=sys.stderr, flush=True)


def binary(options):
    """The binary that was given, else the one that is released, with its line tables."""
    path = options.evenkeel or Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "dist" / "evenkeel"
    if not options.evenkeel and not options.no_build:
        say("building: cargo build --profile dist --locked")
        if subprocess.run(["cargo", "build", "--profile", "dist", "--locked"], cwd=REPOSITORY).returncode:
            raise Trouble("Evenkeel did not build; --evenkeel PATH takes a binary")
    if not os.access(path, os.X_OK):
        raise Trouble(f"{path} is not a program that can be run")
    return path.resolve()


def count(options, evenkeel):
    """All scenarios, as often as wanted; prints the table, then where the instructions go."""
    counted = {name: [] for name in options.scenarios}
    for number in range(1, options.repeat + 1):
        for name in options.scenarios:
            say(f"{name}, {number} of {options.repeat}")
            few = one_run(evenkeel, name, options.requests, options, f"{name}-{number}-few")
            many = one_run(evenkeel, name, 3 * options.requests, options, f"{name}-{number}-many")
            counted[name].append(many.minus(few).per(2 * options.requests))
    print(table(counted))
    for name, costs in counted.items():
        print(f"\n{name}: instructions a request, without and with what is called\n")
        rows = costs[-1].hottest_lines(options.functions) if options.lines else costs[-1].hottest(options.functions)
        print("\n".join(rows))
    if options.json:
        facts = {name: [{"instructions": cost.total, "system_calls": cost.calls(), "functions": cost.own_of_functions()}
                        for cost in costs] for name, costs in counted.items()}
        Path(options.json).write_text(json.dumps(facts, indent=2) + "\n")
    return 0


def table(counted):
    rows = ["| scenario | instructions a request | spread | system calls a request |", "|---|---|---|---|"]
    for name, costs in counted.items():
        totals = sorted(cost.total for cost in costs)
        middle = totals[len(totals) // 2] if len(totals) % 2 else sum(totals[len(totals) // 2 - 1:][:2]) / 2
        spread = (totals[-1] - totals[0]) / middle
        calls = ", ".join(f"{call} {often:g}" for call, often in costs[-1].calls().items())
        rows.append(f"| {name} | {middle:,.0f} | {spread:.2%} | {calls} |")
    return "\n".join(rows)


def one_run(evenkeel, scenario, requests, options, label):
    """A whole life of the daemon with so many requests on one connection, and what it cost."""
    listener, request, response = SCENARIOS[scenario]
    with tempfile.TemporaryDirectory(prefix="evenkeel-instructions-") as scratch, \
            socket.create_server(("127.0.0.1", 0)) as backend:
        web, l4 = free_ports(2)
        values = {"HTTP": web, "L4": l4, "ORIGIN": backend.getsockname()[1]}
        conf = fill(HERE / "evenkeel.toml", Path(scratch) / "evenkeel.toml", **values)
        out = Path(scratch) / "callgrind.out"
        argv = ["valgrind", "--tool=callgrind", "--collect-systime=yes", f"--callgrind-out-file={out}",
                evenkeel, "run", "--config", conf]
        program = Program("evenkeel", sorted(os.sched_getaffinity(0))[0], argv, scratch)
        try:
            program.wait_until(lambda: program.stdout.read_text().count("listening ") == 2, "it listened", 60)
            talk = converse_anew if request is LAST else converse
            talk(program, {"web": web, "l4": l4}[listener], backend, request, response, requests)
            program.child.terminate()
            program.child.wait(60)
        except subprocess.TimeoutExpired:
            raise Trouble("Evenkeel did not end") from None
        finally:
            program.stop()
        if not out.exists():
            raise Trouble(f"callgrind left no counts{program.last_words()}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(out, options.keep / f"callgrind.out.{label}")
        return profile_file.read(out)


def converse(program, port, backend, request, response, requests):
    """Both ends of the proxy, in one thread and in step: nothing is sent while Evenkeel is awake, so that it meets the
    same state of its sockets at every request."""
    backend.settimeout(30)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request)
        origin, _ = backend.accept()
        with origin:
            origin.settimeout(30)
            origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(requests):
                if number:
                    client.sendall(request)
                receive(origin, lambda got: got.endswith(b"\r\n\r\n"), "a request reached the origin")
                wait_until_asleep(program)
                origin.sendall(response)
                got = receive(client, is_whole, "an answer came")
                if not got.startswith(b"HTTP/1.1 200 "):
                    raise Wrong(f"this is no answer of the origin: {got[:200]!r}")
                wait_until_asleep(program)
            backend.settimeout(0)
            try:
                backend.accept()[0].close()
                raise Wrong("the connection to the origin was not used again")
            except BlockingIOError:
                pass


def converse_anew(program, port, backend, request, response, requests):
    """The same with a connection for each request, which the origin ends, then the client."""
    backend.settimeout(30)
    for _ in range(requests):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(request)
            origin, _ = backend.accept()
            with origin:
                origin.settimeout(30)
                receive(origin, lambda got: got.endswith(b"\r\n\r\n"), "a request reached the origin")
                wait_until_asleep(program)
                origin.sendall(response)
                origin.shutdown(socket.SHUT_WR)
                got = receive(client, is_whole, "an answer came")
                if not got.startswith(b"HTTP/1.1 200 "):
                    raise Wrong(f"this is no answer of the origin: {got[:200]!r}")
                wait_until_asleep(program)
        wait_until_asleep(program)


def is_whole(got):
    """Whether a response with a Content-Length is all there."""
    head, end, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    if end and not length:
        raise Wrong(f"this answer has no length: {got[:200]!r}")
    return bool(end) and len(body) >= int(length[1])


def receive(connection, is_complete, what):
    got = b""
    try:
        while not is_complete(got):
            part = connection.recv(1 << 20)
            if not part:
                raise Wrong(f"the connection was closed before {what}")
            got += part
    except TimeoutError:
        raise Wrong(f"waited 30 s until {what}") from None
    return got


def wait_until_asleep(program):
    """Waits until all threads of the program wait for something."""
    deadline = time.monotonic() + 30
    while not all(is_asleep(task) for task in Path(f"/proc/{program.child.pid}/task").iterdir()):
        if not program.alive() or time.monotonic() > deadline:
            raise Trouble(f"Evenkeel does not come to rest{program.last_words()}")


def is_asleep(task):
    try:
        # The name in brackets may hold blanks, so the state is looked for behind the last bracket.
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "S"
    except (FileNotFoundError, ProcessLookupError):
        return True


if __name__ == "__main__":
    sys.exit(main())
