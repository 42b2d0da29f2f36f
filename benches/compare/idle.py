"""What an idle keep-alive connection costs, in the clear and over TLS: resident memory of a fresh proxy before and while many of
them are open."""

import time
from contextlib import ExitStack

from clients import Clients
from processes import Trouble


def memory(bench):
    """proxy → resident and proportional memory idle, and resident with `connections` idle clients."""
    found = {}
    for name in bench.options.only:
        plain, secured = of_one(bench, name, secured=False), of_one(bench, name, secured=True)
        if plain and secured:
            found[name] = plain | {"bytes_a_tls_connection": secured["bytes_a_connection"]}
    return found


def of_one(bench, name, secured):
    what = f"idle {'TLS ' if secured else ''}connections {name}"
    bench.say(what)
    with ExitStack() as stack:
        proxy = bench.start(stack, name, label=f"{name}-idle{'-tls' if secured else ''}")
        if not proxy:
            return None
        try:
            return with_clients(proxy, bench.options.idle, secured)
        except Trouble as trouble:
            bench.failures.append(f"{what}: {trouble}")
            return None


def with_clients(proxy, count, secured):
    if secured:
        # What the first handshakes need stays, whoever comes next.
        Clients(proxy.https, 20, secured).close()
    rss, pss = proxy.program.memory_kib()
    # One after another: the proxy needs one connection to the origin, so that only clients are counted.
    with Clients(proxy.https if secured else proxy.http, count, secured) as clients:
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
