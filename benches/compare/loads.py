"""The load generators: wrk, which asks as fast as it can, h2load, which asks at a fixed rate or over HTTP/2, and paced.py, which
connects at a fixed rate. All are reduced to the same figures."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple, Optional

from processes import Trouble, on_cores
from proxies import HERE, SIZES, find


class Scenario(NamedTuple):
    listener: str  # "http", "https" or "l4"
    path: str  # its body's size is in SIZES
    connections: int  # as many as are open at once; of paced.py: as many as the proxy needs
    reuse: str  # "keep", or "close" when each request opens a connection of its own
    rate: Optional[int] = None  # requests a second in all; None: as fast as it goes
    streams: Optional[int] = None  # requests at once on each connection, over HTTP/2; None: one, over HTTP/1.1

    def by(self):
        """The name of its load generator."""
        if self.rate and self.reuse == "close":
            return "paced.py"
        return "h2load" if self.rate or self.streams else "wrk"


def drive(scenario, port, seconds, cores, threads, log):
    """One run of the load generator: requests, wall_us, p50_us, p99_us, and `kinds`, the errors by what they are."""
    scheme = "https" if scenario.listener == "https" else "http"
    url = f"{scheme}://127.0.0.1:{port}/{scenario.path}"
    run = {"wrk": by_wrk, "h2load": by_h2load, "paced.py": by_paced}
    count = run[scenario.by()](scenario, url, seconds, cores, threads, log)
    if not count["requests"]:
        raise Trouble(f"not one answer {count['kinds']}")
    if count.pop("bytes") < count["requests"] * SIZES[scenario.path]:
        count["kinds"]["short"] = 1
    return count


def by_wrk(scenario, url, seconds, cores, threads, _log):
    argv = [find("wrk"), f"-t{threads}", f"-c{scenario.connections}", f"-d{seconds}s", "-s", HERE / "wrk.lua"]
    if scenario.reuse == "close":
        argv += ["-H", "Connection: close"]
    text = output(on_cores(cores, [*argv, url]), seconds)
    found = re.search(r"^RESULT (\{.*\})$", text, re.MULTILINE)
    if not found:
        raise Trouble(f"wrk gave no result: {text.strip()}")
    count = json.loads(found[1])
    kinds = {kind: count.pop(kind) for kind in ["connect", "read", "write", "timeout", "status"]}
    return count | {"kinds": {kind: number for kind, number in kinds.items() if number}}


def by_h2load(scenario, url, seconds, cores, threads, log):
    """With a rate, every connection sends at its own beat, whether or not the proxy is quick. The log has each answer's time."""
    Path(log).unlink(missing_ok=True)  # h2load appends
    argv = [find("h2load"), f"-t{threads}", f"-c{scenario.connections}", f"-D{seconds}", f"--log-file={log}"]
    argv += [f"-m{scenario.streams}"] if scenario.streams else ["--h1"]
    if scenario.rate:
        argv.append(f"--rps={scenario.rate / scenario.connections}")
    text = output(on_cores(cores, [*argv, url]), seconds)
    said = re.search(r"^finished in [^,]*, ([\d.]+) req/s", text, re.MULTILINE)
    asked = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    body = re.search(r"\((\d+)\) data$", text, re.MULTILINE)
    if not (said and asked and body):
        raise Trouble(f"h2load gave no result: {text.strip()}")
    times = [int(line.split("\t")[2]) for line in Path(log).read_text().splitlines()]
    # Each of the three has the next one in it; what failed without an error had another status than 2xx and 3xx.
    failed, errored, timeout = map(int, asked.groups())
    kinds = {"status": failed - errored, "read": errored - timeout, "timeout": timeout}
    cut = quantiles(times, n=100) if len(times) > 1 else [0] * 99
    return {
        "requests": len(times),
        "bytes": int(body[1]),
        # From its own rate, so that connecting does not count as time in which it could have asked.
        "wall_us": len(times) / float(said[1]) * 1e6 if float(said[1]) else seconds * 1e6,
        "p50_us": cut[49],
        "p99_us": cut[98],
        "kinds": {kind: number for kind, number in kinds.items() if number},
    }



def by_paced(scenario, url, seconds, cores, _threads, _log):
    """With a rate, connections are opened at their own beat, whether or not the proxy is quick."""
    argv = [sys.executable, HERE / "paced.py", url, scenario.rate, seconds]
    text = output(on_cores(cores, argv), seconds)
    found = re.search(r"^\{.*\}$", text, re.MULTILINE)
    if not found:
        raise Trouble(f"paced.py gave no result: {text.strip()}")
    return json.loads(found[0])


def output(argv, seconds):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 20,
                              start_new_session=True)
    except subprocess.TimeoutExpired:
        raise Trouble("the load generator did not end; does the proxy close connections?") from None
    return done.stdout + done.stderr
