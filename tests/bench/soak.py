"""What is too long for the suite: python -m tests.bench.soak PART [--count N]

Each part repeats for long what a test does for a second, ends with an error at the first failure, and prints what was tried.
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

from scene.endpoint import MAX_REQUEST
from scene.serve import BODY_SECONDS, GOODBYE_SECONDS, HEADER_SECONDS, THREADS
from tests import crash
from tests.fuzz import DAMAGES
from tests.hostile import KINDS
from tests.test_endpoint import body
from tests.test_hostile import MEMORY, Endpoint
from tests.test_modelfile import is_refused, saved
from tests.test_serve import Server, receive, request

ROOT = Path(__file__).parents[2]
RATE, CLIENTS, HOSTILE = 50, 16, 0.04       # requests a second, connections that they come on, share of hostile ones
CROWD = 300                                 # connections at once, far more than scene.serve has threads


def modelfiles(count):
    """Damaged and lying model files: each is refused, or says the same as the true one."""
    with tempfile.TemporaryDirectory() as folder:
        data = saved(Path(folder))
    outcomes, slowest, started, memory = Counter(), 0, time.perf_counter(), peak()
    for i in range(count):
        damage = DAMAGES[i % len(DAMAGES)]
        broken = damage(data, Random(i))
        start = time.perf_counter()
        outcomes[damage.__name__, is_refused(broken)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    for damage in DAMAGES:
        refused, same = (outcomes[damage.__name__, outcome] for outcome in (True, False))
        print(f"{damage.__name__:18} {refused:7} refused {same:7} that say the same")
    print(f"{count} model files in {time.perf_counter() - started:.0f} s: no crash, no changed weight, class or setting accepted; "
          f"the slowest took {1000 * slowest:.0f} ms, memory grew by {peak() - memory:.0f} MB")


def requests(count):
    """Hostile requests to the Lambda function: each gets a right answer, and all that it writes is its log."""
    statuses, times = Counter(), defaultdict(list)
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
        print(f"{kind.__name__:16} {len(times[kind]):5}   {answered}   slowest {1000 * max(times[kind]):5.0f} ms")
    every = sorted(seconds for kind in KINDS for seconds in times[kind])
    print(f"{count} requests: 0 answers of 5xx, 0 leaks; {in_words(every)}; memory at most {memory / 1e6:.0f} MB; "
          f"written or started: {deeds}; decoders imported: {', '.join(sorted(plugins))}")
    assert not deeds and memory < MEMORY and every[int(0.99 * count)] < 1


def in_words(times):
    """Sorted seconds -> the figures of them."""
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, slowest {1000 * times[-1]:.0f} ms"


def serve(seconds):
    """scene.serve with the pre-trained models: so many seconds of steady work, then more clients than it has threads, then bad ones."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            work_steadily(server, seconds)
            crowd(server)
            keep_waiting(server)
            for name, patience in ("slow headers", HEADER_SECONDS), ("slow bodies", BODY_SECONDS + GOODBYE_SECONDS), \
                    ("less than announced", BODY_SECONDS + GOODBYE_SECONDS), ("hung up half-way", 0):
                misbehave(server, name, patience)
            assert not [line for line in server.lines() if "error" in line]
        finally:
            server.stop()


def bodies():
    """(requests about the example's photos, hostile ones), each as bytes."""
    photos = [path.read_bytes() for path in sorted((ROOT / "datasets/test").glob("*/*.jpg"))[::10]]
    good = [body(mode, photo) for photo in photos for mode in ("CNN", "FCNN")]
    events = [kind(Random(i)) for kind in KINDS for i in range(10)]
    bad = [event["body"].encode() if isinstance(event, dict) and isinstance(event.get("body"), str) else json.dumps(event).encode()
           for event in events]
    return good, [each for each in bad if len(each) <= MAX_REQUEST]


def work_steadily(server, seconds):
    """Requests on a fixed schedule, whether or not the last ones are answered. A time is from when a request was due."""
    good, bad = bodies()
    statuses, times, turns = Counter(), [], itertools.count()
    started = time.perf_counter() + 1

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for i in turns:
            due, random = started + i / RATE, Random(i)
            if due >= started + seconds:
                return
            time.sleep(max(0, due - time.perf_counter()))
            try:
                connection.request("POST", "/get_scene", random.choice(bad if random.random() < HOSTILE else good))
                response = connection.getresponse()
                response.read()
                statuses[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
                connection.close()
            times.append(time.perf_counter() - due)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        memory = []                                         # MB, once a second
        while not all(each.done() for each in clients):
            memory.append(resident(server))
            time.sleep(1)
        for each in clients:
            each.result()
    minute = min(60, len(memory) // 3)
    early, late = (statistics.median(part) for part in (memory[minute:2 * minute], memory[-minute - 1:-1]))
    print(f"{len(times)} requests, {RATE}/s for {seconds} s on {CLIENTS} connections: {dict(sorted(statuses.items(), key=str))}; "
          f"{in_words(sorted(times))}; memory {early:.1f} MB in the second {minute} s, {late:.1f} MB in the last "
          f"({late / early - 1:+.1%}), at most {max(memory):.0f} MB", flush=True)
    assert set(statuses) <= {200, 400, 413} and abs(late / early - 1) < 0.05


def crowd(server):
    """Many more connections than threads, each with a request: answered, or refused at once."""
    good = request(data=body(), head="Connection: close\r\n")
    outcomes, together = [], threading.Barrier(CROWD)

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
    print(f"{CROWD} connections with a request each at once: " + "; ".join(
        f"{outcome} {len(times)} times, {in_words(times)}" for outcome, times in grouped(outcomes)), flush=True)

    assert {outcome for outcome, _ in outcomes} <= {200, 503}


def keep_waiting(server):
    """As many silent connections as there are threads: more are refused at once, until these leave."""
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
    print(f"{len(held)} silent connections, {CROWD} more: {outcome} {len(times)} times, {in_words(times)}; "
          f"it answers again {recovered:.2f} s after they left", flush=True)
    assert outcome == 503 and recovered < 5


def grouped(outcomes):
    """[(outcome, time)] -> [(outcome, its times in order)]"""
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
    """Twenty clients that behave badly: how many threads that costs, for how long, and what others notice."""
    time.sleep(1)                                           # the threads of those before are gone
    whole, idle = request(data=body()), threads(server)
    start = {"slow headers": 10, "slow bodies": 500, "less than announced": len(whole) - 1, "hung up half-way": 500}[how]
    clients = [server.connect() for _ in range(20)]
    started = time.perf_counter()
    for client in clients:
        client.sendall(whole[:start])
    if how == "hung up half-way":
        for client in clients:
            client.close()
    other = until_answered(server, time.perf_counter())
    time.sleep(0.2)                                         # the thread of that other client is gone
    busy, at = [threads(server) - idle], start
    while busy[-1] > 0 and len(busy) < 100:
        time.sleep(0.2)
        for client in clients if how.startswith("slow") else ():
            with suppress(OSError):                         # the server has had enough of it
                client.sendall(whole[at:at + 1])
        at += 1
        busy.append(threads(server) - idle)
    took = time.perf_counter() - started
    for client in clients:
        client.close()
    print(f"20 clients, {how}: {max(busy)} threads for {took:.1f} s (time-out {patience} s); another client waited {1000 * other:.0f} ms",
          flush=True)
    assert max(busy) <= 20 and took < patience + 2


def threads(server):
    return proc(server, "Threads")


def resident(server):
    return proc(server, "VmRSS") / 1024


def proc(server, name):
    """A figure of /proc."""
    return int(re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text(), re.MULTILINE)[1])


def peak():
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {                                                   # what to do, and how often unless told
    "modelfiles": (modelfiles, 100_000),
    "kills": (crash.kills, 200),
    "resumes": (crash.resumes, 20),
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
