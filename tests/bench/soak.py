"""Tests that are too long for the suite: python -m tests.bench.soak PART [--count N]

Each part repeats a test of the suite many times, stops at the first failure, and prints the figures.
"""

import argparse
import http.client
import itertools
import json
import re
import resource
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

from scene.answer.classifier import PRETRAINED
from scene.answer.endpoint import FOR_OTHERS
from scene.serve import BODY_SECONDS, GOODBYE_SECONDS, HEADER_SECONDS, THREADS
from tests import crash, sorting
from tests.asking import Server, body, receive, request
from tests.fuzz import DAMAGES, is_refused, saved, saved_as_format_1
from tests.hostile import KINDS
from tests.trap import MEMORY, Endpoint

ROOT = Path(__file__).parents[2]
RATE = 50                   # requests a second
CLIENTS = 16                # connections that they come on
HOSTILE = 0.04              # share of hostile requests
CROWD = 300                 # connections at once, far more than scene.serve has threads


def modelfiles(count):
    """Damaged and false model files: each is refused or equals the true one."""
    with tempfile.TemporaryDirectory() as folder:
        true = [saved(Path(folder)), saved_as_format_1()]
    outcomes = Counter()
    slowest = 0
    started = time.perf_counter()
    memory = peak()
    for i in range(count):
        damage = DAMAGES[i % len(DAMAGES)]
        broken = damage(true[i // len(DAMAGES) % 2], Random(i))
        start = time.perf_counter()
        outcomes[damage.__name__, is_refused(broken)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    for damage in DAMAGES:
        refused, same = (outcomes[damage.__name__, outcome] for outcome in (True, False))
        print(f"{damage.__name__:21} {refused:7} refused {same:7} equal to the true file")
    print(f"{count} model files in {time.perf_counter() - started:.0f} s: no crash, no changed weight, "
          f"class or setting accepted; the slowest took {1000 * slowest:.0f} ms, "
          f"memory grew by {peak() - memory:.0f} MB")


def requests(count):
    """Hostile requests to the Lambda function: each gets a right answer, and only the log is written."""
    statuses = Counter()
    times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, Endpoint(Path(folder)) as endpoint:
        for i in range(count):
            kind = KINDS[i % len(KINDS)]
            try:
                status, _, seconds = endpoint.ask(kind(Random(i)))
            except AssertionError as error:
                error.add_note(f"{kind.__name__}(Random({i}))")
                raise
            statuses[kind, status] += 1
            times[kind].append(seconds)
        deeds, plugins = endpoint.deeds()
        memory = endpoint.function.peak_memory()
    for kind in KINDS:
        answered = "  ".join(f"{status}: {statuses[kind, status]:4}" for status in (200, 400, 413))
        slowest = 1000 * max(times[kind])
        print(f"{kind.__name__:16} {len(times[kind]):5}   {answered}   slowest {slowest:5.0f} ms")
    every = sorted(seconds for kind in KINDS for seconds in times[kind])
    print(f"{count} requests: no status 5xx, no leaks; {describe(every)}; "
          f"memory at most {memory / 1e6:.0f} MB; "
          f"written or started: {deeds}; decoders imported: {', '.join(sorted(plugins))}")
    assert not deeds and memory < MEMORY and every[int(0.99 * count)] < 1


def describe(times):
    """Sorted seconds as "p50 …, p99 …, slowest …"."""
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, slowest {1000 * times[-1]:.0f} ms"


def serve(seconds):
    """scene.serve with the pretrained models: steady work, then too many clients, then bad ones."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            work_steadily(server, seconds)
            crowd(server)
            keep_waiting(server)
            misbehave(server, "slow headers", HEADER_SECONDS)
            misbehave(server, "slow bodies", BODY_SECONDS + GOODBYE_SECONDS)
            misbehave(server, "less than announced", BODY_SECONDS + GOODBYE_SECONDS)
            misbehave(server, "hung up half-way", 0)
            assert not [line for line in server.lines() if "error" in line]
        finally:
            server.stop()


def bodies():
    """(bodies about the example's photos, hostile bodies), all as bytes."""
    photos = [path.read_bytes() for path in sorted((ROOT / "datasets/test").glob("*/*.jpg"))[::10]]
    good = [body(mode, photo) for photo in photos for mode in PRETRAINED]
    bad = [body_of(kind(Random(i))) for kind in KINDS for i in range(10)]
    return good, [each for each in bad if len(each) <= FOR_OTHERS.max_request]


def body_of(event):
    """The body of an event of API Gateway. Any other event is a body itself."""
    if isinstance(event, dict) and isinstance(event.get("body"), str):
        return event["body"].encode()
    return json.dumps(event).encode()


def work_steadily(server, seconds):
    """Sends requests on a fixed schedule, whether or not earlier ones are answered, for this long."""
    statuses, times, memory = send_on_schedule(server, seconds)
    minute = min(60, len(memory) // 3)
    early, late = (statistics.median(part) for part in (memory[minute:2 * minute], memory[-minute - 1:-1]))
    print(f"{len(times)} requests, {RATE}/s for {seconds} s on {CLIENTS} connections: "
          f"{dict(sorted(statuses.items(), key=str))}; {describe(sorted(times))}; "
          f"memory {early:.1f} MB in the second {minute} s, {late:.1f} MB in the last "
          f"({late / early - 1:+.1%}), at most {max(memory):.0f} MB", flush=True)
    assert set(statuses) <= {200, 400, 413} and abs(late / early - 1) < 0.05


def send_on_schedule(server, seconds):
    """(Counter of statuses, seconds from each request's due time to its answer, memory in MB each second)."""
    good, bad = bodies()
    statuses = Counter()
    times = []
    turns = itertools.count()
    started = time.perf_counter() + 1

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for i in turns:
            due = started + i / RATE
            random = Random(i)
            if due >= started + seconds:
                return
            time.sleep(max(0, due - time.perf_counter()))
            try:
                data = random.choice(bad if random.random() < HOSTILE else good)
                connection.request("POST", "/get_scene", data)
                response = connection.getresponse()
                response.read()
                statuses[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
                connection.close()
            times.append(time.perf_counter() - due)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        memory = []
        while not all(each.done() for each in clients):
            memory.append(resident(server))
            time.sleep(1)
        for each in clients:
            each.result()
    return statuses, times, memory


def crowd(server):
    """Many more connections than threads, each with a request: it is answered, or refused at once."""
    good = request(data=body(), head="Connection: close\r\n")
    outcomes = []
    together = threading.Barrier(CROWD)

    def client(_):
        together.wait()
        started = time.perf_counter()
        try:
            with server.connect() as connection:
                connection.sendall(good)
                outcomes.append((receive(connection)[0], time.perf_counter() - started))
        except OSError as error:
            outcomes.append((type(error).__name__, time.perf_counter() - started))

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(client, range(CROWD)))
    said = [f"{outcome} {len(times)} times, {describe(times)}" for outcome, times in grouped(outcomes)]
    print(f"{CROWD} connections with a request each at once: {'; '.join(said)}", flush=True)
    assert {outcome for outcome, _ in outcomes} <= {200, 503}


def keep_waiting(server):
    """As many silent connections as threads: others are refused at once, until the silent ones leave."""
    held = [server.connect() for _ in range(THREADS - 2)]
    refused = []
    for _ in range(CROWD):
        started = time.perf_counter()
        with server.connect() as connection:
            refused.append((receive(connection)[0], time.perf_counter() - started))
    left = time.perf_counter()
    for connection in held:
        connection.close()
    recovered = until_answered(server, left)
    ((outcome, times),) = grouped(refused)
    print(f"{len(held)} silent connections, {CROWD} more: {outcome} {len(times)} times, {describe(times)}; "
          f"it answers again {recovered:.2f} s after they left", flush=True)
    assert outcome == 503 and recovered < 5


def grouped(outcomes):
    """[(outcome, time)] -> [(outcome, its sorted times)]"""
    groups = defaultdict(list)
    for outcome, seconds in outcomes:
        groups[outcome].append(seconds)
    return sorted((outcome, sorted(times)) for outcome, times in groups.items())


def until_answered(server, since):
    """Seconds until a request is answered with a scene."""
    while server.send(request("Connection: close\r\n", body()))[0] != 200:
        time.sleep(0.05)
    return time.perf_counter() - since


def misbehave(server, how, patience):
    """Twenty bad clients: how many threads they take, for how long, and how long another client waits."""
    time.sleep(1)                                           # until the threads of earlier clients have ended
    whole = request(data=body())
    idle = server.threads()
    first = {"slow headers": 10, "slow bodies": 500, "less than announced": -1, "hung up half-way": 500}[how]
    clients = [server.connect() for _ in range(20)]
    started = time.perf_counter()
    for client in clients:
        client.sendall(whole[:first])
    if how == "hung up half-way":
        for client in clients:
            client.close()
    other = until_answered(server, time.perf_counter())
    time.sleep(0.2)                                         # until that client's thread has ended
    busy = [server.threads() - idle]
    rest = whole[first:] if how.startswith("slow") else b""
    for at in range(99):
        if busy[-1] <= 0:
            break
        time.sleep(0.2)
        for client in clients:
            with suppress(OSError):                         # the server has hung up
                client.sendall(rest[at:at + 1])
        busy.append(server.threads() - idle)
    took = time.perf_counter() - started
    for client in clients:
        client.close()
    print(f"20 clients, {how}: {max(busy)} threads for {took:.1f} s (time-out {patience} s); "
          f"another client waited {1000 * other:.0f} ms", flush=True)
    assert max(busy) <= 20 and took < patience + 2


def resident(server):
    return proc(server, "VmRSS") / 1024


def proc(server, name):
    """A figure from the process's status in /proc."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])


def peak():
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {                                                   # functions, and how often unless --count says
    "modelfiles": (modelfiles, 100_000),
    "kills": (crash.kills, 200),
    "resumes": (crash.resumes, 20),
    "pairs": (crash.pairs, 100),
    "sort": (sorting.sorts, 200),
    "requests": (requests, 10_000),
    "serve": (serve, 600),                                  # seconds
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    work, usual = PARTS[options.part]
    work(options.count or usual)
