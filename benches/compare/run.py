#!/usr/bin/env python3
"""Runs Evenkeel beside Debian's nginx and HAProxy and prints what a request costs in each. See README.md.

Exit code: 0 all answered without errors, 1 a proxy had errors or did not answer, 2 the bench could not run.
Timing never decides the exit code.
"""

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the repository

import report
from processes import Trouble, cpu_between, on_core
from proxies import HERE, NAMES, REPOSITORY, SIZES, Origin, Proxy, find, versions

# name → listener, path (its body's size is in SIZES), connections, whether each request opens its own connection
SCENARIOS = {
    "http-128": ("http", "128", 64, "keep"),
    "http-16k": ("http", "16k", 64, "keep"),
    "http-1m": ("http", "1m", 16, "keep"),
    "http-128-connect": ("http", "128", 64, "close"),
    "l4-128": ("l4", "128", 64, "keep"),
    "l4-1m": ("l4", "1m", 16, "keep"),
    "l4-128-connect": ("l4", "128", 64, "close"),
}
SMOKE = ["http-128", "l4-128"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PACKAGE = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk"}


def main():
    options = arguments()
    for number in SIGNALS:
        signal.signal(number, end)
    try:
        skipped = without_the_missing(options)
        if not options.only:
            return 0 if options.smoke else 2
        if "evenkeel" in options.only:
            options.evenkeel = binary(options)
        choose_cores(options)
        raise_open_files()
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
    parser.add_argument("--rounds", type=at_least_one, default=5, help="rounds a scenario (5)")
    parser.add_argument("--seconds", type=at_least_one, default=4, help="seconds a round and proxy (4)")
    parser.add_argument("--smoke", action="store_true",
                        help=f"one round of one second of {' and '.join(SMOKE)}: do they all answer, without errors?")
    parser.add_argument("--evenkeel", type=Path, metavar="PATH", help="this binary; nothing is built")
    parser.add_argument("--no-build", action="store_true", help="take target/dist/evenkeel, else target/release/evenkeel")
    parser.add_argument("--nginx-modules", type=Path, metavar="DIR",
                        help="where ngx_stream_module.so is, if not in nginx's own place")
    parser.add_argument("--proxy-core", type=int, metavar="N", help="core of the proxies")
    parser.add_argument("--load-core", type=int, metavar="N", help="core of the load generator and the origin")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured, each round, to FILE")
    options = parser.parse_args()
    options.only = list(options.only)
    options.evenkeel = options.evenkeel and options.evenkeel.resolve()
    options.nginx_modules = options.nginx_modules and options.nginx_modules.resolve()
    if options.smoke:
        options.rounds = options.seconds = 1
    options.scenarios = options.scenarios or (SMOKE if options.smoke else list(SCENARIOS))
    return options


def names_of(known):
    """A parser of comma-separated names that keeps the order of the known ones."""
    def parse(text):
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"`{name}` is not one of {', '.join(known)}")
        return [name for name in known if name in given]
    return parse


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def say(text):
    """Progress and trouble, beside the table on stdout."""
    print(text, file=sys.stderr, flush=True)


def end(number, _frame):
    """Unwinds, so that every child is stopped; another signal does not disturb that, it takes seconds at most."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    say("ending")
    raise SystemExit(128 + number)


def without_the_missing(options):
    """Takes out what can not run here and returns a sentence for each."""
    skipped = []
    for tool in ["wrk", "nginx"]:
        if not find(tool):
            skipped.append(f"everything: {tool} is not installed (apt install {PACKAGE[tool]}); "
                           f"it is the {'load generator' if tool == 'wrk' else 'origin'}")
            options.only = []
    if "haproxy" in options.only and not find("haproxy"):
        skipped.append("haproxy: not installed (apt install haproxy)")
        options.only.remove("haproxy")
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
    usable = sorted(os.sched_getaffinity(0))
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
    failures = []
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="evenkeel-bench-"))
        os.chmod(scratch, 0o755)
        origin = Origin(options.load_core, scratch)
        stack.callback(origin.program.stop)
        origin.prove()
        proxies, memory = [], {}
        for name in options.only:
            proxy = Proxy(name, options.proxy_core, scratch, origin.port, options)
            stack.callback(proxy.program.stop)
            try:
                proxy.prove()
            except Trouble as trouble:
                failures.append(f"{name}: {trouble}")
                continue
            proxies.append(proxy)
            rss, pss = proxy.program.memory_kib()
            memory[name] = {"rss_kib": rss, "pss_kib": pss, "processes": len(proxy.program.pids())}
        results = {}
        for scenario in options.scenarios:
            taking_part = [p for p in proxies if SCENARIOS[scenario][0] == "http" or p.has_l4]
            results[scenario] = measure(scenario, taking_part, options, failures)
        if any(not p.has_l4 for p in proxies) and any(SCENARIOS[s][0] == "l4" for s in options.scenarios):
            skipped.append("nginx for L4: its stream module is not installed (apt install libnginx-mod-stream)")
    publish(options, results, memory, skipped, failures)
    return 1 if failures else 0


def measure(scenario, proxies, options, failures):
    """All rounds of one scenario. Who starts a round moves on by one each time, so that nobody has the best place."""
    rounds = {proxy.name: [] for proxy in proxies}
    failed = set()
    for number in range(options.rounds + 1):
        warming = number == 0
        if warming and options.smoke:
            continue
        for proxy in proxies[number % len(proxies):] + proxies[:number % len(proxies)] if proxies else []:
            if proxy.name in failed:
                continue
            say(f"{scenario} {'warming up' if warming else f'round {number}/{options.rounds}'} {proxy.name}")
            try:
                one = turn(scenario, proxy, 1 if warming else options.seconds, options.load_core)
            except Trouble as trouble:
                failures.append(f"{scenario} {trouble}")
                failed.add(proxy.name)
                continue
            if one["errors"]:
                failures.append(f"{scenario} {proxy.name}: {one['errors']} errors {one['kinds']}")
            if not warming:
                rounds[proxy.name].append(one)
    lines = {name: report.summary(SIZES[SCENARIOS[scenario][1]], done) for name, done in rounds.items() if done}
    report.add_ratios(lines)
    return lines


def turn(scenario, proxy, seconds, core):
    """One run of wrk against one proxy, and what the proxy spent meanwhile."""
    kind, path, connections, reuse = SCENARIOS[scenario]
    argv = [find("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / "wrk.lua"]
    if reuse == "close":
        argv += ["-H", "Connection: close"]
    argv.append(f"http://127.0.0.1:{proxy.port(kind)}/{path}")
    before = proxy.program.cpu()
    try:
        done = subprocess.run(on_core(core, argv), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds + 20, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise Trouble(f"{proxy.name}: wrk did not end") from None
    if not proxy.program.alive():
        raise Trouble(f"{proxy.name} ended, exit code {proxy.program.child.returncode}{proxy.program.last_words()}")
    spent = cpu_between(before, proxy.program.cpu())
    found = re.search(r"^RESULT (\{.*\})$", done.stdout, re.MULTILINE)
    if not found:
        raise Trouble(f"{proxy.name}: wrk gave no result: {(done.stdout + done.stderr).strip()}")
    count = json.loads(found[1])
    if not count["requests"]:
        raise Trouble(f"{proxy.name}: not one answer{proxy.program.last_words()}")
    kinds = {kind: count[kind] for kind in ["connect", "read", "write", "timeout", "status"] if count[kind]}
    if count["bytes"] < count["requests"] * SIZES[path]:
        kinds["short"] = 1
    return {
        "requests": count["requests"],
        "cpu_us": spent / 1e3 / count["requests"],
        "requests_per_s": count["requests"] * 1e6 / count["wall_us"],
        "p50_ms": count["p50_us"] / 1e3,
        "p99_ms": count["p99_us"] / 1e3,
        "core_share": spent / 1e3 / count["wall_us"],
        "errors": sum(kinds.values()),
        "kinds": kinds,
    }


def publish(options, results, memory, skipped, failures):
    """The table on stdout; with --json everything in a file as well."""
    facts = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(options.only, options.evenkeel),
        "kernel": platform.release(),
        "processor": processor(),
        "cores": {"proxy": options.proxy_core, "load": options.load_core},
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    for name, version in facts["versions"].items():
        print(f"{name}: {version}")
    print(f"Linux {facts['kernel']}, {facts['processor']}, proxy on core {options.proxy_core}, load generator and "
          f"origin on core {options.load_core}, {options.rounds} rounds of {options.seconds} s\n")
    print(report.table(results, [name for name, s in SCENARIOS.items() if s[1] == "1m"]), end="\n\n")
    print(report.memory_table(memory))
    for label, lines in [("skipped", skipped), ("FAILED", failures)]:
        for line in lines:
            print(f"\n{label} {line}")
    if options.json:
        everything = facts | {"results": results, "memory": memory, "skipped": skipped, "failures": failures}
        Path(options.json).write_text(json.dumps(everything, indent=2) + "\n")


def processor():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
