"""The origin and the three proxies: how each is found, configured, started, and proven to do the same work."""

import http.client
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from clients import trusting
from processes import Program, Trouble, connects, fill, free_ports

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
NAMES = ["evenkeel", "nginx", "haproxy"]
SIZES = {"128": 128, "16k": 16 * 1024, "1m": 1024 * 1024}


def find(program):
    """The path of an installed program; the sbin folders are not in everybody's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def said(argv, pattern):
    """What a program says when asked for its version, reduced to the part that pattern matches."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[0] if found else "unknown"


def versions(names, evenkeel):
    """The version of everything that takes part: the proxies and the tools that names has, and the origin."""
    ask = {
        "evenkeel": lambda: said([evenkeel, "--version"], r"\S+ [0-9].*"),
        "nginx": lambda: said([find("nginx"), "-v"], r"nginx/\S+"),
        "haproxy": lambda: said([find("haproxy"), "-v"], r"HAProxy version \S+"),
        "wrk": lambda: said([find("wrk"), "-v"], r"wrk \S+"),
        "h2load": lambda: said([find("h2load"), "--version"], r"h2load \S+"),
        "strace": lambda: said([find("strace"), "-V"], r"strace -- version \S+"),
    }
    return {name: ask[name]() for name in names} | {"origin": ask["nginx"]()}


def stream_module(folder):
    """nginx's TCP module: "" when it is built in, its path when it is a file, None when it is not installed."""
    built = said([find("nginx"), "-V"], r"(?s).*")
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    default = re.search(r"--modules-path=(\S+)", built)
    path = Path(folder or (default[1] if default else "modules")) / "ngx_stream_module.so"
    return str(path) if path.exists() else None


class Origin:
    """nginx with three bodies, on the core (or cores: "2,3") of the load generator."""

    def __init__(self, cores, scratch, label="origin", workers=1):
        folder = new_folder(scratch, label)
        (folder / "files").mkdir()
        for name in ["16k", "1m"]:
            (folder / "files" / name).write_bytes(b"x" * SIZES[name])
        (self.port,) = free_ports(1)
        conf = fill(HERE / "origin.conf", folder / "origin.conf", DIR=folder, PORT=self.port, BODY_128="x" * 128,
                    WORKERS=workers)
        self.program = Program(label, cores, nginx_command(folder, conf), folder)

    def prove(self):
        self.program.wait_until(lambda: connects(self.port), "it listened")
        for path, size in SIZES.items():
            expect_body(self.port, path, size)


class Proxy:
    """One proxy with an HTTP and, where it can, a TCP listener, both in front of the origin."""

    def __init__(self, name, cores, scratch, origin_port, options, label, workers=1):
        self.name = name
        self.label = label
        self.folder = new_folder(scratch, label)
        self.http, self.https, self.l4 = free_ports(3)
        self.has_l4 = True
        values = {"DIR": self.folder, "HTTP": self.http, "HTTPS": self.https, "L4": self.l4, "ORIGIN": origin_port, "WORKERS": workers}
        certificate(self.folder)
        argv = getattr(self, f"configure_{name}")(values, options)
        self.program = Program(label, cores, argv, self.folder)

    def configure_evenkeel(self, values, options):
        conf = fill(HERE / "evenkeel.toml", self.folder / "evenkeel.toml", **values)
        return [options.evenkeel, "run", "--config", conf]

    def configure_haproxy(self, values, _options):
        return [find("haproxy"), "-db", "-f", fill(HERE / "haproxy.cfg", self.folder / "haproxy.cfg", **values)]

    def configure_nginx(self, values, options):
        module = stream_module(options.nginx_modules)
        self.has_l4 = module is not None
        values["LOAD_STREAM"] = f"load_module {module};" if module else "# no module to load"
        values["INCLUDE_STREAM"] = "# libnginx-mod-stream is not installed: no TCP listener"
        if self.has_l4:
            stream = fill(HERE / "nginx-stream.conf", self.folder / "nginx-stream.conf", **values)
            values["INCLUDE_STREAM"] = f"include {stream};"
        return nginx_command(self.folder, fill(HERE / "nginx.conf", self.folder / "nginx.conf", **values))

    def port(self, kind):
        return {"http": self.http, "https": self.https, "l4": self.l4}[kind]

    def prove(self):
        """Waits until it serves, then checks that it answers whole bodies and does the work the others do."""
        ports = [self.http, self.https, self.l4] if self.has_l4 else [self.http, self.https]
        if self.name == "evenkeel":
            self.program.wait_until(self.announced, "it printed its three `listening` lines")
        self.program.wait_until(lambda: all(map(connects, ports)), "it listened")
        for port in ports:
            for path, size in SIZES.items():
                expect_body(port, path, size, secured=port == self.https)
        self.prove_equal_work()
        if self.has_l4:
            self.prove_half_close()

    def announced(self):
        return len(re.findall(r"^listening (?:web|edge|l4) ", self.program.stdout.read_text(), re.MULTILINE)) == 3

    def prove_equal_work(self):
        """The origin must see the same added fields from everybody, and connections that are used again."""
        reused = False
        for _ in range(5):
            fields = dict(zip(["X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "uses"],
                              fetch(self.http, "seen").decode().split("|")))
            missing = [name for name, value in fields.items() if not value]
            if missing:
                raise Trouble(f"{self.name} does not send {', '.join(missing)} to the origin: no fair comparison")
            reused |= int(fields["uses"]) > 1
        if not reused:
            raise Trouble(f"{self.name} opens a new connection to the origin for each request: no fair comparison")

    def prove_half_close(self):
        """A TCP client that has said all and ended its direction must still get the whole answer."""
        path, size = max(SIZES.items(), key=lambda item: item[1])
        with socket.create_connection(("127.0.0.1", self.l4), timeout=5) as client:
            client.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            client.shutdown(socket.SHUT_WR)
            try:
                received = sum(iter(lambda: len(client.recv(1 << 20)), 0))
            except OSError:
                received = 0
        if received < size:
            raise Trouble(f"{self.name} drops the answer when a TCP client ends its direction: no fair comparison")


def new_folder(scratch, name):
    """A folder that nginx's workers, who are another user when root starts it, can enter."""
    folder = Path(scratch) / name
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def certificate(folder):
    """A key on P-256 and its own certificate: `cert.pem`, `key.pem`, and both in `both.pem`."""
    files = {"-keyout": folder / "key.pem", "-out": folder / "cert.pem"}
    argv = [find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    done = subprocess.run([*argv, *(part for pair in files.items() for part in pair)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise Trouble(f"openssl made no certificate: {done.stderr.strip()}")
    (folder / "both.pem").write_text("".join(path.read_text() for path in reversed(files.values())))
    for path in [*files.values(), folder / "both.pem"]:
        path.chmod(0o644)


def nginx_command(folder, conf):
    return [find("nginx"), "-e", "stderr", "-p", f"{folder}/", "-c", conf]


def fetch(port, path, secured=False):
    """One GET on a connection of its own; everything but a whole 200 is a Trouble."""
    connection = (http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trusting()) if secured
                  else http.client.HTTPConnection("127.0.0.1", port, timeout=5))
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as fault:
        raise Trouble(f"GET /{path} on port {port}: {fault!r}") from fault
    finally:
        connection.close()
    if answer.status != 200:
        raise Trouble(f"GET /{path} on port {port}: status {answer.status}")
    return body


def expect_body(port, path, size, secured=False):
    got = len(fetch(port, path, secured))
    if got != size:
        raise Trouble(f"GET /{path} on port {port}: {got} bytes, not {size}")
