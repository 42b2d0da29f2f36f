"""One running program: started on its core, watched through /proc, ended by its own pid.

Only what Linux itself says is used: CPU time of programs from /proc/PID/task/*/schedstat in nanoseconds (the usual utime and stime
count ticks of 10 ms), memory from /proc/PID/status and smaps_rollup.
"""

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path


class Trouble(Exception):
    """Something that a person has to know: a program did not start, did not answer, or is not there."""


def on_cores(cores, argv):
    """The command line that runs argv on a core, or on several ("0,1"); taskset replaces itself, so the pid is the program's."""
    return ["taskset", "-c", str(cores), *map(str, argv)]


def free_ports(count):
    """Ports that nobody listens on now. All are held until the last is found, so that they differ."""
    held = []
    for _ in range(count):
        held.append(socket.create_server(("127.0.0.1", 0)))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def fill(template, target, **values):
    """Writes template to target with every @NAME@ replaced; a name without a value is a fault of ours."""
    text = re.sub(r"@([A-Z0-9_]+)@", lambda m: str(values[m[1]]), template.read_text())
    target.write_text(text)
    return target


class Program:
    """A child process with its log, and everything it forked."""

    def __init__(self, name, cores, argv, log_dir):
        self.name = name
        self.stdout = Path(log_dir) / f"{name}.stdout"
        self.stderr = Path(log_dir) / f"{name}.stderr"
        with open(self.stdout, "wb") as out, open(self.stderr, "wb") as err:
            # A session of its own: Ctrl-C reaches run.py alone, which then ends its children one by one.
            self.child = subprocess.Popen(on_cores(cores, argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          start_new_session=True)

    def alive(self):
        return self.child.poll() is None

    def last_words(self):
        lines = self.stderr.read_text(errors="replace").splitlines()[-10:]
        return "".join(f"\n    {line}" for line in lines)

    def wait_until(self, ready, what, seconds=10):
        """Waits until ready() holds; says what it waited for when the program ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive():
                raise Trouble(f"{self.name} ended before {what}, exit code {self.child.returncode}{self.last_words()}")
            if time.monotonic() > deadline:
                raise Trouble(f"{self.name}: waited {seconds} s for {what}{self.last_words()}")
            time.sleep(0.02)

    def pids(self):
        """The program and all its descendants, the worker processes."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                stat = read(entry / "stat")
                if stat:
                    # The name in brackets may hold blanks, so the parent is counted from the last bracket.
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        family = [self.child.pid]
        for pid in family:
            family += [p for p, parent in parents.items() if parent == pid]
        return family

    def cpu(self):
        """Nanoseconds on the CPU, user and system, by thread."""
        used = {}
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                text = read(task)
                if text:
                    used[task.parent.name] = int(text.split()[0])
        if not used:
            raise Trouble(f"{self.name} is gone, or this kernel has no /proc/PID/schedstat{self.last_words()}")
        return used

    def memory_kib(self):
        """Resident and proportional set size, summed over its processes; the first counts shared pages each time."""
        rss = pss = 0
        for pid in self.pids():
            rss += kib(f"/proc/{pid}/status", "VmRSS")
            pss += kib(f"/proc/{pid}/smaps_rollup", "Pss")
        return rss, pss

    def stop(self):
        """Asks it to end; what is left of it after five seconds, workers without their master too, is killed."""
        if self.alive():
            self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            pass
        # Its session is its own, so this group holds nothing but what it forked.
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(5)


def cpu_between(before, after):
    """Nanoseconds spent from before to after. A thread that started in between counts from nought."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items())


class Rest:
    """How long cores ("0,1") have had nothing to do since it was made."""

    def __init__(self, cores):
        self.names = [f"cpu{core}" for core in str(cores).split(",")]
        self.start = time.monotonic()
        self.before = self.ticks()

    def ticks(self):
        """Idle and waiting for a disk, which the kernel does not sample but measures."""
        lines = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text().splitlines())
        if any(name not in lines for name in self.names):
            raise Trouble(f"/proc/stat has no line of its own for each of {', '.join(self.names)}")
        return sum(int(tick) for name in self.names for tick in lines[name].split()[3:5])

    def share(self):
        rested = (self.ticks() - self.before) / os.sysconf("SC_CLK_TCK") / len(self.names)
        return min(1, rested / (time.monotonic() - self.start))


def connects(port):
    """Whether somebody accepts on that port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def read(path):
    """The text of a file of /proc, or nothing when its process ended meanwhile."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def kib(path, key):
    found = re.search(rf"^{key}:\s+(\d+) kB", read(path), re.MULTILINE)
    return int(found[1]) if found else 0
