"""A long prompt beside running answers: with --max-stall-ms no token of theirs comes later than that, and a step, after the one before.

    stall.py [--answers 4] [--prompt 3000] [--stall 100] [--quiet 0]

Streams --answers answers, then asks for one token after a prompt of --prompt ids, and looks at the gaps between tokens of each stream
while the prompt is computed. None may be longer than the median gap before and twice --stall. A machine that others use more than a
fifth of is not judged: the numbers are printed all the same.
"""
import argparse
import http.client
import json
import random
import sys
import threading
import time

from common import Server, check, finish
from machine import Others


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--answers", type=int, default=4)
    p.add_argument("--prompt", type=int, default=3000)
    p.add_argument("--stall", type=int, default=100, help="milliseconds")
    p.add_argument("--largest-id", type=int, default=250, help="of random prompts")
    p.add_argument("--quiet", type=float, default=0, help="seconds to wait at most for a quiet machine")
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


class Answer(threading.Thread):
    """A stream that goes on until told to stop; times of its tokens."""

    def __init__(self, server, prompt):
        super().__init__()
        self.server, self.prompt, self.times, self.enough = server, prompt, [], False

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(
            {"prompt": self.prompt, "max_tokens": 20000, "temperature": 0, "ignore_eos": True, "stream": True, "logprobs": 1}))
        response = connection.getresponse()
        while not self.enough and (line := response.readline()):
            if line.startswith(b"data: {"): # with logprobs every token has an event of its own
                self.times.append(time.monotonic())
        connection.close()


def gaps(times, begin, end):
    """Between tokens, of those that came in [begin, end]."""
    return [b - a for a, b in zip(times, times[1:]) if begin <= b <= end]


def wait_for_tokens(answers, n):
    until = time.monotonic() + 120
    while any(len(a.times) < n for a in answers) and time.monotonic() < until:
        time.sleep(0.01)
    check(time.monotonic() < until, "the answers began")


def main():
    o = arguments()
    rng = random.Random(3)
    ids = lambda n: [rng.randint(5, o.largest_id) for _ in range(n)]
    options = ["--parallel", str(o.answers + 1), "--max-stall-ms", str(o.stall)]
    with Server(*options, context=o.prompt + 1000, threads=o.threads) as server:
        others = Others([server.process.pid])
        server.post("/v1/completions", {"prompt": ids(600), "max_tokens": 1}) # what a prompt token takes is known from then on
        others.wait(o.quiet)
        answers = [Answer(server, ids(20)) for _ in range(o.answers)]
        for a in answers:
            a.start()
        wait_for_tokens(answers, 20)
        begin = time.monotonic()
        status, _ = server.post("/v1/completions", {"prompt": ids(o.prompt), "max_tokens": 1, "cache_prompt": False})
        end = time.monotonic()
        check(status == 200, f"the long prompt was answered with {status}")
        busy = others.share()
        before = sorted(g for a in answers for g in gaps(a.times[5:], 0, begin))
        during = sorted(g for a in answers for g in gaps(a.times, begin, end))
        for a in answers:
            a.enough = True
        for a in answers:
            a.join()
    check(before and during, "there were tokens before and during the prompt")
    median = before[len(before) // 2]
    delay = during[-1] - median if during else 0
    print(f"a prompt of {o.prompt} tokens took {end - begin:.2f} s beside {o.answers} answers; between their tokens: median before it "
          f"{median * 1e3:.1f} ms, during it median {during[len(during) // 2] * 1e3:.1f} ms, longest {during[-1] * 1e3:.1f} ms; "
          f"longest delay {delay * 1e3:.1f} ms (others: {busy:.0%} of the machine)")
    if busy > 0.2:
        print("not judged: others use the machine")
    else:
        check(delay <= 2 * o.stall / 1e3, f"a token was delayed by {delay * 1e3:.0f} ms, allowed are {2 * o.stall}")
    finish()


if __name__ == "__main__":
    sys.exit(main())
