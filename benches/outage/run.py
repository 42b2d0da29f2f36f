#!/usr/bin/env python3
"""What clients notice when one of four backends is in trouble: Evenkeel beside Debian's nginx and HAProxy. See README.md.

Exit code: 0 all ran and Evenkeel kept what it promises, 1 it did not, 2 the bench could not run. Time decides nothing.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in the repository
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "compare"))

import figures
import network
import trouble
from contenders import BALANCE, NAMES, Contender
from names import names_of
from processes import Program, Trouble
from proxies import find, new_folder, stream_module, versions
from report import markdown

# case → what is asked, and how often a second
CASES = {
    "killed": {"GET": 200, "POST": 50, "TCP": 50},
    "hanging": {"GET": 200},
    "blackhole": {"GET": 200, "TCP": 50},
    "half500": {"GET": 200},
    "slow": {"GET": 200},
}
# Seconds from the start of the load: the trouble begins, the backend returns, the load ends.
TIMES = (5, 12, 30)
SMOKE_TIMES = (1, 2.5, 4)
# How long a client waits for its answer.
PATIENCE = 10
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def main():
    options = arguments()
    for number in SIGNALS:
        signal.signal(number, end)
    try:
        skipped = without_the_missing(options)
        if skipped and options.require_all:
            raise Trouble("--require-all: something is missing, see above; nothing was measured")
        results = {case: measure(case, options) for case in options.only}
    except Trouble as fault:
        say(f"error: {fault}")
        return 2
    broken = promises(results, options)
    publish(options, results, skipped, broken)
    return 1 if broken else 0


def arguments():
    parser = argparse.ArgumentParser(description="What clients notice of a backend in trouble. See README.md.")
    parser.add_argument("--only", type=names_of(CASES), default=list(CASES), metavar="LIST",
                        help=f"which troubles, with commas between (all: {','.join(CASES)})")
    parser.add_argument("--proxies", type=names_of(NAMES), default=list(NAMES), metavar="LIST",
                        help=f"which proxies (all: {','.join(NAMES)})")
    parser.add_argument("--balance", choices=BALANCE, default="round_robin", help="how all of them balance (round_robin)")
    parser.add_argument("--smoke", action="store_true",
                        help="each for four seconds: do they all run, and is nothing lost of a killed backend?")
    parser.add_argument("--require-all", action="store_true",
                        help="end with 2 when something that takes part is missing, instead of doing without")
    parser.add_argument("--evenkeel", type=Path, metavar="PATH", default=REPOSITORY / "target" / "release" / "evenkeel",
                        help="this binary (target/release/evenkeel); nothing is built")
    parser.add_argument("--nginx-modules", type=Path, metavar="DIR",
                        help="where ngx_stream_module.so is, if not in nginx's own place")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to FILE")
    options = parser.parse_args()
    options.evenkeel = options.evenkeel.resolve()
    options.times = SMOKE_TIMES if options.smoke else TIMES
    options.cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return options


def end(number, _frame):
    """Unwinds, so that every child is stopped; another signal does not disturb that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    say("ending")
    raise SystemExit(128 + number)


def say(text):
    print(text, file=sys.stderr, flush=True)


def without_the_missing(options):
    """Takes out what can not run here, and returns a sentence for each. Enters the namespace, where that may be made."""
    if any(name.startswith("evenkeel") for name in options.proxies) and not os.access(options.evenkeel, os.X_OK):
        raise Trouble(f"{options.evenkeel} is not a program that can be run: cargo build --release, or --evenkeel PATH")
    skipped = []
    for name, program in NAMES.items():
        if name in options.proxies and program and not find(program):
            skipped.append(f"{name}: not installed (apt install {program})")
            options.proxies.remove(name)
    if "nginx" in options.proxies and stream_module(options.nginx_modules) is None:
        skipped.append("nginx for TCP: its stream module is not installed (apt install libnginx-mod-stream)")
    has_own_network = network.enter(say, "cubic")
    if "blackhole" in options.only:
        # Never in the machine's own network.
        why = trouble.why_no_black_hole() if has_own_network else "no network namespace can be made here; root can"
        if why:
            skipped.append(f"blackhole: {why}")
            options.only.remove("blackhole")
    for sentence in skipped:
        say(f"skipped {sentence}")
    return skipped


def measure(case, options):
    """One trouble, met by all proxies at the same time: proxy → kind of request → summary."""
    say(f"{case}: {options.times[2]} s")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evenkeel-outage-")))
        scratch.chmod(0o755)
        backends = trouble.Backends(HERE, scratch, options.cores, case)
        stack.callback(backends.stop)
        backends.start()
        contenders = []
        for name in options.proxies:
            contenders.append(Contender(name, HERE, scratch, options.cores, backends.addresses(), options))
            stack.callback(contenders[-1].program.stop)
            contenders[-1].prove()
        start = time.monotonic() + 1
        loads = {contender: load(stack, contender, case, start, options) for contender in contenders}
        times = go_through(backends, start, options.times)
        fates = {contender: ended(contender, program, times) for contender, program in loads.items()}
        for contender, by_kind in fates.items():
            for kind, records in by_kind.items():
                if not figures.has_clean_beginning(records, times[0]):
                    raise Trouble(f"{case}: {kind} failed through {contender.name} before there was any trouble; was something "
                                  "stopped, or the machine too busy? These figures would mean nothing")
        seen = backends.seen()
        return {contender.name: {kind: figures.summary(kind, records, times, seen) for kind, records in by_kind.items()}
                for contender, by_kind in fates.items()}


def load(stack, contender, case, start, options):
    """Starts the load on one proxy."""
    folder = new_folder(contender.folder, "load")
    streams = [{"kind": kind, "port": contender.port(kind), "rate": rate} for kind, rate in CASES[case].items()
               if kind != "TCP" or contender.has_tcp]
    plan = {"start": start, "seconds": options.times[2], "patience": PATIENCE, "streams": streams,
            "name": contender.name}
    (folder / "plan").write_text(json.dumps(plan))
    argv = [sys.executable, "-I", HERE / "load.py", folder / "plan", folder / "result"]
    program = Program("load", options.cores, argv, folder)
    stack.callback(program.stop)
    return program


def go_through(backends, start, times):
    """Makes the trouble and ends it; when it began, when it had ended, and when the load ends."""
    began, ended, over = times
    sleep_until(start + began)
    backends.begin()
    sleep_until(start + ended)
    backends.end()
    return began, time.monotonic() - start, over


def sleep_until(moment):
    time.sleep(max(0, moment - time.monotonic()))


def ended(contender, program, times):
    """The fates of all requests: kind → records."""
    result = contender.folder / "load" / "result"
    program.wait_until(result.exists, "all requests had ended", seconds=times[2] + 2 * PATIENCE)
    program.child.wait(5)
    if not contender.program.alive():
        raise Trouble(f"{contender.name} ended{contender.program.last_words()}")
    return json.loads(result.read_text())


def promises(results, options):
    """What Evenkeel promised and did not keep."""
    cases = ["killed"] if options.smoke else ["killed", "hanging"]
    broken = []
    for case in cases:
        for name in ["evenkeel", "evenkeel-defaults"] if case == "killed" else ["evenkeel"]:
            by_kind = results.get(case, {}).get(name, {})
            get, post = by_kind.get("GET"), by_kind.get("POST")
            if get and get["failed"]:
                broken.append(f"{case}: {get['failed']} GETs through {name} failed: {get['kinds']}")
            if post and post["seen_twice"]:
                broken.append(f"{case}: {post['seen_twice']} POSTs through {name} were sent twice")
    return broken


def publish(options, results, skipped, broken):
    """Markdown on stdout, fit to be pasted into a README; with --json everything in a file as well."""
    programs = [name for name in ["evenkeel", "nginx", "haproxy"] if name in options.proxies]
    facts = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {name: text for name, text in versions(programs, options.evenkeel).items() if name != "origin"},
        "kernel": platform.release(),
        "balance": options.balance,
        "seconds": dict(zip(["trouble", "return", "end", "patience"], [*options.times, PATIENCE])),
        "command": shlex.join(["benches/outage/run.py", *sys.argv[1:]]),
    }
    print(f"{facts['time'][:10]}, {len(options.cores.split(','))} cores, Linux {facts['kernel']}; "
          f"{', '.join(f'{name}: {version}' for name, version in facts['versions'].items())}; all balance by "
          f"{options.balance}; trouble from {options.times[0]} s to {options.times[1]} s of {options.times[2]} s: "
          f"`{facts['command']}`")
    if options.smoke:
        print("\nA smoke run: it shows that all run. Its figures mean nothing.")
    print(f"\n{markdown(list(figures.rows(results)), left=3)}")
    for label, lines in [("skipped", skipped), ("FAILED", broken)]:
        for line in lines:
            print(f"\n{label} {line}")
    if options.json:
        Path(options.json).write_text(json.dumps(facts | {"results": results, "skipped": skipped, "failures": broken},
                                                 indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
