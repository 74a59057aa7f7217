"""The network addresses of this machine: which to listen at, under which others find it.

Nothing here imports torch.
"""

import errno
import fcntl
import ipaddress
import socket
import struct

SIOCGIFADDR = 0x8915
BACKLOG = 1024  # hundreds of ranks call in the same moment


def listen_at(address: str | None) -> socket.socket:
    """Open a socket that listens on a free port of one address.

    It listens on all where that is None or not this machine's own.

    Raises:
        OSError: it cannot.
    """
    if address is not None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            return socket.create_server((address, 0), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=BACKLOG, dualstack_ipv6=both)


def own_address(host: str, alone: bool) -> str | None:
    """Return the one address of this machine by which all processes of a run find it.

    Args:
        host: the name or address by which they call it.
        alone: they are all on this machine.
    Returns:
        None where it is not sure.
    """
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    found = {str(info[4][0]) for info in infos}
    loop = sorted(filter(_is_loopback, found))
    if loop:
        # A machine often calls itself 127.0.1.1, which others cannot reach.
        return loop[0] if alone else None
    return found.pop() if len(found) == 1 else None


def address_of(interface: str) -> str | None:
    """Return the IPv4 address of a network interface, None where it has none."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            packed = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(packed[20:24])


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an IPv4 address.

    None where no interface has it; a further address of the loopback counts as the loopback's.
    """
    for _, name in socket.if_nameindex():
        if address_of(name) == address:
            return name
    return "lo" if address.startswith("127.") else None


def free_port() -> int:
    """Return a TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
