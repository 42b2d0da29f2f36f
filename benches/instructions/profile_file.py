"""Reads what callgrind writes, as far as this bench needs it: what each function costs, itself and with what it calls.

The format is that of valgrind's manual, "Callgrind Format Specification": lines of `position costs…` under the function
and file named last; a `calls=` line makes the next one the cost of the calls, told of the caller.
"""

import re
from collections import defaultdict

# The events that `--collect-systime=yes` adds to the instructions.
INSTRUCTIONS, SYSTEM_CALLS = "Ir", "sysCount"
NAME = re.compile(r"^(c?(?:fn|fl|fi|fe|ob))=\((\d+)\)(?: (.*))?$")
KIND = {"fn": "fn", "cfn": "fn", "fl": "fl", "fi": "fl", "fe": "fl", "cfl": "fl", "cfi": "fl", "ob": "ob", "cob": "ob"}


class Costs:
    """What was counted: instructions by function and by line, system calls by the function that makes them."""

    def __init__(self):
        self.own = defaultdict(float)
        self.called = defaultdict(float)
        self.lines = defaultdict(float)
        self.system_calls = defaultdict(float)
        self.total = 0

    def minus(self, other):
        return self.combine(other, lambda mine, its: mine - its)

    def per(self, requests):
        return self.combine(self, lambda mine, _: mine / requests)

    def combine(self, other, with_):
        costs = Costs()
        for name in ["own", "called", "lines", "system_calls"]:
            mine, its, into = getattr(self, name), getattr(other, name), getattr(costs, name)
            into.update({key: with_(mine.get(key, 0), its.get(key, 0)) for key in mine.keys() | its.keys()})
        costs.total = with_(self.total, other.total)
        return costs

    def own_of_functions(self):
        return {name: round(cost, 1) for name, cost in sorted(self.own.items(), key=lambda item: -item[1]) if cost >= 1}

    def calls(self):
        """How often each system call is made; glibc's functions have their names."""
        often = sorted(((cost, name) for name, cost in self.system_calls.items() if cost >= 0.01), reverse=True)
        return {re.sub(r"^_+(libc_)?|@.*$", "", name): round(cost, 2) for cost, name in often}

    def hottest(self, count):
        """Functions by what they cost themselves."""
        for name, cost in sorted(self.own.items(), key=lambda item: -item[1])[:count]:
            yield f"{cost:8,.0f}  {cost + self.called.get(name, 0):8,.0f}  {name}"

    def hottest_lines(self, count):
        """Source lines, also of what was inlined, with the function that they ended up in."""
        for (file, line, function), cost in sorted(self.lines.items(), key=lambda item: -item[1])[:count]:
            yield f"{cost:8,.0f}  {file}:{line}  in {function}"


def read(path):
    """The costs in a file of callgrind's."""
    costs, names = Costs(), {}
    function = file = None
    line, of_calls, events = 0, False, []
    with open(path, encoding="utf-8", errors="replace") as text:
        for row in text:
            row = row.rstrip("\n")
            named = NAME.match(row)
            if named:
                kind, number, name = named.groups()
                if name is not None:
                    names[KIND[kind], number] = short(name)
                if kind == "fn":
                    function = names["fn", number]
                elif kind in ("fl", "fi", "fe"):
                    file = names["fl", number]
            elif row.startswith("calls="):
                of_calls = True
            elif row.startswith("events:"):
                events = row.split()[1:]
            elif row and row[0] in "0123456789+-*":
                position, *counts = row.split()
                line = moved(line, position)
                counted = dict(zip(events, map(int, counts)))
                if of_calls:
                    costs.called[function] += counted.get(INSTRUCTIONS, 0)
                else:
                    costs.own[function] += counted.get(INSTRUCTIONS, 0)
                    costs.lines[file, line, function] += counted.get(INSTRUCTIONS, 0)
                    costs.total += counted.get(INSTRUCTIONS, 0)
                    costs.system_calls[function] += counted.get(SYSTEM_CALLS, 0)
                of_calls = False
    return costs


def moved(line, position):
    """A position is a line, or so many lines from the last one."""
    if position == "*":
        return line
    return line + int(position) if position[0] in "+-" else int(position)


def short(name):
    """A function without its hash, a file without the way to it."""
    return re.sub(r"::h[0-9a-f]{16}$", "", re.sub(r"^.*/((?:src|library|registry/src/[^/]+)/)", r"\1", name))
