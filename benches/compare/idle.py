"""What an idle keep-alive connection costs: resident memory of a fresh proxy before and while many of them are open."""

import time
from contextlib import ExitStack

from clients import Clients
from processes import Trouble


def memory(bench):
    """proxy → resident and proportional memory idle, and resident with `connections` idle clients."""
    return {name: found for name in bench.options.only if (found := of_one(bench, name))}


def of_one(bench, name):
    what = f"idle connections {name}"
    bench.say(what)
    with ExitStack() as stack:
        proxy = bench.start(stack, name, label=f"{name}-idle")
        if not proxy:
            return None
        try:
            return with_clients(proxy, bench.options.idle)
        except Trouble as trouble:
            bench.failures.append(f"{what}: {trouble}")
            return None


def with_clients(proxy, count):
    rss, pss = proxy.program.memory_kib()
    # One after another: the proxy needs one connection to the origin, so that only clients are counted.
    with Clients(proxy.http, count) as clients:
        # What is freed with a little delay is gone then.
        time.sleep(1)
        rss_full, _ = proxy.program.memory_kib()
        still_open = clients.still_open()
    if still_open != count:
        raise Trouble(f"closed {count - still_open} of {count} idle connections")
    return {
        "rss_kib": rss,
        "pss_kib": pss,
        "processes": len(proxy.program.pids()),
        "connections": count,
        "rss_full_kib": rss_full,
        "bytes_a_connection": (rss_full - rss) * 1024 / count,
    }
