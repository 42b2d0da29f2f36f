"""Keep-alive clients on sockets, with or without TLS, for what is counted by the request or by the connection and not by the second."""

import socket
import ssl
from functools import cache

from processes import Trouble


class Clients:
    """Connections to one listener. Each has had one answer once it is open, and stays open until the end."""

    def __init__(self, port, count, secured=False):
        self.request = f"GET /128 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.sockets = []
        try:
            for _ in range(count):
                self.sockets.append(connect(port, secured))
                self.ask(self.sockets[-1:])
        except (OSError, ValueError) as fault:
            self.close()
            raise Trouble(f"connection {len(self.sockets)} of {count}: {fault!r}") from fault

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for each in self.sockets:
            each.close()

    def ask_all(self, rounds):
        """All ask, then all read, so that the proxy has many at hand, as under load."""
        try:
            for _ in range(rounds):
                self.ask(self.sockets)
        except (OSError, ValueError) as fault:
            raise Trouble(f"a keep-alive client: {fault!r}") from fault

    def ask(self, sockets):
        for each in sockets:
            each.sendall(self.request)
        for each in sockets:
            read_answer(each)

    def still_open(self):
        """How many the proxy has not closed; to be asked last, for the sockets wait no longer after it."""
        return sum(map(is_open, self.sockets))


def connect(port, secured):
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    return trusting().wrap_socket(plain) if secured else plain


@cache
def trusting():
    """Speaks HTTP/1.1 with whoever answers: the certificate is the bench's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def is_open(each):
    each.setblocking(False)
    try:
        return bool(each.recv(1) if isinstance(each, ssl.SSLSocket) else each.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def read_answer(each):
    """One answer with a Content-Length; anything else than a 200 is a ValueError."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += received(each)
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if lines[0].split(" ")[1:2] != ["200"]:
        raise ValueError(f"answered `{lines[0]}`")
    fields = dict(line.lower().split(":", 1) for line in lines[1:])
    missing = int(fields["content-length"]) - len(body) if "content-length" in fields else 0
    while missing > 0:
        missing -= len(received(each))


def received(each):
    part = each.recv(65536)
    if not part:
        raise ValueError("closed before its answer was whole")
    return part
