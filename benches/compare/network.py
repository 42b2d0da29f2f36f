"""The network that everybody measures in: a namespace of its own where that is allowed, so that the machine's settings do
not decide. With BBR, for one, the kernel paces large bodies by timers that it books to the sender, and all proxies come
out alike."""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWNET = 0x4000_0000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def enter(say, wanted):
    """Moves this process, and so its children, into a new namespace with the wanted congestion control; says why not.
    Returns whether the namespace is ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        say(f"measuring in the machine's own network: {os.strerror(ctypes.get_errno())}")
        return False
    raise_loopback()
    try:
        CONGESTION.write_text(wanted)
    except OSError as error:
        say(f"the congestion control stays {congestion()}: {error.strerror}")
    return True


def raise_loopback():
    with socket.socket() as s:
        name = struct.pack("16sh", b"lo", 0)
        (flags,) = struct.unpack("16xh", fcntl.ioctl(s, SIOCGIFFLAGS, name))
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def congestion():
    return CONGESTION.read_text().strip()
