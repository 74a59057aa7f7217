"""JSON messages over TCP between the processes of a run that know its token, and nobody else.

The watch of a run's ranks (engine.distributed.heartbeat) and the supervisors of a cluster's job
(slurm.supervisor) talk over it. One of them opens a hub and publishes its Meeting, by torch's store
or in a file; the others join it. Whoever connects proves first that it knows the token:

    hub     {"nonce": A}
    caller  {"number": N, "name": TEXT, "nonce": B, "proof": HMAC(token, caller, A, B, N, TEXT)}
    hub     {"welcome": HMAC(token, hub, A, B, N, TEXT)}

So the token itself never travels here: who listens on the wire, or took the port over after the
hub's end, learns nothing that it could use. What follows on a proven connection is neither signed
nor encrypted. Who does not prove itself is heard for STRANGER_S and SHORT bytes, never answered.
Nothing here but ``join`` waits for the other end. Nothing here imports torch.
"""

import contextlib
import errno
import hashlib
import hmac
import json
import secrets
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.distributed.addresses import listen_at

STRANGER_S = 10.0  # in which a caller proves itself
STRANGERS = 128  # unproven connections at a time, and one an expected member; the oldest goes
SHORT = 1024  # bytes of an unproven caller's line
LONGEST = 1 << 20  # bytes of a line, and of what waits for an end that reads nothing
CHUNK = 1 << 16  # bytes of a read
ACCEPTS = 256  # connections taken in at once: a flood of them does not hold up the messages
PAUSE_S = 1.0  # without new connections, where the system has no descriptor left
RETRY_S = 0.5
EVERYWHERE = ("0.0.0.0", "::")  # as a socket names all addresses of a machine
ANSWER_S = 10.0  # for a hub's answer; after that a caller calls anew


class Lost(Exception):
    """The other end is gone, or says what no process of a run says."""


class Wire:
    """One connection, which never blocks. Threads may send at the same time; one of them receives.

    Args:
        sock: a connected socket.
        longest: bytes that a line may have.
    """

    def __init__(self, sock: socket.socket, longest: int = LONGEST) -> None:
        self.sock, self.longest = sock, longest
        self._heard_at = time.monotonic()
        self._rest, self._unsent, self._lock = b"", b"", threading.Lock()
        self._held: list[dict] = []  # messages that came in one read with the hub's welcome
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _set_options(sock)

    def fileno(self) -> int:
        """Return the socket's descriptor, by which a selector knows it."""
        return self.sock.fileno()

    @property
    def silent_s(self) -> float:
        """Seconds since the last message came, or since there is a connection."""
        return time.monotonic() - self._heard_at

    def send(self, **message: object) -> None:
        """Send a message. Raises Lost."""
        self.send_line(encode(message))

    def send_line(self, line: bytes) -> None:
        """Send an encoded message; what the other end does not take yet goes with the next.

        Raises:
            Lost: the other end is gone, or has not read for long.
        """
        with self._lock:
            self._unsent += line
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                pass  # its buffer is full
            except OSError as error:
                raise Lost(str(error)) from None
            if len(self._unsent) > LONGEST:
                raise Lost("it has not read for a long time")

    def receive(self) -> list[dict]:
        """The messages of one read, perhaps none.

        Raises:
            Lost: after the last message has been handed out.
        """
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Lost(str(error)) from None
        if not data:
            raise Lost("the connection was closed")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, [*lines, self._rest])) > self.longest:
            raise Lost(f"it sent a line of more than {self.longest} bytes")
        if lines:
            self._heard_at = time.monotonic()
        return [decode(line) for line in lines]

    def wait(self, seconds: float) -> list[dict]:
        """The messages that come within so many seconds, as soon as there are some. Raises Lost."""
        if self._held:
            messages, self._held = self._held, []
            return messages
        poll = select.poll()  # select() ends at descriptor 1024
        poll.register(self.sock, select.POLLIN)
        return self.receive() if poll.poll(max(0.0, seconds) * 1000) else []

    def wait_for_one(self, seconds: float) -> dict:
        """The next message; those after it are kept for ``wait``.

        Raises:
            Lost: also where none comes in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            messages = self.wait(deadline - time.monotonic())
            if messages:
                self._held = messages[1:]
                return messages[0]
        raise Lost(f"no answer within {seconds:.0f} s")

    def close(self) -> None:
        """Close the connection, which the other end then learns."""
        with contextlib.suppress(OSError):
            self.sock.close()


class Hub:
    """The end that listens.

    Who proved to be one of the expected numbers is a member, else a stranger.

    Args:
        listener: a listening socket.
        token: the run's secret.
        numbers: those that are expected.
        clock: gives seconds.
    Attributes:
        members: {number: Wire}.
        names: {number: what it calls itself}, also of those that are gone.
    """

    def __init__(
        self,
        listener: socket.socket,
        token: str,
        numbers: Iterable[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.listener, self.token, self.clock = listener, token, clock
        self.numbers = frozenset(numbers)
        self.members: dict[int, Wire] = {}
        self.names: dict[int, str] = {}
        # The oldest first, each with its nonce and when it came.
        self.strangers: dict[Wire, tuple[str, float]] = {}
        self._number_of: dict[Wire, int] = {}
        self._news: list[tuple[int, Wire, Lost]] = []
        self._paused_until: float | None = None
        # epoll, and kept: its cost grows with those that have news, not with those that are there.
        self.selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)

    @property
    def missing(self) -> list[int]:
        """Numbers that never came."""
        if len(self.names) == len(self.numbers):
            return []
        return sorted(self.numbers - self.names.keys())

    def poll(self, seconds: float) -> list[tuple[int, dict | Lost]]:
        """All that has come, as soon as there is something: one wait, one read of each with news.

        Returns:
            [(number, message), ...]. A new member comes as {"joined": name}, one that is gone as
            a Lost.
        """
        self._dismiss_strangers()
        self._resume_accepting()
        out = []
        for key, _ in self.selector.select(0 if self._news else max(0.0, seconds)):
            if key.fileobj is self.listener:
                self._accept()
            elif key.fileobj in self.strangers:
                out += self._hear_stranger(key.fileobj)
            elif key.fileobj in self._number_of:
                out += self._hear_member(self._number_of[key.fileobj])
        while self._news:
            number, wire, error = self._news.pop(0)
            if self.members.get(number) is wire:
                self._let_go(number)
                out.append((number, error))
        return out

    def send(self, number: int, **message: object) -> None:
        """Send one member a message; the next poll reports that it is gone."""
        self._send_line(number, encode(message))

    def tell(self, **message: object) -> None:
        """Send all members a message."""
        line = encode(message)
        for number in list(self.members):
            self._send_line(number, line)

    def close(self) -> None:
        """Close all connections, and listen no more."""
        for wire in [*self.members.values(), *self.strangers]:
            wire.close()
        self.listener.close()
        self.selector.close()

    def _send_line(self, number, line):
        wire = self.members.get(number)
        if wire is not None:
            try:
                wire.send_line(line)
            except Lost as error:
                self._news.append((number, wire, error))

    def _hear_member(self, number):
        wire = self.members[number]
        try:
            return [(number, message) for message in wire.receive()]
        except Lost as error:
            self._let_go(number)
            return [(number, error)]

    def _let_go(self, number):
        wire = self.members.pop(number)
        del self._number_of[wire]
        self._close(wire)

    def _accept(self):
        for _ in range(ACCEPTS):
            try:
                sock = self.listener.accept()[0]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._free_descriptors()
                    return
                continue  # the caller has given up already
            self._greet(sock)

    def _greet(self, sock):
        wire, nonce = Wire(sock, SHORT), secrets.token_hex(16)
        try:
            wire.send(nonce=nonce)
        except Lost:
            wire.close()
            return
        while len(self.strangers) >= STRANGERS + len(self.numbers):
            self._dismiss(next(iter(self.strangers)))
        self.strangers[wire] = nonce, self.clock()
        self.selector.register(wire, selectors.EVENT_READ)

    def _free_descriptors(self):
        """No descriptor is left: strangers go; without any, nobody is let in for a moment."""
        if self.strangers:
            for wire in list(self.strangers)[: 1 + len(self.strangers) // 2]:
                self._dismiss(wire)
            return
        self.selector.unregister(self.listener)
        self._paused_until = self.clock() + PAUSE_S

    def _resume_accepting(self):
        if self._paused_until is not None and self.clock() >= self._paused_until:
            self._paused_until = None
            self.selector.register(self.listener, selectors.EVENT_READ)

    def _dismiss_strangers(self):
        for wire, (_, came) in list(self.strangers.items()):
            if self.clock() - came <= STRANGER_S:
                return  # those after it came later
            self._dismiss(wire)

    def _dismiss(self, wire):
        del self.strangers[wire]
        self._close(wire)

    def _close(self, wire):
        self.selector.unregister(wire)
        wire.close()

    def _hear_stranger(self, wire):
        try:
            messages = wire.receive()
            if not messages:
                return []
            own, hello = self.strangers[wire][0], messages[0]
            number, name = self._check(hello, own)
            wire.send(welcome=_proof(self.token, "hub", own, hello["nonce"], number, name))
        except Lost:
            self._dismiss(wire)
            return []
        if number in self.members:
            self._let_go(number)  # it did not hear the first welcome and called again
        del self.strangers[wire]
        self.admit(wire, number, name)
        return [(number, {"joined": name}), *((number, message) for message in messages[1:])]

    def admit(self, wire: Wire, number: int, name: str) -> None:
        """Take a connection in whose other end is proven to be this member."""
        wire.longest = LONGEST
        if wire not in self.selector.get_map():
            self.selector.register(wire, selectors.EVENT_READ)
        self.members[number], self.names[number], self._number_of[wire] = wire, name, number

    def _check(self, hello, nonce):
        """(number, name) of a caller that has proven itself; raises Lost."""
        number, texts = hello.get("number"), [hello.get(key) for key in ("name", "nonce", "proof")]
        sound = type(number) is int and number in self.numbers
        if not sound or not all(isinstance(text, str) for text in texts):
            raise Lost("it says nothing that a member says")
        name, theirs, proof = texts
        if not _same(proof, _proof(self.token, "caller", nonce, theirs, number, name)):
            raise Lost("it does not know the token")
        return number, name


@dataclass(frozen=True)
class Meeting:
    """Where a hub is found and how its callers prove themselves.

    Who opened the hub publishes it to those who may join, and to nobody else: it holds the token.
    """

    address: str
    port: int
    token: str

    def join(self, number: int, name: str, seconds: float) -> Wire:
        """Return the proven connection to the hub; see the function ``join``."""
        return join(self.address, self.port, self.token, number, name, seconds)


def open_hub(address: str | None, known_as: str, numbers: Iterable[int]) -> tuple[Hub, Meeting]:
    """Open a hub on a free port, with a token of its own.

    Args:
        address: of this machine, to listen at that alone; None: at all of them.
        known_as: under which the others call this machine, where the hub listens at all addresses.
        numbers: the members that are expected.
    Raises:
        OSError: it cannot listen.
    """
    listener = listen_at(address)
    host, port = listener.getsockname()[:2]
    meeting = Meeting(known_as if host in EVERYWHERE else host, port, secrets.token_hex(16))
    return Hub(listener, meeting.token, numbers), meeting


def join(address: str, port: int, token: str, number: int, name: str, seconds: float) -> Wire:
    """Return the proven connection to a hub, calling it again and again for so many seconds.

    Raises:
        Lost: with the last reason.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _join_once(address, port, token, number, name)
        except (OSError, Lost) as error:
            if time.monotonic() > deadline:
                raise Lost(str(error)) from None
        time.sleep(RETRY_S)


def _join_once(address, port, token, number, name):
    wire = Wire(socket.create_connection((address, port), timeout=ANSWER_S))
    try:
        theirs, own = str(wire.wait_for_one(ANSWER_S).get("nonce")), secrets.token_hex(16)
        proof = _proof(token, "caller", theirs, own, number, name)
        wire.send(number=number, name=name, nonce=own, proof=proof)
        welcome = str(wire.wait_for_one(ANSWER_S).get("welcome"))
        if not _same(welcome, _proof(token, "hub", theirs, own, number, name)):
            raise Lost("who listens there does not know this run's token")
    except Lost:
        wire.close()
        raise
    return wire


def encode(message: dict) -> bytes:
    """Return the line of a message."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict:
    """Return the message of a line without its end. Raises Lost where it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Lost("it sent something that is not JSON") from None
    if not isinstance(message, dict):
        raise Lost("it sent JSON that is not a message")
    return message


def _proof(token, role, theirs, own, number, name):
    said = json.dumps([role, theirs, own, number, name]).encode()
    return hmac.new(token.encode(), said, hashlib.sha256).hexdigest()


def _same(one, other):
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())


def _set_options(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that is gone closes nothing: the kernel asks it, and gives up after half a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    patience = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
    for option, value in patience:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
