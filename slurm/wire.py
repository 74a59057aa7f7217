"""Lines of JSON between supervisors, over TCP, without ever blocking."""

import contextlib
import fcntl
import json
import socket
import struct

SIOCGIFADDR = 0x8915


class Lost(Exception):
    """The other end is gone."""


class Wire:
    """One connection; ``receive`` gives whole messages."""

    def __init__(self, sock):
        self.sock, self.rest = sock, b""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self):
        return self.sock.fileno()

    def send(self, **message):
        """Messages are short and rare: a full buffer means that the other end has not read for a long time."""
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Lost(str(error)) from None

    def receive(self):
        """[message, ...] that came in since the last call."""
        messages = []
        while True:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise Lost(str(error)) from None
            if not data:
                if messages:
                    return messages  # the end is found at the next call
                raise Lost("the connection was closed")
            *lines, self.rest = (self.rest + data).split(b"\n")
            messages += [json.loads(line) for line in lines]

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.close()


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
