"""The proxies that are compared: how each is configured, started and seen to answer."""

import re

from processes import Program, connects, fill, free_ports
from proxies import find, new_folder, nginx_command, stream_module

# name → the program that has to be there
NAMES = {"evenkeel": None, "evenkeel-defaults": None, "nginx": "nginx", "haproxy": "haproxy"}
# What each calls the same way to balance.
BALANCE = {
    "round_robin": {"nginx": "", "haproxy": "roundrobin"},
    "least_connections": {"nginx": "least_conn;", "haproxy": "leastconn"},
}


class Contender:
    """One proxy before the origins, with an HTTP listener and, where it can, one for TCP."""

    def __init__(self, name, here, scratch, cores, origins, options):
        self.name = name
        self.here = here
        self.folder = new_folder(scratch, name)
        self.web, self.raw = free_ports(2)
        self.has_tcp = True
        balance = BALANCE[options.balance].get(name, options.balance)
        values = {"DIR": self.folder, "WEB": self.web, "RAW": self.raw, "BALANCE": balance}
        values |= {f"ORIGIN{number}": origin for number, origin in enumerate(origins, 1)}
        argv = getattr(self, f"configure_{name.partition('-')[0]}")(values, options)
        self.program = Program(name, cores, argv, self.folder)

    def fill(self, template, values):
        return fill(self.here / template, self.folder / template, **values)

    def configure_evenkeel(self, values, options):
        return [options.evenkeel, "run", "--config", self.fill(f"{self.name}.toml", values)]

    def configure_haproxy(self, values, _options):
        return [find("haproxy"), "-db", "-f", self.fill("haproxy.cfg", values)]

    def configure_nginx(self, values, options):
        module = stream_module(options.nginx_modules)
        self.has_tcp = module is not None
        values["LOAD_STREAM"] = f"load_module {module};" if module else "# no module to load"
        values["INCLUDE_STREAM"] = "# libnginx-mod-stream is not installed: no TCP listener"
        if self.has_tcp:
            values["INCLUDE_STREAM"] = f"include {self.fill('nginx-stream.conf', values)};"
        return nginx_command(self.folder, self.fill("nginx.conf", values))

    def prove(self):
        """Waits until it listens."""
        ports = [self.web, self.raw] if self.has_tcp else [self.web]
        if self.name.startswith("evenkeel"):
            self.program.wait_until(self.announced, "it printed its two `listening` lines")
        self.program.wait_until(lambda: all(map(connects, ports)), "it listened")

    def announced(self):
        return len(re.findall(r"^listening (?:web|raw) ", self.program.stdout.read_text(), re.MULTILINE)) == 2

    def port(self, kind):
        return self.raw if kind == "TCP" else self.web
