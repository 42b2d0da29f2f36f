"""The four backends, and what befalls the fourth of them."""

import os
import signal
import socket
import subprocess
import sys
from collections import Counter

from processes import Program, Trouble, free_ports
from proxies import find

COUNT = 4
ILL = 4
# Its own, so that nothing else on this network is touched.
TABLE = "evenkeel_outage"


class Backends:
    """Four origins, each at an address of its own, and the trouble of the fourth."""

    def __init__(self, here, scratch, cores, case):
        self.here, self.scratch, self.cores, self.case = here, scratch, cores, case
        (self.port,) = free_ports(1)
        self.programs = {}

    def addresses(self):
        return [f"{address(number)}:{self.port}" for number in range(1, COUNT + 1)]

    def start(self):
        for number in range(1, COUNT + 1):
            self.start_one(number)

    def start_one(self, number):
        # Without -S and -E it would read the machine's settings; a killed one is to be back soon.
        argv = [sys.executable, "-I", "-S", self.here / "origin.py", address(number), self.port, number, self.case,
                self.scratch / f"seen{number}"]
        program = self.programs[number] = Program(f"origin{number}", self.cores, argv, self.scratch)
        program.wait_until(lambda: accepts(address(number), self.port), "it listened")

    def stop(self):
        for program in self.programs.values():
            program.stop()

    def seen(self):
        """How often each POST arrived, over all of them."""
        files = [self.scratch / f"seen{number}" for number in range(1, COUNT + 1)]
        return Counter(number for file in files for number in file.read_text().split())

    def begin(self):
        """The trouble begins."""
        if self.case == "killed":
            self.signal(signal.SIGKILL)
        elif self.case == "blackhole":
            drop_packets(address(ILL), self.port)
        else:
            self.signal(signal.SIGUSR1)

    def end(self):
        """The backend is well again when this returns."""
        if self.case == "blackhole":
            pass_packets()
        elif self.case in ["killed", "hanging"]:
            # What hangs is started again, as its admin would.
            self.programs[ILL].stop()
            self.start_one(ILL)
        else:
            self.signal(signal.SIGUSR2)

    def signal(self, number):
        os.kill(self.programs[ILL].child.pid, number)


def address(number):
    """All of 127.0.0.0/8 is this host: addresses of their own without any set-up."""
    return f"127.0.1.{number}"


def accepts(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


def drop_packets(host, port):
    """Nothing gets to it and nothing from it any more, and nobody is told.

    On the way in: a packet that is dropped on the way out is reported to whoever sends it.
    """
    nft(f"""
        table inet {TABLE} {{
            chain inward {{
                type filter hook input priority 0; policy accept;
                ip daddr {host} tcp dport {port} drop
                ip saddr {host} tcp sport {port} drop
            }}
        }}""")


def pass_packets():
    nft(f"delete table inet {TABLE}")


def why_no_black_hole():
    """Why packets can not be dropped here; None where they can."""
    if not find("nft"):
        return "nft is not installed (apt install nftables)"
    try:
        drop_packets(address(ILL), 9)
        pass_packets()
    except Trouble as trouble:
        return str(trouble)
    return None


def nft(rules):
    done = subprocess.run([find("nft"), "-f", "-"], input=rules, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise Trouble(f"nft: {done.stderr.strip()}")
