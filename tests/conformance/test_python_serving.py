"""How a replica shares itself out and how it ends: slots, queue, deadlines, streams, drain."""

import contextlib
import json
import random
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.conformance.replicas import Replica, Replicas
from tests.conformance.test_python_wire import post, read_all, read_until

# Waits until the test has made a file; tells before that it is in.
GATED = """
import os, time
def wait():
    print("in")
    while not os.path.exists(os.environ["FOLDER"] + "/gate"):
        time.sleep(0.002)
def handler(payload, ctx):
    if payload == b"wait":
        wait()
    return payload
"""
GATED_ASYNC = """
import asyncio
gate = asyncio.Event()
async def handler(payload, ctx):
    if payload == b"open":
        gate.set()
    elif payload == b"wait":
        print("in")
        try:
            await gate.wait()
        except asyncio.CancelledError:
            print("cancelled")
            raise
    return payload
"""


def start_gated(replicas: Replicas, env: dict[str, str]) -> Replica:
    return replicas.start(GATED, env)


def open_gate(replica: Replica) -> None:
    (replica.folder / "gate").write_text("")


def send(replica: Replica, body: bytes, *lines: bytes) -> socket.socket:
    client = replica.connect()
    client.sendall(post(b"Content-Length: %d" % len(body), *lines, body=body))
    return client


def answer_of(client: socket.socket, body: bytes) -> bytes:
    with client:
        return read_until(client, b"\r\n\r\n" + body)


class TestSlots:
    def test_beyond_slots_and_queue_requests_are_sent_elsewhere(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "1"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        waiting = send(replica, b"second")
        # Health is answered at once, and after it the second request is known to be in the queue.
        assert replica.request("GET", "/healthz").status == 200
        third = replica.request(body=b"third")
        assert third.status == 503
        assert third.headers["x-ignite-overflow"] == "1"
        assert third.headers["retry-after"] == "1"
        open_gate(replica)
        assert answer_of(running, b"wait")
        assert answer_of(waiting, b"second")

    def test_an_overflow_keeps_the_connection(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "0"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        with replica.connect() as client:
            # A body beyond what is kept for a request without a slot.
            client.sendall(post(b"Content-Length: 600000", body=bytes(300_000)))
            assert b" 503 " in read_until(client, b"}")
            client.sendall(bytes(300_000) + post(b"Content-Length: 1", body=b"x"))
            assert b" 503 " in read_until(client, b"}")
            open_gate(replica)
            assert answer_of(running, b"wait")
            client.sendall(post(b"Content-Length: 1", body=b"x"))
            assert answer_of(client, b"x")

    def test_a_large_body_waits_for_its_slot_and_then_comes_in(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "1"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        body = bytes(3_000_000)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(replica.request, body=body)
            assert replica.request("GET", "/healthz").status == 200
            open_gate(replica)
            assert waiting.result().body == body
        assert answer_of(running, b"wait")

    def test_the_queue_is_first_in_first_out(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        waiting = []
        for number in range(5):
            waiting.append(send(replica, b"%d" % number))
            assert replica.request("GET", "/healthz").status == 200
        open_gate(replica)
        answer_of(running, b"wait")
        order = []
        left = list(waiting)
        while left:
            ready, _, _ = select.select(left, [], [], 10)
            assert ready
            for client in (one for one in waiting if one in ready):
                left.remove(client)
                order.append(read_until(client, b"\r\n\r\n")[-1:] or b"")
                client.close()
        assert order == sorted(order)

    def test_requests_run_at_once_up_to_the_slots(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "3"})
        running = [send(replica, b"wait") for _ in range(3)]
        for _ in running:
            replica.wait_line("in")
        open_gate(replica)
        for client in running:
            assert answer_of(client, b"wait")

    def test_a_request_whose_client_left_the_queue_never_runs(self, replicas: Replicas) -> None:
        code = (
            GATED
            + "real = handler\ndef handler(p, c):\n    print('ran', p)\n    return real(p, c)\n"
        )
        replica = replicas.start(code, {"IGNITE_MAX_CONCURRENCY": "1"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        send(replica, b"gone").close()
        assert replica.request("GET", "/healthz").status == 200
        open_gate(replica)
        assert answer_of(running, b"wait")
        assert replica.call(b"after") == b"after"
        assert not any("gone" in line for line in replica.lines)


class TestDisconnect:
    def test_an_async_handler_is_cancelled(self, replicas: Replicas) -> None:
        replica = replicas.start(GATED_ASYNC, {"IGNITE_MAX_CONCURRENCY": "1"})
        client = send(replica, b"wait")
        replica.wait_line("in")
        client.close()
        replica.wait_line("cancelled")
        assert replica.call(b"next") == b"next"

    def test_a_thread_is_left_to_finish_and_keeps_its_slot(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "0"})
        client = send(replica, b"wait")
        replica.wait_line("in")
        client.close()
        assert replica.request("GET", "/healthz").status == 200
        assert replica.request(body=b"x").status == 503
        open_gate(replica)
        replica.wait_status(200, body=b"x")

    def test_a_large_body_that_ends_early_gives_its_slot_back(self, replicas: Replicas) -> None:
        replica = replicas.start(GATED, {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "0"})
        with replica.connect() as client:
            client.sendall(post(b"Content-Length: 600000", body=bytes(500_000)))
            replica.wait_status(503, body=b"x")
        replica.wait_status(200, body=b"x")

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_generators_are_closed(self, replicas: Replicas, kind: str) -> None:
        sleep = "await asyncio.sleep(0)" if kind == "async def" else "pass"
        replica = replicas.start(
            f"import asyncio\n{kind} handler(p, c):\n    try:\n        while True:\n"
            f"            yield b'x' * 1000\n            {sleep}\n"
            "    finally:\n        print('closed')\n",
            {"IGNITE_MAX_CONCURRENCY": "1"},
        )
        client = send(replica, b"")
        assert client.recv(1000)
        client.close()
        replica.wait_line("closed")
        assert replica.request("GET", "/healthz").status == 200


class TestStreams:
    def test_each_item_is_a_chunk_sent_at_once(self, replicas: Replicas) -> None:
        code = GATED.partition("def handler")[0]
        replica = replicas.start(
            code + "def handler(p, c):\n    yield b'first'\n    wait()\n    yield b'second'\n"
        )
        with send(replica, b"") as client:
            assert read_until(client, b"5\r\nfirst\r\n")
            open_gate(replica)
            assert read_until(client, b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"

    def test_http_1_0_gets_a_stream_without_chunks(self, replicas: Replicas) -> None:
        replica = replicas.start("def handler(p, c):\n    yield b'a'\n    yield b'b'\n")
        with replica.connect() as client:
            client.sendall(b"POST / HTTP/1.0\r\n\r\n")
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == b"ab"

    def test_a_generator_of_an_async_handler_holds_the_slot(self, replicas: Replicas) -> None:
        code = GATED.partition("def handler")[0]
        replica = replicas.start(
            code + "def parts():\n    yield 'a'\n    wait()\nasync def handler(p, c):\n"
            "    return parts()\n",
            {"IGNITE_MAX_CONCURRENCY": "1", "IGNITE_QUEUE_LENGTH": "0"},
        )
        with send(replica, b"") as client:
            replica.wait_line("in")
            assert replica.request().status == 503
            open_gate(replica)
            read_until(client, b"0\r\n\r\n")

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_a_slow_reader_holds_the_generator_back(self, replicas: Replicas, kind: str) -> None:
        replica = replicas.start(
            "made = 0\n"
            f"{kind} handler(p, c):\n    global made\n    if p == b'count':\n"
            "        yield str(made)\n        return\n"
            "    for made in range(500):\n        yield bytes(10_000)\n"
        )
        with send(replica, b"") as client:
            read_until(client, b"\r\n\r\n")
            before = -1
            while (made := int(replica.call(b"count"))) != before:
                before = made
            assert made < 200
            assert read_until(client, b"0\r\n\r\n")
        assert int(replica.call(b"count")) == 499

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_an_error_in_the_middle_breaks_off(self, replicas: Replicas, kind: str) -> None:
        replica = replicas.start(
            f"{kind} handler(p, c):\n    yield b'some'\n    raise ValueError('late')\n"
        )
        with send(replica, b"") as client:
            found = b""
            try:
                while part := client.recv(1000):
                    found += part
            except ConnectionResetError:
                pass
        assert b"4\r\nsome\r\n" in found
        assert not found.endswith(b"0\r\n\r\n")
        replica.wait_line("ValueError: late")
        assert replica.request("GET", "/healthz").status == 200


class TestDeadline:
    def test_an_async_handler_is_cancelled(self, replicas: Replicas) -> None:
        replica = replicas.start(GATED_ASYNC, {"IGNITE_TIMEOUT_SECS": "0.2"})
        answer = replica.request(body=b"wait")
        assert answer.status == 504
        assert json.loads(answer.body)["type"] == "Timeout"
        replica.wait_line("cancelled")
        assert replica.request("GET", "/healthz").status == 200

    def test_a_stuck_thread_taints_the_replica_which_ends(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_TIMEOUT_SECS": "0.2"})
        assert replica.request(body=b"wait").status == 504
        replica.wait_line("stuck past its deadline")
        assert replica.request("GET", "/healthz").status == 503
        assert replica.request(body=b"rest").body == b"rest"
        assert replica.wait() == 5

    def test_a_thread_that_is_a_little_late_taints_nothing(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_TIMEOUT_SECS": "0.2"})
        assert replica.request(body=b"wait").status == 504
        open_gate(replica)
        assert replica.call(b"x") == b"x"
        assert replica.request("GET", "/healthz").status == 200

    def test_a_blocked_event_loop_ends_the_replica(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import time\nasync def handler(p, c):\n    time.sleep(60)\n",
            {"IGNITE_TIMEOUT_SECS": "0.1"},
        )
        with send(replica, b""):
            assert replica.wait() == 5
        replica.wait_line("blocks the event loop")

    def test_a_stream_past_its_deadline_breaks_off(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import time\ndef handler(p, c):\n    while True:\n        yield b'x'\n"
            "        time.sleep(0.01)\n",
            {"IGNITE_TIMEOUT_SECS": "0.3"},
        )
        with send(replica, b"") as client:
            found = b""
            try:
                while part := client.recv(1000):
                    found += part
            except ConnectionResetError:
                pass
        assert not found.endswith(b"0\r\n\r\n")
        assert replica.request("GET", "/healthz").status == 200

    def test_a_body_that_does_not_come_is_not_waited_for(self, replicas: Replicas) -> None:
        replica = replicas.start(GATED, {"IGNITE_TIMEOUT_SECS": "0.2"})
        with replica.connect() as client:
            client.sendall(post(b"Content-Length: 9", body=b"abc"))
            assert b" 408 " in read_all(client)


class TestDrain:
    def test_what_is_under_way_and_queued_is_finished(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_MAX_CONCURRENCY": "1"})
        running = send(replica, b"wait")
        replica.wait_line("in")
        queued = send(replica, b"queued")
        assert replica.request("GET", "/healthz").status == 200
        replica.signal()
        # New connections are still taken while it drains.
        replica.wait_status(503, "GET", "/healthz")
        late = send(replica, b"late")
        assert replica.process.poll() is None
        open_gate(replica)
        for client, body in ((running, b"wait"), (queued, b"queued"), (late, b"late")):
            assert b"Connection: close" in answer_of(client, body)
        assert replica.wait() == 0

    def test_an_idle_connection_is_kept_until_the_end(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {})
        with replica.connect() as idle:
            running = send(replica, b"wait")
            replica.wait_line("in")
            replica.signal()
            replica.wait_status(503, "GET", "/healthz")
            idle.sendall(post(b"Content-Length: 1", body=b"x"))
            assert answer_of(idle, b"x")
            open_gate(replica)
            assert answer_of(running, b"wait")
        assert replica.wait() == 0

    def test_what_comes_together_with_the_signal_is_served(self, replicas: Replicas) -> None:
        replica = replicas.start(GATED)
        with replica.connect() as idle:
            idle.sendall(post(b"Content-Length: 1", body=b"1"))
            read_until(idle, b"\r\n\r\n1")
            replica.signal(signal.SIGSTOP)
            replica.signal()
            idle.sendall(post(b"Content-Length: 1", body=b"2"))
            fresh = send(replica, b"3")
            replica.signal(signal.SIGCONT)
            assert answer_of(idle, b"2")
            assert answer_of(fresh, b"3")
        assert replica.wait() == 0

    def test_a_slow_reader_gets_all_of_the_last_answer(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "def handler(p, c):\n    print('made')\n    return bytes(3_000_000)\n"
        )
        with send(replica, b"", b"Connection: close") as client:
            replica.wait_line("made")
            replica.signal()
            _, _, body = read_all(client).partition(b"\r\n\r\n")
        assert len(body) == 3_000_000
        assert replica.wait() == 0

    def test_exit_functions_and_tasks_get_their_end(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import asyncio, atexit, threading\natexit.register(print, 'bye')\n"
            "threading.Thread(target=threading.Event().wait).start()\n"
            "async def background():\n    try:\n        await asyncio.Event().wait()\n"
            "    finally:\n        print('task ended')\n"
            "tasks = []\nasync def handler(p, c):\n"
            "    tasks.append(asyncio.ensure_future(background()))\n    await asyncio.sleep(0)\n"
        )
        assert replica.call() == b"null"
        replica.signal()
        replica.wait_line("task ended")
        replica.wait_line("bye")
        assert replica.wait() == 0

    def test_a_stuck_thread_does_not_hold_the_end_up(self, replicas: Replicas) -> None:
        replica = start_gated(replicas, {"IGNITE_TIMEOUT_SECS": "0.2"})
        assert replica.request(body=b"wait").status == 504
        replica.signal(signal.SIGTERM)
        assert replica.wait() == 0


class TestComingAndGoing:
    """Slots are neither lost nor doubled: a replica with a lost one never drains."""

    @pytest.mark.parametrize("seed", range(3))
    def test_clients_that_leave_at_any_moment(self, replicas: Replicas, seed: int) -> None:
        replica = replicas.start(
            "import asyncio, random, time\n"
            "async def slow(p):\n    await asyncio.sleep(random.random() / 50)\n    return p\n"
            "async def pieces(p):\n    for _ in range(5):\n        yield p\n"
            "        await asyncio.sleep(random.random() / 200)\n"
            "def parts(p):\n    for _ in range(5):\n        yield p\n"
            "        time.sleep(random.random() / 200)\n"
            "def plain(p):\n    time.sleep(random.random() / 100)\n    return p\n"
            "def fails(p):\n    raise ValueError(p)\n"
            "kinds = (slow, pieces, parts, plain, fails)\n"
            "def handler(p, c):\n    return random.choice(kinds)(p)\n",
            {"IGNITE_MAX_CONCURRENCY": "4", "IGNITE_QUEUE_LENGTH": "8"},
        )
        chance = random.Random(seed)
        moments = [chance.random() / 30 for _ in range(300)]

        def come_and_go(moment: float) -> None:
            body = bytes(int(moment * 1e7))
            message = post(b"Content-Length: %d" % len(body), body=body)
            with replica.connect() as client, contextlib.suppress(OSError):
                client.sendall(message[: int(len(message) * min(1, moment * 60))])
                select.select([client], [], [], moment)
                client.settimeout(moment)
                client.recv(65536)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(come_and_go, moments))
        # Every slot is there again once the last threads are done: a drain ends.
        assert replica.request().status in (200, 500)
        replica.signal()
        assert replica.wait() == 0
