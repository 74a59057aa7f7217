"""What supervisors talk over (engine.distributed.transport), and the addresses of this machine."""

import fcntl
import json
import os
import socket
import struct

from engine.distributed.transport import Hub, Lost, Wire, join, listen_at
from engine.errors import explain, failure_of

__all__ = [
    "Hub",
    "Lost",
    "Wire",
    "address_of",
    "free_port",
    "interface_of",
    "join",
    "open_listener",
    "write_secret",
]
SIOCGIFADDR = 0x8915


def open_listener(address):
    """A socket that listens on a free port of this node's address.

    Raises:
        Failure: it cannot.
    """
    try:
        return listen_at(address)
    except OSError as error:
        raise failure_of(error, f"node 0 cannot listen at {address}: {explain(error)}") from None


def write_secret(path, value):
    """JSON to a file in one go, which nobody but its owner can read at any moment of its life.

    Raises:
        Failure: it cannot be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.writing")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        os.replace(temporary, path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def address_of(interface):
    """The IPv4 address of a network interface, None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            packed = fcntl.ioctl(
                probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15])
            )
        except OSError:
            return None
    return socket.inet_ntoa(packed[20:24])


def interface_of(address):
    """The name of the interface that has an IPv4 address; None where none has, as for the further
    ones of the loopback."""
    for _, name in socket.if_nameindex():
        if address_of(name) == address:
            return name
    return "lo" if address.startswith("127.") else None


def free_port():
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
