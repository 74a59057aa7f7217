"""Lines between rank 0 and the others: JSON messages over TCP."""

import json
import secrets
import select
import socket
import threading
import time

from engine.errors import UserError

GATHER_S = 60
SEND_S = 5.0  # who takes nothing for so long is stopped; its silence is noticed elsewhere


class Wire:
    """One connection."""

    def __init__(self, connection):
        self.connection, self._rest, self._lock = connection, b"", threading.Lock()
        connection.settimeout(SEND_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A machine that is gone closes nothing: the kernel asks it, and gives up after half a minute.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def send(self, message):
        """Send a message; a connection that is closed is found by who listens."""
        connection = self.connection  # which the listening thread may let go of at any moment
        if connection is None:
            return False
        with self._lock:
            try:
                connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                return False
        return True

    def take(self):
        """[message, ...] that have come, at least one read's; None at the end once the connection is closed."""
        try:
            data = self.connection.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines] + ([] if data else [None])

    def listen(self, seconds):
        """[(0, message), ...] within so many seconds, from rank 0."""
        if self.connection is None:
            time.sleep(seconds)
            return []
        if not select.select([self.connection], [], [], seconds)[0]:
            return []
        messages = self.take()
        if None in messages:
            self.connection.close()
            self.connection = None
        return [(0, message) for message in messages]


class Hub:
    """Rank 0's end of all wires.

    Args:
        world: number of ranks, this one included.
    Attributes:
        address: (port, token) that the others need; the token keeps strangers out.
    """

    def __init__(self, world):
        both = socket.has_dualstack_ipv6()
        self.server = socket.create_server(("", 0), family=socket.AF_INET6 if both else socket.AF_INET, backlog=world,
                                           dualstack_ipv6=both)
        self.address = self.server.getsockname()[1], secrets.token_hex(8)
        self.world, self.wires = world, {}

    def gather(self):
        """Wait for the calls of all other ranks.

        Raises:
            UserError: some did not call in time.
        """
        end = time.monotonic() + GATHER_S
        while len(self.wires) < self.world - 1:
            self.server.settimeout(max(0.01, end - time.monotonic()))
            try:
                wire = Wire(self.server.accept()[0])
                hello = (wire.take() or [None])[0]
            except TimeoutError:
                missing = sorted(set(range(1, self.world)) - set(self.wires))
                raise UserError(f"ranks {missing[:8]} did not call rank 0 within {GATHER_S} s: they died while starting, or "
                                f"processes of this run cannot connect to each other") from None
            if hello and hello.get("token") == self.address[1]:
                self.wires[hello["rank"]] = wire
        self.server.close()

    def send(self, message):
        for wire in list(self.wires.values()):
            wire.send(message)

    def listen(self, seconds):
        """[(rank, message), ...] within so many seconds."""
        found = {wire.connection: rank for rank, wire in self.wires.items()}
        if not found:
            time.sleep(seconds)
            return []
        # poll, for select ends at descriptor 1024.
        poll = select.poll()
        ranks = {connection.fileno(): rank for connection, rank in found.items()}
        for descriptor in ranks:
            poll.register(descriptor, select.POLLIN)
        out = []
        for descriptor, _ in poll.poll(seconds * 1000):
            rank = ranks[descriptor]
            messages = self.wires[rank].take()
            out += [(rank, message) for message in messages]
            if None in messages:
                self.wires.pop(rank).connection.close()
        return out
