"""Load: many clients at once, some of which go away, send nonsense or prompts that do not fit.

    load.py [--clients 64] [--requests 2000] [--seed 1] [--parallel 16] [--context 2048] [--max-tokens 32] [--prompts 48]

Checks that every completed answer is the one that its prompt got alone (greedy), that no page stays held, that memory does not
grow in the second half (beyond --grow MiB) and that the server is still well; prints percentiles of time to first token and
between tokens. Half of the requests take what they can from the cache, the others are computed from their start.
"""
import argparse
import http.client
import json
import random
import socket
import sys
import threading
import time

from common import Server, check, finish

WORDS = ("river lake water stone bridge mountain winter garden letter morning music paper window silver engine number "
         "answer question history island summer market village kitchen forest teacher doctor signal thread page").split()


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--requests", type=int, default=2000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--parallel", type=int, default=16)
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--max-tokens", type=int, default=32)
    p.add_argument("--prompts", type=int, default=48)
    p.add_argument("--longest", type=int, default=200, help="words of the longest prompt")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--grow", type=int, default=64, help="MiB that the process may grow while it is loaded")
    p.add_argument("--compare", choices=("all", "cold", "none"), default="all",
                   help="which answers must equal those given alone; cold: of prompts computed from their start only, since "
                        "the last digits may depend on where a computation begins")
    p.add_argument("--option", action="append", default=[], help="more options of sharpi serve")
    return p.parse_args()


def make_prompts(o, rng):
    """Some begin alike, so that prefixes are shared."""
    openings = [" ".join(rng.choices(WORDS, k=rng.randint(5, 40))) for _ in range(6)]
    return [f"{rng.choice(openings)} {' '.join(rng.choices(WORDS, k=rng.randint(1, o.longest)))} {i}"
            for i in range(o.prompts)]


class Results:
    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.first, self.between, self.wrong = {}, [], [], []

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1


def body_of(o, prompt, **more):
    return json.dumps({"prompt": prompt, "max_tokens": o.max_tokens, "temperature": 0, "ignore_eos": True, **more})


def read_stream(response, begun, results):
    """Text of a stream that was asked for at `begun`; notes when its pieces came."""
    text, last = "", None
    while line := response.readline():
        if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            return None
        piece = "".join(c["text"] for c in chunk["choices"])
        if piece:
            now = time.monotonic()
            with results.lock:
                (results.first if last is None else results.between).append(now - (last or begun))
            last = now
        text += piece
    return text


def ask(server, o, prompt, stream, results, reuse=True):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    begun = time.monotonic()
    connection.request("POST", "/v1/completions", body_of(o, prompt, stream=stream, cache_prompt=reuse))
    response = connection.getresponse()
    if response.status != 200:
        response.read()
        connection.close()
        return response.status, None
    text = read_stream(response, begun, results) if stream else json.loads(response.read())["choices"][0]["text"]
    connection.close()
    return 200, text


def go_away(server, o, prompt, rng):
    """Sends a request, perhaps not all of it, perhaps reads a little, and closes."""
    body = body_of(o, prompt, stream=rng.random() < 0.7).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=600)
    data = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    s.sendall(data[:rng.randint(1, len(data))] if rng.random() < 0.2 else data)
    s.settimeout(rng.random() * 1.5)
    try:
        for _ in range(rng.randint(0, 4)):
            if not s.recv(rng.randint(1, 4096)):
                break
    except TimeoutError:
        pass
    s.close()


def nonsense(server, o, rng):
    bodies = [b"", b"{", b'{"prompt": ', b"\xff" * 50, b'{"prompt": {}}', b'{"prompt": "x", "max_tokens": "many"}',
              b'{"prompt": [1, 2, -5]}', b'{"prompt": "x", "temperature": 1e999}', bytes(rng.randbytes(300)),
              b'{"prompt": "x", "stop": [' + b'"a",' * 40 + b'"b"]}', b'{"prompt": "x", "n": 100000}', b"[" * 9000,
              b'{"prompt": "x", "logit_bias": {"a": 1}}', b'{"prompt": "x", "model": "other"}']
    return server.request("POST", "/v1/completions", rng.choice(bodies), timeout=600)[0]


def one(server, o, rng, prompts, wanted, results):
    what = rng.random()
    if what < 0.12:
        go_away(server, o, rng.choice(prompts), rng)
        results.count("went away")
    elif what < 0.20:
        status = nonsense(server, o, rng)
        results.count(f"nonsense: {status}")
        check(status in (400, 404), f"nonsense was answered with {status}")
    elif what < 0.24:
        status, _ = ask(server, o, "too long " * o.context, rng.random() < 0.5, results)
        results.count(f"oversize: {status}")
        check(status == 400, f"a prompt that does not fit was answered with {status}")
    else:
        i = rng.randrange(len(prompts))
        reuse = rng.random() < 0.5
        status, text = ask(server, o, prompts[i], rng.random() < 0.7, results, reuse)
        results.count(f"answered: {status}")
        check(status == 200, f"a good request was answered with {status}")
        if wanted and text != wanted[i] and (not reuse or o.compare == "all"):
            with results.lock:
                results.wrong.append((i, wanted[i], text))


def client(server, o, number, prompts, wanted, results, left):
    rng = random.Random(o.seed * 1000003 + number * 1009 + left[0])
    while True:
        with results.lock:
            if left[0] == 0:
                return
            left[0] -= 1
        try:
            one(server, o, rng, prompts, wanted, results)
        except (OSError, http.client.HTTPException) as e:
            check(False, f"client {number}: {e!r}")


def percentiles(name, seconds):
    if not seconds:
        return
    s = sorted(seconds)
    p = [s[min(len(s) - 1, int(len(s) * q))] * 1000 for q in (0.5, 0.95, 0.99)]
    print(f"{name}: p50 {p[0]:.1f} ms, p95 {p[1]:.1f} ms, p99 {p[2]:.1f} ms, of {len(s)}", flush=True)


def pages(metrics, use):
    return sum(v for k, v in metrics.items() if k.startswith("sharpi_pages{") and f'use="{use}"' in k)


def run(server, o, prompts, wanted, results, n):
    left = [n]
    threads = [threading.Thread(target=client, args=(server, o, i, prompts, wanted, results, left))
               for i in range(o.clients)]
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.monotonic() - begun


def main():
    o = arguments()
    prompts = make_prompts(o, random.Random(o.seed))
    with Server("--parallel", str(o.parallel), *o.option, context=o.context, threads=o.threads) as server:
        results = Results()
        wanted = None if o.compare == "none" else [ask(server, o, p, False, results, False)[1] for p in prompts]
        if wanted and None in wanted:
            sys.exit("the longest prompts do not fit: raise --context or lower --longest")
        seconds = run(server, o, prompts, wanted, results, o.requests // 2)
        before = server.wait_idle(300)
        seconds += run(server, o, prompts, wanted, results, o.requests - o.requests // 2)
        after = server.wait_idle(300)
        print(f"{o.requests} requests of {o.clients} clients in {seconds:.1f} s: " +
              ", ".join(f"{k} {v}" for k, v in sorted(results.counts.items())), flush=True)
        percentiles("time to first token", results.first)
        percentiles("between tokens", results.between)
        for i, want, got in results.wrong[:5]:
            print(f"prompt {i}: alone {want!r}, under load {got!r}")
        check(not results.wrong, f"{len(results.wrong)} answers differ from those given alone")
        check(pages(after, "active") == 0, f"{pages(after, 'active')} pages are still held")
        check(pages(after, "free") + pages(after, "cached") == pages(after, "total"), "pages add up")
        check(after["sharpi_accounting_errors_total"] == 0, "page references add up")
        check(after["sharpi_http_body_bytes"] == 0, "no body is held")
        grown = (after['sharpi_memory_bytes{consumer="process_resident"}'] -
                 before['sharpi_memory_bytes{consumer="process_resident"}']) / 2 ** 20
        print(f"resident memory in the second half: {grown:+.1f} MiB; preemptions {after['sharpi_preemptions_total']:.0f}, cached tokens "
              f"{after['sharpi_prefix_hit_tokens_total']:.0f} of {after['sharpi_prompt_tokens_total']:.0f}")
        check(grown < o.grow, f"the process grew by {grown:.1f} MiB")
        check(server.request("GET", "/health")[0] == 200, "still healthy")
        check(server.stop() == 0, "ends well")
        said = server.process.stderr.read()
        check("ERROR" not in said and "runtime error" not in said, f"it says: {said[-2000:]}")
    finish()


if __name__ == "__main__":
    sys.exit(main())
