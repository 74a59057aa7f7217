"""What supervisors talk over (engine.wire), and the addresses of this machine."""

import fcntl
import socket
import struct

from engine.wire import Hub, Lost, Wire, join, listen_at

__all__ = ["Hub", "Lost", "Wire", "address_of", "free_port", "interface_of", "join", "listen_at"]
SIOCGIFADDR = 0x8915


def address_of(interface):
    """The IPv4 address of a network interface, None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(packed[20:24])


def interface_of(address):
    """The name of the interface that has an IPv4 address; None where none has, as for the further ones of the loopback."""
    for _, name in socket.if_nameindex():
        if address_of(name) == address:
            return name
    return "lo" if address.startswith("127.") else None


def free_port():
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
