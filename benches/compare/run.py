#!/usr/bin/env python3
"""Runs Evenkeel beside Debian's nginx and HAProxy and prints what a request costs in each. See README.md.

Exit code: 0 all answered without errors, 1 a proxy had errors or did not answer, 2 the bench could not run.
Timing, memory and missed marks never decide the exit code.
"""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the repository

import idle
import network
import report
import scaling
import syscalls
from bench import Bench
from loads import Scenario
from names import names_of
from processes import Trouble
from proxies import NAMES, REPOSITORY, Origin, find, stream_module, versions

SCENARIOS = {
    "http-128": Scenario("http", "128", 64, "keep"),
    "http-16k": Scenario("http", "16k", 64, "keep"),
    "http-1m": Scenario("http", "1m", 16, "keep"),
    "http-128-connect": Scenario("http", "128", 64, "close"),
    "http-128-rate": Scenario("http", "128", 50, "keep", 20_000),
    "l4-128": Scenario("l4", "128", 64, "keep"),
    "l4-1m": Scenario("l4", "1m", 16, "keep"),
    "l4-128-connect": Scenario("l4", "128", 64, "close"),
    "l4-128-connect-rate": Scenario("l4", "128", 0, "close", 8000),
    "tls-128": Scenario("https", "128", 64, "keep"),
    "tls-1m": Scenario("https", "1m", 16, "keep"),
    "tls-128-connect": Scenario("https", "128", 64, "close"),
    "h2-128": Scenario("https", "128", 16, "keep", streams=16),
}
SMOKE = ["http-128", "http-128-rate", "l4-128", "l4-128-connect-rate", "tls-128", "h2-128"]
PARTS = ["load", "idle", "scaling", "syscalls"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
say = Bench.say


def main():
    options = arguments()
    for number in SIGNALS:
        signal.signal(number, end)
    try:
        skipped = without_the_missing(options)
        if skipped and options.require_all:
            raise Trouble("--require-all: something is missing, see above; nothing was measured")
        if not options.only:
            # On stdout as well: whoever reads only the report must not take silence for success.
            print("\n".join(f"skipped {sentence}" for sentence in skipped))
            return 0 if options.smoke else 2
        if "evenkeel" in options.only:
            options.evenkeel = binary(options)
        choose_cores(options)
        raise_open_files()
        network.enter(say, options.congestion)
        return compare(options, skipped)
    except Trouble as trouble:
        say(f"error: {trouble}")
        return 2


def arguments():
    parser = argparse.ArgumentParser(description="Evenkeel beside nginx and HAProxy, one core each. See README.md.")
    parser.add_argument("--only", type=names_of(NAMES), default=NAMES, metavar="LIST",
                        help=f"which proxies, with commas between (all: {','.join(NAMES)})")
    parser.add_argument("--scenarios", type=names_of(SCENARIOS), metavar="LIST",
                        help=f"which scenarios (all: {','.join(SCENARIOS)})")
    parser.add_argument("--parts", type=names_of(PARTS), metavar="LIST",
                        help=f"which parts (all: {','.join(PARTS)}; with --scenarios only load)")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="rounds a scenario (5)")
    parser.add_argument("--seconds", type=at_least_one, default=4, help="seconds a round and proxy (4)")
    parser.add_argument("--rate", type=at_least_one, metavar="N",
                        help=f"requests a second of *-rate ({', '.join(f'{n} {s.rate}' for n, s in SCENARIOS.items() if s.rate)})")
    parser.add_argument("--idle", type=at_least_one, default=5000, help="idle connections (5000)")
    parser.add_argument("--smoke", action="store_true",
                        help=f"every part in small, one round of one second of {', '.join(SMOKE)}: do they all answer?")
    parser.add_argument("--require-all", action="store_true",
                        help="end with 2 when a program that takes part is not installed, instead of doing without")
    parser.add_argument("--evenkeel", type=Path, metavar="PATH", help="this binary; nothing is built")
    parser.add_argument("--no-build", action="store_true", help="take target/dist/evenkeel, else target/release/evenkeel")
    parser.add_argument("--nginx-modules", type=Path, metavar="DIR",
                        help="where ngx_stream_module.so is, if not in nginx's own place")
    parser.add_argument("--congestion", default="cubic", metavar="NAME",
                        help="TCP's congestion control, where a network namespace can be made (cubic)")
    parser.add_argument("--proxy-core", type=int, metavar="N", help="core of the proxies")
    parser.add_argument("--load-core", type=int, metavar="N", help="core of the load generator and the origin")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured, each round, to FILE")
    options = parser.parse_args()
    options.only = list(options.only)
    options.evenkeel = options.evenkeel and options.evenkeel.resolve()
    options.nginx_modules = options.nginx_modules and options.nginx_modules.resolve()
    options.traced_rounds = 50
    if options.smoke:
        options.rounds = options.seconds = 1
        options.rate, options.idle, options.traced_rounds = options.rate or 2000, 300, 5
    options.parts = options.parts or (["load"] if options.scenarios else list(PARTS))
    options.scenarios = options.scenarios or (SMOKE if options.smoke else list(SCENARIOS))
    return options


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def end(number, _frame):
    """Unwinds, so that every child is stopped; another signal does not disturb that, it takes seconds at most."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    say("ending")
    raise SystemExit(128 + number)


def without_the_missing(options):
    """Takes out what can not run here because a program is not installed, and returns a sentence for each."""
    skipped = [f"everything: {tool} is not installed (apt install {tool}); it is the {what}"
               for tool, what in [("wrk", "load generator"), ("nginx", "origin"),
                                  ("openssl", "maker of certificates")] if not find(tool)]
    if skipped:
        options.only = []
    if "haproxy" in options.only and not find("haproxy"):
        skipped.append("haproxy: not installed (apt install haproxy)")
        options.only.remove("haproxy")
    other = [name for name in options.scenarios if SCENARIOS[name].by() == "h2load"]
    if "load" in options.parts and other and not find("h2load"):
        skipped.append(f"{', '.join(other)}: h2load is not installed (apt install nghttp2-client)")
        options.scenarios = [name for name in options.scenarios if name not in other]
    if "syscalls" in options.parts and not find("strace"):
        skipped.append("syscalls: strace is not installed (apt install strace)")
        options.parts.remove("syscalls")
    if "nginx" in options.only and stream_module(options.nginx_modules) is None:
        skipped.append("nginx for L4: its stream module is not installed (apt install libnginx-mod-stream)")
    if "scaling" in options.parts and "evenkeel" not in options.only:
        options.parts.remove("scaling")
    for sentence in skipped:
        say(f"skipped {sentence}")
    return skipped


def binary(options):
    """The Evenkeel binary: the one that was given, what is there with --no-build, else built as it is released."""
    if options.evenkeel:
        if not os.access(options.evenkeel, os.X_OK):
            raise Trouble(f"{options.evenkeel} is not a program that can be run")
        return options.evenkeel
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    if not options.no_build:
        say("building: cargo build --profile dist --locked")
        if subprocess.run(["cargo", "build", "--profile", "dist", "--locked"], cwd=REPOSITORY).returncode:
            raise Trouble("Evenkeel did not build; --evenkeel PATH takes a binary, --only nginx,haproxy does without")
    for path in [target / "dist" / "evenkeel", target / "release" / "evenkeel"]:
        if path.exists():
            return path
    raise Trouble(f"no binary in {target}/dist or {target}/release; leave --no-build away, or give --evenkeel PATH")


def choose_cores(options):
    """Two cores that are not two threads of one, where the machine has them."""
    usable = options.usable_cores = sorted(os.sched_getaffinity(0))
    if options.proxy_core is None:
        options.proxy_core = next(core for core in usable if core != options.load_core or len(usable) == 1)
    if options.load_core is None:
        other = [core for core in usable if core != options.proxy_core]
        apart = [core for core in other if core not in siblings(options.proxy_core)]
        options.load_core = (apart or other or usable)[0]
    if options.load_core == options.proxy_core:
        say("warning: proxy, origin and load generator share one core; only CPU µs a request says something")
    elif options.load_core in siblings(options.proxy_core):
        say("warning: the two cores are threads of one physical core and slow each other down")
    # Away from the core that is measured.
    os.sched_setaffinity(0, {options.load_core})


def siblings(core):
    """The hardware threads that share a physical core with this one."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    found = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", path.read_text() if path.exists() else ""):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def raise_open_files():
    """The usual soft limit of 1024 is less than the proxies are configured for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def compare(options, skipped):
    """Starts all, proves that they answer, measures in turns, prints."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="evenkeel-bench-"))
        os.chmod(scratch, 0o755)
        origin = Origin(options.load_core, scratch)
        stack.callback(origin.program.stop)
        origin.prove()
        bench = Bench(options, scratch, origin, skipped)
        run = {"load": load, "idle": idle.memory, "scaling": scale, "syscalls": syscalls.a_request}
        found = {part: run[part](bench) for part in options.parts}
    publish(options, found, bench)
    return 1 if bench.failures else 0


def load(bench):
    """scenario → proxy → summary."""
    results = {}
    with ExitStack() as stack:
        started = [bench.start(stack, name) for name in bench.options.only]
        for name in bench.options.scenarios:
            scenario = SCENARIOS[name]
            if scenario.rate and bench.options.rate:
                scenario = scenario._replace(rate=bench.options.rate)
            taking_part = [p for p in started if p and (scenario.listener != "l4" or p.has_l4)]
            results[name] = bench.measure(name, scenario, taking_part, bench.options.load_core)
            report.add_ratios(results[name], name)
            if scenario.rate:
                tell_who_is_behind(bench, name, scenario.rate, results[name])
    return results


def tell_who_is_behind(bench, name, rate, lines):
    for proxy, line in lines.items():
        if line["requests_per_s"] < 0.97 * rate:
            bench.notes.append(f"{name}: {proxy} did {line['requests_per_s']:.0f} of {rate} requests/s; "
                               "the rate was not equal for all")


def scale(bench):
    if len(bench.options.usable_cores) < 2:
        bench.skipped.append("scaling: it takes two cores")
        return None
    return scaling.two_against_one(bench)


def publish(options, found, bench):
    """Markdown on stdout, fit to be pasted into a README; with --json everything in a file as well."""
    facts = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(taking_part(options), options.evenkeel),
        "kernel": platform.release(),
        "congestion": network.congestion(),
        "processor": processor(),
        "cores": {"usable": len(options.usable_cores), "proxy": options.proxy_core, "load": options.load_core},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "command": shlex.join(["benches/compare/run.py", *sys.argv[1:]]),
    }
    print(f"{facts['time'][:10]}, {facts['processor']}, {facts['cores']['usable']} cores, Linux {facts['kernel']}, TCP congestion control {facts['congestion']}; "
          f"{', '.join(f'{name}: {version}' for name, version in facts['versions'].items())}; proxy on core "
          f"{options.proxy_core}, load generator and origin on core {options.load_core}, {options.rounds} rounds of "
          f"{options.seconds} s: `{facts['command']}`")
    if options.smoke:
        print("\nA smoke run: it shows that all answer. Its figures and marks mean nothing.")
    for text in texts(options, found):
        print(f"\n{text}")
    for label, lines in [("note", bench.notes), ("skipped", bench.skipped), ("FAILED", bench.failures)]:
        for line in lines:
            print(f"\n{label} {line}")
    if options.json:
        everything = facts | found | {"notes": bench.notes, "skipped": bench.skipped, "failures": bench.failures}
        Path(options.json).write_text(json.dumps(everything, indent=2) + "\n")


def taking_part(options):
    tools = ["wrk"]
    if "load" in options.parts and any(SCENARIOS[name].by() == "h2load" for name in options.scenarios):
        tools.append("h2load")
    if "syscalls" in options.parts:
        tools.append("strace")
    return [*options.only, *tools]


def texts(options, found):
    """The tables of the parts that gave something."""
    if found.get("load"):
        yield report.table(found["load"], [name for name, s in SCENARIOS.items() if s.path == "1m"])
        for name in found["load"]:
            if SCENARIOS[name].rate:
                yield f"{name}: {SCENARIOS[name].by()} at {options.rate or SCENARIOS[name].rate} requests/s."
    if found.get("idle"):
        yield report.memory_table(found["idle"])
    if found.get("scaling"):
        yield report.scaling_table(found["scaling"])
        yield scaling.explained(found["scaling"])
    if found.get("syscalls"):
        yield report.syscalls_table(found["syscalls"], syscalls.NETWORK.__contains__)


def processor():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
