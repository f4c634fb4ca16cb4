"""Memory runs out: every N-th allocation fails, for several N. The server lives, whoever is failed hears why (or at least that the
connection ended), and everything works again as soon as there is memory.

FAIL_MALLOC is the library to preload.
"""
import http.client
import json
import os
import tempfile

from common import Server, check, equal, events, finish

ASKED = {"messages": [{"role": "user", "content": "Tell me about rivers."}], "max_tokens": 6, "temperature": 0, "logprobs": True}


def set_every(path, n):
    with open(path, "w") as f:
        f.write(str(n))


def settle(server, path, n):
    """The library looks at the file every 256 allocations."""
    set_every(path, n)
    for _ in range(40 if n == 0 else 1):
        try:
            server.request("GET", "/v1/models")
        except (OSError, http.client.HTTPException):
            pass


def outcome(server, stream):
    """What a request came to: "ok", an error's status, "event" or "closed"."""
    try:
        status, _, text = server.request("POST", "/v1/chat/completions", {**ASKED, "stream": stream})
    except (OSError, http.client.HTTPException):
        return "closed"
    if status != 200:
        try:
            check(json.loads(text)["error"]["message"], "an error has a message")
            check(status == 503, f"an error for want of memory is a 503: {text[:300]}")
        except (ValueError, KeyError, TypeError):
            check(False, f"an error without shape: {text[:200]!r}")
        return status
    if not stream:
        return "ok"
    last = events(text)[-1][1] if events(text) else ""
    return "ok" if last == "[DONE]" else "event" if "error" in last else "closed"


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "every")
        set_every(path, 0)
        with Server(env={"LD_PRELOAD": os.environ["FAIL_MALLOC"], "FAIL_MALLOC_FILE": path}) as server:
            wanted = server.post("/v1/chat/completions", ASKED)[1]["choices"][0]["message"]["content"]
            counts = {}
            for n in (5000, 2003, 1009, 499, 211, 101, 53, 29, 13, 7):
                set_every(path, n)
                for i in range(12):
                    what = outcome(server, i % 2 == 1)
                    counts[what] = counts.get(what, 0) + 1
                    check(what in ("ok", 503, "event", "closed"), f"every {n}-th allocation fails: {what}")
                settle(server, path, 0)
                check(server.process.poll() is None, f"the server lives after every {n}-th failed")
                status, answer = server.post("/v1/chat/completions", ASKED)
                equal(status, 200, f"with memory again after every {n}-th failed")
                if status == 200:
                    equal(answer["choices"][0]["message"]["content"], wanted, "the same answer as before")
            print("every N-th allocation failed: " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items(), key=str)))
            # Only connections that libmicrohttpd itself had no memory for; all others get a response that was made at the start.
            check(counts.get("closed", 0) <= 24, f"{counts.get('closed')} of 120 heard nothing")
            metrics = server.wait_idle()
            equal(metrics["sharpi_accounting_errors_total"], 0, "page references add up")
            equal(metrics["sharpi_http_body_bytes"], 0, "no body is held")
            equal(server.stop(), 0, "ends well")
    finish()


main()
