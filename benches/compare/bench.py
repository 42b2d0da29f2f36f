"""What all parts of the bench need: an origin, proxies that have proven themselves, and rounds in turns."""

import sys
from pathlib import Path

import report
from loads import drive
from processes import Rest, Trouble, cpu_between
from proxies import SIZES, Proxy


class Bench:
    """options, the temporary folder, the origin; `notes`, `skipped` and `failures` are sentences for the report."""

    def __init__(self, options, scratch, origin, skipped):
        self.options = options
        self.scratch = scratch
        self.origin = origin
        self.notes = []
        self.skipped = skipped
        self.failures = []

    @staticmethod
    def say(text):
        """Progress and trouble, beside the table on stdout."""
        print(text, file=sys.stderr, flush=True)

    def start(self, stack, name, label=None, cores=None, workers=1, origin=None):
        """Starts a proxy that ends with the stack. None, and a failure, when it does not do the work the others do."""
        label = label or name
        cores = self.options.proxy_core if cores is None else cores
        proxy = Proxy(name, cores, self.scratch, (origin or self.origin).port, self.options, label, workers)
        stack.callback(proxy.program.stop)
        try:
            proxy.prove()
        except Trouble as trouble:
            self.failures.append(f"{label}: {trouble}")
            return None
        return proxy

    def measure(self, title, scenario, proxies, cores, threads=1):
        """All rounds of one scenario: label → summary. Who starts a round moves on by one: nobody has the best place."""
        rounds = {proxy.label: [] for proxy in proxies}
        failed = set()
        for number in range(1 if self.options.smoke else 0, self.options.rounds + 1):
            first = number % len(proxies) if proxies else 0
            for proxy in proxies[first:] + proxies[:first]:
                if proxy.label in failed:
                    continue
                self.say(f"{title} {f'round {number}/{self.options.rounds}' if number else 'warming up'} {proxy.label}")
                try:
                    one = self.turn(scenario, proxy, self.options.seconds if number else 1, cores, threads)
                except Trouble as trouble:
                    self.failures.append(f"{title} {proxy.label}: {trouble}")
                    failed.add(proxy.label)
                    continue
                if one["errors"]:
                    self.failures.append(f"{title} {proxy.label}: {one['errors']} errors {one['kinds']}")
                if number:
                    rounds[proxy.label].append(one)
        return {label: report.summary(SIZES[scenario.path], done) for label, done in rounds.items() if done}

    def turn(self, scenario, proxy, seconds, cores, threads):
        """One run of the load generator against one proxy, and what the proxy spent meanwhile."""
        before, rest = proxy.program.cpu(), Rest(cores)
        try:
            count = drive(scenario, proxy.port(scenario.listener), seconds, cores, threads,
                          Path(self.scratch) / "h2load.log")
        except Trouble as trouble:
            raise Trouble(f"{trouble}{proxy.program.last_words()}") from None
        if not proxy.program.alive():
            raise Trouble(f"ended, exit code {proxy.program.child.returncode}{proxy.program.last_words()}")
        spent = cpu_between(before, proxy.program.cpu())
        return {
            "requests": count["requests"],
            "cpu_us": spent / 1e3 / count["requests"],
            "requests_per_s": count["requests"] * 1e6 / count["wall_us"],
            "p50_ms": count["p50_us"] / 1e3,
            "p99_ms": count["p99_us"] / 1e3,
            "core_share": spent / 1e3 / count["wall_us"],
            "load_share": 1 - rest.share(),
            "errors": sum(count["kinds"].values()),
            "kinds": count["kinds"],
        }
