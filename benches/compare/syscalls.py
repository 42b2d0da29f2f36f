"""How many syscalls a small keep-alive request costs: `strace -c` over a known number of requests on warm connections."""

from contextlib import ExitStack
from pathlib import Path

from clients import Clients
from processes import Program, Trouble
from proxies import find, new_folder

CONNECTIONS = 64
# Everything that moves bytes of a connection or makes, changes and ends one.
NETWORK = {
    "read", "readv", "recvfrom", "recvmsg", "recvmmsg", "write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile",
    "splice", "socket", "connect", "accept", "accept4", "bind", "listen", "shutdown", "close", "setsockopt",
    "getsockopt", "getsockname", "getpeername", "ioctl", "fcntl",
}


def a_request(bench):
    """proxy → syscalls a request, by name."""
    return {name: found for name in bench.options.only if (found := of_one(bench, name))}


def of_one(bench, name):
    bench.say(f"syscalls {name}")
    with ExitStack() as stack:
        proxy = bench.start(stack, name, label=f"{name}-syscalls")
        if not proxy:
            return None
        try:
            clients = stack.enter_context(Clients(proxy.http, CONNECTIONS))
            clients.ask_all(2)
        except Trouble as trouble:
            bench.failures.append(f"syscalls {name}: {trouble}")
            return None
        try:
            return traced(bench, proxy, clients)
        except Trouble as trouble:
            # Not a fault of the proxy: many containers and some systems let nobody be traced.
            bench.skipped.append(f"syscalls {name}: {trouble}")
            return None


def traced(bench, proxy, clients):
    folder = new_folder(bench.scratch, f"{proxy.label}-strace")
    pids = proxy.program.pids()
    argv = [find("strace"), "-f", "-c", "-o", folder / "counts", *(part for pid in pids for part in ["-p", pid])]
    strace = Program("strace", bench.options.load_core, argv, folder)
    try:
        strace.wait_until(lambda: strace.stderr.read_text().count("attached") >= len(pids), "it was attached")
        rounds = bench.options.traced_rounds
        clients.ask_all(rounds)
    finally:
        strace.stop()
    counted = calls(Path(folder / "counts").read_text())
    if not counted:
        raise Trouble(f"strace counted nothing{strace.last_words()}")
    return {name: number / (rounds * CONNECTIONS) for name, number in counted.items()}


def calls(text):
    """Name → calls from the table of `strace -c`: share, seconds, µs a call, calls, perhaps errors, name."""
    rows = [line.split() for line in text.splitlines()]
    return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}
