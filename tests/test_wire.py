"""Who may talk: strangers at the ports of a run; and how little hundreds of ranks cost."""

import contextlib
import errno
import json
import os
import resource
import selectors
import socket
import stat
import threading
import time

import pytest

from engine.distributed import transport
from engine.distributed.addresses import listen_at, own_address
from engine.distributed.heartbeat import TICK_S, Known, Watch
from engine.distributed.rank_env import RankEnv
from engine.distributed.transport import Hub, Lost, Meeting, Wire, join
from slurm import job_record
from slurm.supervisor import supervise
from slurm.supervisor.allocation import THIS_MACHINE

TOKEN = "secret-of-the-run"
GARBAGE = [
    b"1\n",
    b"\x00\xff\xfe\x80" * 50 + b"\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"[1, 2]\n",
    b'"text"\n',
    b"null\n",
    b"{}\n",
    b'{"token": "secret"}\n',
    b"[" * 1000 + b"\n",
    b"x" * 5000,
    b'{"number": 1' + b" " * 2000,
    json.dumps({"number": 1, "name": "n", "nonce": "a", "proof": "0" * 64}).encode() + b"\n",
    json.dumps({"number": True, "name": "n", "nonce": "a", "proof": "\ud800"}).encode() + b"\n",
    json.dumps({"number": [1], "name": 2, "nonce": None, "proof": {}}).encode() + b"\n",
    b"1" * 900 + b"\n",
]


@pytest.fixture
def many_files():
    """Room for two thousand sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4000:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def hub():
    made = Hub(listen_at("127.0.0.1"), TOKEN, range(1, 4))
    yield made
    made.close()


def address(hub):
    return hub.listener.getsockname()[:2]


def joined(hub, number, token=TOKEN, seconds=20.0):
    """The Wire of a member that joins while the hub is polled; and all that the hub heard
    meanwhile."""
    out, heard = [], []
    thread = threading.Thread(
        target=lambda: out.append(join(*address(hub), token, number, f"host{number}", seconds))
    )
    thread.start()
    while thread.is_alive():
        heard += hub.poll(0.02)
    return out[0], heard


def test_strangers_are_never_heard_and_members_are(hub):
    strangers = []
    for words in GARBAGE:
        strangers.append(socket.create_connection(address(hub)))
        strangers[-1].sendall(words)
    member, heard = joined(hub, 2)
    deadline = time.monotonic() + 20
    while hub.strangers and time.monotonic() < deadline:
        heard += hub.poll(0.05)
    assert (
        heard == [(2, {"joined": "host2"})] and list(hub.members) == [2] and hub.missing == [1, 3]
    )
    for stranger in strangers:  # they got a number used once, and were hung up on
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            said = stranger.recv(4096)
            assert list(json.loads(said)) == ["nonce"] and stranger.recv(4096) == b""
        stranger.close()
    member.send(word="hello")
    hub.send(2, word="hi")
    hub.tell(all=True)
    assert hub.poll(5) == [(2, {"word": "hello"})]
    assert member.wait(5) + member.wait(0.1) == [{"word": "hi"}, {"all": True}]
    member.close()
    ((number, gone),) = hub.poll(5)
    assert number == 2 and isinstance(gone, Lost) and hub.members == {} and hub.missing == [1, 3]


def test_the_token_does_not_travel_and_an_impostor_is_not_believed(monkeypatch):
    """Somebody who took the port over gets nothing that he could use, and can tell nobody
    anything."""
    monkeypatch.setattr(transport, "ANSWER_S", 5.0)
    said, failed = [], []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def call():
            with pytest.raises(Lost) as error:
                join(*server.getsockname(), TOKEN, 1, "host1", 0)
            failed.append(str(error.value))

        thread = threading.Thread(target=call)
        thread.start()
        with server.accept()[0] as caller:
            caller.sendall(b'{"nonce": "chosen"}\n')
            said.append(caller.recv(4096))
            # Its own proof, sent back to it, is that of a caller and not of a hub.
            caller.sendall(
                json.dumps({"welcome": json.loads(said[0])["proof"], "leave": 0}).encode() + b"\n"
            )
            thread.join()
    assert TOKEN.encode() not in said[0] and failed == [
        "who listens there does not know this run's token"
    ]


def test_a_proof_holds_for_one_connection_and_one_number(hub):
    with (
        socket.create_connection(address(hub)) as first,
        socket.create_connection(address(hub)) as second,
    ):
        hub.poll(1)
        hub.poll(0)
        nonces = [json.loads(one.recv(4096))["nonce"] for one in (first, second)]
        assert nonces[0] != nonces[1]
        hello = {"number": 1, "name": "a", "nonce": "b"}
        proof = transport._proof(TOKEN, "caller", nonces[0], "b", 1, "a")
        second.sendall(transport.encode({**hello, "proof": proof}))
        first.sendall(transport.encode({**hello, "number": 2, "proof": proof}))
        deadline = time.monotonic() + 10
        while hub.strangers and time.monotonic() < deadline:
            assert hub.poll(0.05) == []
        assert not hub.strangers and not hub.members


def test_idle_connections_by_the_thousand_keep_nobody_out(many_files):
    now = [0.0]
    hub = Hub(listen_at("127.0.0.1"), TOKEN, range(1, 4), clock=lambda: now[0])
    idle = []
    # The system gives the numbers of those that it hangs up on out again.
    more = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    for _ in range(1100):
        idle.append(socket.create_connection(address(hub)))
        if len(idle) % 200 == 0:
            hub.poll(0)
    member, heard = joined(hub, 3)
    assert heard == [(3, {"joined": "host3"})] and member.fileno() > 1024
    assert 0 < len(hub.strangers) <= transport.STRANGERS + 3
    now[0] = transport.STRANGER_S + 1
    hub.poll(0)
    assert not hub.strangers and list(hub.members) == [3]
    assert len(hub.selector.get_map()) == 2  # the listener and the member: nothing is left behind
    for file in more:
        os.close(file)
    for sock in idle:
        sock.close()
    hub.close()


def test_without_descriptors_strangers_go_and_nothing_spins():
    class Full:
        """A listener whose system has no descriptor left."""

        def __init__(self):
            self.sock, self.calls = listen_at("127.0.0.1"), 0

        def accept(self):
            self.calls += 1
            raise OSError(errno.EMFILE, "too many open files")

        def __getattr__(self, name):
            return getattr(self.sock, name)

    now = [0.0]
    hub = Hub(Full(), TOKEN, [1], clock=lambda: now[0])
    pairs = [socket.socketpair() for _ in range(4)]
    for one, _ in pairs:
        hub._greet(one)
    with socket.create_connection(address(hub)):
        counts = []
        for _ in range(4):
            hub.poll(0)
            counts.append(len(hub.strangers))
        assert counts == [1, 0, 0, 0] and hub.listener.calls == 3
        hub.poll(0)
        assert hub.listener.calls == 3  # nobody is asked for a while
        now[0] = 2.0
        hub.poll(0)
        assert hub.listener.calls == 4
    hub.close()


def test_a_member_that_talks_nonsense_is_gone_and_the_others_stay(hub):
    one, _ = joined(hub, 1)
    two, _ = joined(hub, 2)
    one.sock.send(b"[]\n")
    two.send(now=1)
    heard = dict(hub.poll(5))
    assert isinstance(heard.pop(1), Lost) and (heard or dict(hub.poll(5))) == {2: {"now": 1}}
    again, heard = joined(hub, 2)  # it did not hear the welcome: the newer connection counts
    assert heard == [(2, {"joined": "host2"})] and list(hub.members) == [2]
    again.send(now=2)
    assert hub.poll(5) == [(2, {"now": 2})]


class Counted:
    """A socket that counts its system calls."""

    def __init__(self, sock, calls):
        self.sock, self.calls = sock, calls

    def recv(self, size):
        self.calls["recv"] += 1
        return self.sock.recv(size)

    def send(self, data):
        self.calls["send"] += 1
        return self.sock.send(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


@pytest.fixture
def crowd(many_files):
    """A hub of 512 members: (hub, [their ends], {name of a system call: how often})."""
    calls = {"recv": 0, "send": 0, "select": 0}
    hub = Hub(listen_at("127.0.0.1"), TOKEN, range(1, 513))
    select = hub.selector.select

    def counted(seconds):
        calls["select"] += 1
        return select(seconds)

    hub.selector.select = counted
    ends = []
    for number in range(1, 513):
        here, there = socket.socketpair()
        hub.admit(Wire(Counted(here, calls)), number, "host")
        ends.append(there)
    yield hub, ends, calls
    for end in ends:
        end.close()
    hub.close()


def test_a_tick_of_512_ranks_is_one_wait_and_one_read_each(crowd):
    hub, ends, calls = crowd
    assert isinstance(hub.selector, getattr(selectors, "EpollSelector", selectors.BaseSelector))
    for turn in range(3):
        for end in ends:
            end.sendall(b'{"now": [1, 0, 7, "in forward and backward"]}\n' * 3)
        heard = hub.poll(0)
        assert len(heard) == 3 * 512 and calls == {
            "recv": 512 * (turn + 1),
            "send": 512 * turn,
            "select": turn + 1,
        }
        hub.tell(now=[1, 0, 7, "saving"])
        assert calls["send"] == 512 * (turn + 1)
    # Where a single one has news, a single one is read.
    before = calls["recv"]
    ends[17].sendall(b'{"bye": true}\n')
    assert hub.poll(0) == [(18, {"bye": True})] and calls["recv"] == before + 1


def test_rank_0_is_not_woken_by_messages(crowd):
    """Ranks that talk all the time cost it one look in a tick."""
    hub, ends, calls = crowd
    watch = Watch(RankEnv(), 1000)
    watch.known = {rank: Known() for rank in range(513)}
    began, watch.hub = time.monotonic(), hub
    for turn in range(40):
        for rank in range(turn % 8, 512, 8):
            ends[rank].sendall(b'{"now": [1, %d, 7, "training"]}\n' % turn)
        time.sleep(0.05)
    deadline = time.monotonic() + 20
    while (
        any(known.now[1] < 32 for rank, known in watch.known.items() if rank)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    watch._ended.set()
    assert calls["select"] <= (time.monotonic() - began) / TICK_S + 2
    last = {(1, turn, 7, "training") for turn in range(32, 40)}
    assert {watch.known[rank].now for rank in range(1, 513)} == last


def job(folder):
    made = job_record.Job(
        words=["toy"],
        arguments=[],
        folder=str(folder),
        cwd=str(folder),
        code=str(folder),
        python="python3",
        training=True,
        nodes=2,
        ranks=1,
        settings={"retries": 0, "lost_s": 60.0, "hours": 1, "warn_s": 1},
    )
    made.save()
    return made


def test_a_job_continues_whatever_strangers_say_to_its_coordinator(tmp_path, many_files):
    listener = listen_at("127.0.0.1")
    hub = Hub(listener, TOKEN, range(2))
    coordinator = supervise.Coordinator(job(tmp_path), THIS_MACHINE, hub, "127.0.0.1")
    coordinator.start()
    where = listener.getsockname()
    strangers = [socket.create_connection(where) for _ in range(1100)]
    for number, words in enumerate(GARBAGE):
        strangers[-1 - number].sendall(words)
    nodes = [join(*where, TOKEN, number, f"node{number}", 30) for number in range(2)]
    for node in nodes:
        assert (
            next(message for message in iter(lambda node=node: one_of(node, "start"), None))[
                "address"
            ]
            == "127.0.0.1"
        )
    for number, node in enumerate(nodes):
        node.send(end={"rank": number, "code": 0, "reason": ""})
    assert [
        one_of(nodes[1], "leave")["leave"],
        nodes[1].close(),
        one_of(nodes[0], "leave")["leave"],
    ] == [0, None, 0]
    coordinator.join(20)
    events = [
        (line["event"], line.get("nodes")) for line in job_record.read_events(tmp_path / "slurm")
    ]
    assert events == [("start", ["node0", "node1"]), ("done", None)]
    for sock in strangers:
        sock.close()


def one_of(node, key):
    """The next message with a key."""
    while True:
        message = node.wait_for_one(20)
        if key in message:
            return message


def test_the_file_with_the_token_is_its_owner_s_alone_from_birth(tmp_path, monkeypatch):
    seen, replace, mask = [], os.replace, os.umask(0)
    path = tmp_path / "meeting.json"

    def watched(old, new):
        seen.append(stat.S_IMODE(os.stat(old).st_mode))
        replace(old, new)

    monkeypatch.setattr(os, "replace", watched)
    try:
        (tmp_path / f"meeting.json.writing-{os.getpid()}").write_text("left by another")
        supervise._publish(path, Meeting("node0", 4711, TOKEN), THIS_MACHINE)
    finally:
        os.umask(mask)
    assert seen == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["token"] == TOKEN and list(tmp_path.iterdir()) == [path]


def test_it_listens_where_it_is_wanted_and_nowhere_else(monkeypatch):
    assert listen_at("127.0.0.1").getsockname()[0] == "127.0.0.1"
    assert listen_at("192.0.2.1").getsockname()[0] in (
        "0.0.0.0",
        "::",
    )  # no address of this machine: all of them
    known = {"node0": ["10.0.0.5"], "both": ["10.0.0.5", "10.1.0.5"], "self": ["127.0.1.1"]}
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in known[host]
        ],
    )
    cases = [("node0", False), ("node0", True), ("both", False), ("self", False), ("self", True)]
    assert [own_address(*case) for case in cases] == [
        "10.0.0.5",
        "10.0.0.5",
        None,
        None,
        "127.0.1.1",
    ]
