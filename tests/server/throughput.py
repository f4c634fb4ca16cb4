"""Throughput: many parallel greedy clients beside one, and beside another server, in turn.

    SHARPI_TEST_MODEL=m.gguf throughput.py [--clients 16] [--tokens 128] [--prompt 64] [--rounds 3] [--stream] [--threads 2]
        [--peer 'llama-server -m {model} -t 2 -np 16 -c 8192 --port {port} ...']

The other server is one with POST /v1/completions that takes token ids, ignore_eos and cache_prompt; its command names {model} and
{port}. Both stay started, only one is asked at a time. Every client asks once per round, a prompt of its own of --prompt random ids, for
--tokens tokens; tokens per second are all tokens over the time from the first request to the last answer, prompts included. Prints
each round with what other processes took of the machine meanwhile, the best of the rounds, and the ratios that count. --quiet waits for
so many seconds at most until others leave the machine alone.
"""
import argparse
import http.client
import json
import random
import shlex
import socket
import subprocess
import sys
import threading
import time

from common import MODEL, Server, check, finish
from machine import Others


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--prompt", type=int, default=64, help="ids of a prompt")
    p.add_argument("--largest-id", type=int, default=20000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--stream", action="store_true")
    p.add_argument("--quiet", type=float, default=0)
    p.add_argument("--peer", help="command of another server")
    p.add_argument("--option", action="append", default=[], help="more options of sharpi serve")
    return p.parse_args()


class Peer:
    """Another server, as far as this needs it: a port."""

    def __init__(self, command):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.command = shlex.split(command.format(model=MODEL, port=self.port))

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.time() + 120
        while time.time() < until and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.2)
        self.process.kill()
        raise RuntimeError(f"{self.command[0]} did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def read_answer(response, stream):
    """Tokens of an answer; a stream's pieces are read and parsed as a client would."""
    if not stream:
        return json.loads(response.read())["usage"]["completion_tokens"]
    n = 0
    while line := response.readline():
        if line.startswith(b"data: ") and line != b"data: [DONE]\n":
            usage = json.loads(line[6:]).get("usage")
            n = usage["completion_tokens"] if usage else n
    return n


def ask(port, o, prompt):
    body = {"prompt": prompt, "max_tokens": o.tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    if o.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1200)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if check(response.status == 200, f"status {response.status}"):
        n = read_answer(response, o.stream)
        check(n == o.tokens, f"{n} tokens instead of {o.tokens}")
    connection.close()


def rate(port, o, rng, n_clients):
    """Tokens per second of so many clients at once."""
    prompts = [[rng.randint(100, o.largest_id) for _ in range(o.prompt)] for _ in range(n_clients)]
    threads = [threading.Thread(target=ask, args=(port, o, p)) for p in prompts]
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return n_clients * o.tokens / (time.monotonic() - begun)


def measure(servers, o):
    """best[name][clients]"""
    rng = random.Random(1)
    others = Others([server.process.pid for server in servers.values()])
    best = {name: {1: 0.0, o.clients: 0.0} for name in servers}
    for i in range(o.rounds):
        for n in (1, o.clients):
            for name, server in servers.items():
                others.wait(o.quiet)
                r = rate(server.port, o, rng, n)
                best[name][n] = max(best[name][n], r)
                print(f"round {i}: {name}, {n} clients: {r:.1f} tokens/s (others {others.share():.0%})", flush=True)
    return best


def report(best, o):
    for name, b in best.items():
        print(f"{name}: 1 client {b[1]:.1f} tokens/s, {o.clients} clients {b[o.clients]:.1f}, ratio {b[o.clients] / b[1]:.2f}")
    if "peer" in best:
        print("sharpi over peer: " + ", ".join(f"{n} clients {best['sharpi'][n] / best['peer'][n]:.2f}" for n in (1, o.clients)))


def main():
    o = arguments()
    context = o.prompt + o.tokens + 64
    with Server("--parallel", str(o.clients), *o.option, context=context, threads=o.threads) as server:
        if o.peer:
            with Peer(o.peer) as peer:
                best = measure({"sharpi": server, "peer": peer}, o)
        else:
            best = measure({"sharpi": server}, o)
    report(best, o)
    finish()


if __name__ == "__main__":
    sys.exit(main())
