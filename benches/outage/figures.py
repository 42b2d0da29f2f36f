"""What the fates of all requests come to."""

from collections import Counter
from statistics import quantiles

from trouble import COUNT, ILL

# Failures of requests that were due so long after the beginning of the trouble are counted on their own.
FIRST = 3.0
# The share is back when so much of a fair one goes to the backend within one second.
FAIR = 0.8
# How long a well backend takes for an answer, in seconds.
WORK = 0.1


def summary(kind, records, times, seen):
    """records: [due, took, fate, origin, number] each, in seconds from the start of the load; times: when the trouble
    began, when it had ended, when the load ended; seen: how often each POST arrived."""
    began, ended, over = times
    good = [r for r in records if is_good(r)]
    failed = [r for r in records if not is_good(r)]
    during = Counter(origin for due, _, _, origin, _ in good if began <= due < ended)
    took = sorted(r[1] * 1000 for r in good)
    cut = quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    one = {
        "requests": len(records),
        "failed": len(failed),
        "failed_share": len(failed) / max(1, len(records)),
        "failed_later": sum(due >= began + FIRST for due, *_ in failed),
        "kinds": dict(Counter(str(fate) for _, _, fate, *_ in failed)),
        "p50_ms": cut[49],
        "p99_ms": cut[98],
        "max_ms": took[-1] if took else 0.0,
        "well_each": sum(during[n] for n in range(1, COUNT + 1) if n != ILL) / (COUNT - 1),
        "ill": during[ILL],
        "share_back_s": share_back(good, ended, over),
    }
    if kind == "POST":
        # What was not sent can always be sent elsewhere; what was must not be sent once more.
        one["failed_unseen"] = sum(not seen[r[4]] for r in failed)
        one["seen_twice"] = sum(seen[r[4]] > 1 for r in records)
    return one


def has_clean_beginning(records, began):
    """Whether all was well until the trouble began; else it is not the trouble that was measured."""
    return all(is_good(r) for r in records if r[0] + 2 * WORK < began)


def is_good(record):
    return isinstance(record[2], int) and 200 <= record[2] < 300


def share_back(good, ended, over):
    """Seconds from the end of the trouble to the first second in which the backend has its share; None: not in this run."""
    tenth = 0
    while ended + tenth / 10 + 1 <= over:
        since = ended + tenth / 10
        origins = [origin for due, _, _, origin, _ in good if since <= due < since + 1]
        if origins and origins.count(ILL) * COUNT >= FAIR * len(origins):
            return tenth / 10
        tenth += 1
    return None


COLUMNS = ["case", "requests", "proxy", "number", "failed", "%", "later", "as", "p50 ms", "p99 ms", "max ms", "well each", "ill",
           "back after s"]


def rows(results):
    """case → proxy → kind → summary, as rows of a table; the proxies beneath each other."""
    yield COLUMNS
    for case, by_proxy in results.items():
        for kind in ["GET", "POST", "TCP"]:
            for proxy, by_kind in by_proxy.items():
                if kind in by_kind:
                    yield [case, kind, proxy, *cells(by_kind[kind])]


def cells(one):
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(one["kinds"].items()))
    back = one["share_back_s"]
    return [str(one["requests"]), str(one["failed"]), f"{one['failed_share']:.2%}", str(one["failed_later"]), kinds,
            f"{one['p50_ms']:.0f}", f"{one['p99_ms']:.0f}", f"{one['max_ms']:.0f}", f"{one['well_each']:.0f}",
            str(one["ill"]), "-" if back is None else f"{back:.1f}"]
