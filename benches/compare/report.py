"""From the rounds of every proxy to Markdown tables: medians, the ratio to the better peer, and what passes its mark."""

from statistics import median

# What Evenkeel's CPU time a request is to be at most, as a share of the better peer's in the same run.
MARKS = {
    "http-128": 0.90, "http-16k": 0.95, "http-1m": 0.85, "http-128-connect": 0.97,
    "l4-128": 1.0, "l4-1m": 0.90, "l4-128-connect": 0.95, "l4-128-connect-rate": 0.95,
    "tls-128": 0.80, "tls-1m": 0.85, "tls-128-connect": 0.65, "h2-128": 0.92,
}
TOLERANCE = 0.03
IDLE_MB = 12
IDLE_CONNECTION_BYTES = 1536
IDLE_TLS_CONNECTION_BYTES = 14 * 1024
SYSCALLS = 4
SCALING = 1.8

HEAD = ["scenario", "proxy", "CPU µs/req", "spread", "CPU s/GB", "req/s", "p50 ms", "p99 ms", "core", "load core", "errors",
        "CPU ratio", "req/s ratio", "mark"]


def summary(size, rounds):
    """One line of the table from the rounds of one proxy in one scenario. Each figure is a median of its own."""
    cpu = [r["cpu_us"] for r in rounds]
    middle = median(cpu)
    return {
        "cpu_us": middle,
        "cpu_spread": (max(cpu) - min(cpu)) / middle if middle else 0.0,
        "cpu_s_per_gb": middle * 1e-6 / (size * 1e-9),
        "requests_per_s": median(r["requests_per_s"] for r in rounds),
        "p50_ms": median(r["p50_ms"] for r in rounds),
        "p99_ms": median(r["p99_ms"] for r in rounds),
        "core_share": median(r["core_share"] for r in rounds),
        "load_share": median(r["load_share"] for r in rounds),
        "errors": sum(r["errors"] for r in rounds),
        "rounds": rounds,
    }


def add_ratios(lines, scenario):
    """lines: proxy → summary of one scenario. Gives Evenkeel its ratio to the better of the peers, and its mark."""
    peers = [line for name, line in lines.items() if name != "evenkeel" and not line["errors"]]
    own = lines.get("evenkeel")
    if not own:
        return
    if peers:
        own["cpu_ratio"] = own["cpu_us"] / min(p["cpu_us"] for p in peers)
        own["requests_ratio"] = own["requests_per_s"] / max(p["requests_per_s"] for p in peers)
    if scenario in MARKS:
        # "The better of the two" is not known from one.
        value = own["cpu_ratio"] if len(peers) == 2 and not own["errors"] else None
        own["mark"] = at_most(value, MARKS[scenario])


def at_most(value, mark):
    """`≤ 0.9 pass`, with the tolerance; None can not be judged."""
    if value is None:
        return f"≤ {mark:g} not judged"
    return f"≤ {mark:g} {'pass' if value <= mark * (1 + TOLERANCE) else 'miss'}"


def at_least(value, mark):
    return f"≥ {mark:g} {'pass' if value >= mark * (1 - TOLERANCE) else 'miss'}"


def table(results, large):
    """large: the scenarios where CPU s a GB says something."""
    rows = [HEAD]
    for scenario, lines in results.items():
        for name, line in lines.items():
            rows.append([
                scenario, name, f"{line['cpu_us']:.2f}", f"{line['cpu_spread']:.0%}",
                f"{line['cpu_s_per_gb']:.3f}" if scenario in large else "",
                f"{line['requests_per_s']:.0f}", f"{line['p50_ms']:.2f}", f"{line['p99_ms']:.2f}",
                f"{line['core_share']:.0%}", f"{line['load_share']:.0%}", str(line["errors"]),
                f"{line['cpu_ratio']:.2f}" if "cpu_ratio" in line else "",
                f"{line['requests_ratio']:.2f}" if "requests_ratio" in line else "",
                line.get("mark", ""),
            ])
    return markdown(rows, left=2)


def memory_table(memory):
    counts = {m["connections"] for m in memory.values()}
    rows = [["proxy", "RSS idle MB", "PSS idle MB", "processes", f"RSS MB with {max(counts)} idle connections",
             "bytes a connection", "bytes a TLS connection", "mark idle", "mark a connection", "mark a TLS connection"]]
    for name, m in memory.items():
        rows.append([
            name, f"{m['rss_kib'] / 1024:.1f}", f"{m['pss_kib'] / 1024:.1f}", str(m["processes"]),
            f"{m['rss_full_kib'] / 1024:.1f}", f"{m['bytes_a_connection']:.0f}",
            f"{m['bytes_a_tls_connection']:.0f}", *memory_marks(name, m),
        ])
    return markdown(rows, left=1)


def memory_marks(name, m):
    if name != "evenkeel":
        return ["", "", ""]
    return [at_most(m["rss_kib"] * 1024 / 1e6, IDLE_MB), at_most(m["bytes_a_connection"], IDLE_CONNECTION_BYTES),
            at_most(m["bytes_a_tls_connection"], IDLE_TLS_CONNECTION_BYTES)]


def syscalls_table(counted, is_network):
    """counted: proxy → name → syscalls a request."""
    rows = [["syscalls a request", "network", "other", "mark", "of which"]]
    for name, calls in counted.items():
        network = sum(number for call, number in calls.items() if is_network(call))
        often = sorted((item for item in calls.items() if item[1] >= 0.005), key=lambda item: -item[1])
        rows.append([
            name, f"{network:.2f}", f"{sum(calls.values()) - network:.2f}",
            at_most(network, SYSCALLS) if name == "evenkeel" else "",
            ", ".join(f"{call} {number:.2f}" for call, number in often),
        ])
    return markdown(rows, left=1)


def scaling_table(found):
    rows = [["workers", "CPU µs/req", "spread", "req/s", "p99 ms", "cores used", "errors", "req/s ratio", "CPU ratio",
             "mark"]]
    for label in ["one", "two"]:
        line = found[label]
        ratios = ["", "", ""]
        if label == "two":
            mark = (f"≥ {SCALING} not judged" if found["load_was_the_limit"]
                    else at_least(found["requests_ratio"], SCALING))
            ratios = [f"{found['requests_ratio']:.2f}", f"{found['cpu_ratio']:.2f}", mark]
        rows.append([label, f"{line['cpu_us']:.2f}", f"{line['cpu_spread']:.0%}", f"{line['requests_per_s']:.0f}",
                     f"{line['p99_ms']:.2f}", f"{line['core_share']:.2f}", str(line["errors"]), *ratios])
    return markdown(rows, left=1)


def markdown(rows, left):
    """A table that also reads well in a terminal. The first `left` columns go to the left, figures to the right."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        lines.append(" | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, width))))
    return "\n".join(f"| {line} |" for line in lines)
