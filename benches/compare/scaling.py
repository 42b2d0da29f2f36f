"""Two workers of Evenkeel beside one, on the same cores with the same load: requests/s, and what a request costs."""

from contextlib import ExitStack

from loads import Scenario
from proxies import Origin

SCENARIO = Scenario("http", "128", 128, "keep")
# A worker below this share of its core waited for somebody: then requests a second say how fast the others are.
BUSY = 0.9


def two_against_one(bench):
    """`one` and `two`, the rounds' summaries, the ratios, and whether the load generator was the limit."""
    proxy_cores, load_cores = cores(bench.options)
    shared = proxy_cores == load_cores
    spare = 1 if shared else len(load_cores)
    with ExitStack() as stack:
        origin = Origin(joined(load_cores), bench.scratch, "origin-scaling", workers=max(1, min(4, spare - 2)))
        stack.callback(origin.program.stop)
        origin.prove()
        both = [bench.start(stack, "evenkeel", label=label, cores=joined(proxy_cores), workers=number, origin=origin)
                for label, number in [("one", 1), ("two", 2)]]
        if None in both:
            return None
        lines = bench.measure("scaling", SCENARIO, both, joined(load_cores), threads=max(1, min(2, spare - 1)))
    if len(lines) < 2:
        return None
    one, two = lines["one"], lines["two"]
    return {
        "one": one,
        "two": two,
        "requests_ratio": two["requests_per_s"] / one["requests_per_s"],
        "cpu_ratio": two["cpu_us"] / one["cpu_us"],
        "proxy_cores": joined(proxy_cores),
        "load_cores": joined(load_cores),
        "load_was_the_limit": one["core_share"] < BUSY or two["core_share"] / 2 < BUSY,
    }


def cores(options):
    """Two cores for the workers; what is left, or else the same two, for the load generator and the origin."""
    usable = options.usable_cores
    # The load's core becomes a worker's only where there is no third.
    order = [options.proxy_core, *(c for c in usable if c not in (options.proxy_core, options.load_core)),
             options.load_core]
    return sorted(order[:2]), sorted(order[2:] or order[:2])


def joined(numbers):
    return ",".join(map(str, numbers))


def explained(found):
    """Where it ran, and what the ratio is worth."""
    text = f"Workers on cores {found['proxy_cores']}, load generator and origin on cores {found['load_cores']}"
    if found["proxy_cores"] == found["load_cores"]:
        text += " too: they take their share of them, which no proxy can use"
    if found["load_was_the_limit"]:
        return (f"{text}. A worker had less than {BUSY:.0%} of a core to do: the load was the limit, and the ratio of "
                "requests/s says nothing about workers. The CPU ratio does: at 1.0 two cost no more a request than one.")
    return f"{text}. The load generator was not the limit."
