"""From the rounds of every proxy to one table: medians, the ratio to the better peer, and the same as JSON."""

from statistics import median

HEAD = ["scenario", "proxy", "CPU µs/req", "spread", "CPU s/GB", "req/s", "p50 ms", "p99 ms", "core", "errors",
        "CPU ratio", "req/s ratio"]


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
        "errors": sum(r["errors"] for r in rounds),
        "rounds": rounds,
    }


def add_ratios(lines):
    """lines: proxy → summary of one scenario. Gives Evenkeel its ratio to the better of the peers that ran."""
    peers = [line for name, line in lines.items() if name != "evenkeel" and not line["errors"]]
    own = lines.get("evenkeel")
    if own and peers:
        own["cpu_ratio"] = own["cpu_us"] / min(p["cpu_us"] for p in peers)
        own["requests_ratio"] = own["requests_per_s"] / max(p["requests_per_s"] for p in peers)


def table(results, large):
    """A Markdown table that also reads well in a terminal. large: the scenarios where CPU s a GB says something."""
    rows = [HEAD]
    for scenario, lines in results.items():
        for name, line in lines.items():
            rows.append([
                scenario, name, f"{line['cpu_us']:.2f}", f"{line['cpu_spread']:.0%}",
                f"{line['cpu_s_per_gb']:.3f}" if scenario in large else "",
                f"{line['requests_per_s']:.0f}", f"{line['p50_ms']:.2f}", f"{line['p99_ms']:.2f}",
                f"{line['core_share']:.0%}", str(line["errors"]),
                f"{line['cpu_ratio']:.2f}" if "cpu_ratio" in line else "",
                f"{line['requests_ratio']:.2f}" if "requests_ratio" in line else "",
            ])
    return markdown(rows, left=2)


def memory_table(memory):
    rows = [["proxy", "RSS idle MB", "PSS idle MB", "processes"]]
    for name, m in memory.items():
        rows.append([name, f"{m['rss_kib'] / 1024:.1f}", f"{m['pss_kib'] / 1024:.1f}", str(m["processes"])])
    return markdown(rows, left=1)


def markdown(rows, left):
    """Pads the columns; the first `left` of them to the left, figures to the right."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        lines.append(" | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, width))))
    return "\n".join(f"| {line} |" for line in lines)
