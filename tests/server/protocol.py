"""HTTP itself: routes, statuses, keys, origins, gzip, limits, TLS, slow clients, health, shutdown, reload. Standard library only."""
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

from common import Server, check, equal, events, finish

CHAT = {"messages": [{"role": "user", "content": "Tell me about rivers."}], "temperature": 0, "max_tokens": 8}


def status_of(server, method, path, body=None, **headers):
    return server.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})[0]


def routes(server):
    for path in ("/", "/health", "/metrics", "/plan", "/v1/models"):
        equal(status_of(server, "GET", path), 200, f"GET {path}")
        equal(status_of(server, "HEAD", path), 200, f"HEAD {path}")
    status, headers, text = server.request("GET", "/")
    check("text/html" in headers["content-type"] and "<title>sharpi</title>" in text, "the page")
    check("default-src 'none'" in headers["content-security-policy"], "the page's policy")
    nonce = headers["content-security-policy"].split("nonce-")[1].split("'")[0]
    equal(text.count(nonce), 2, "nonces in the page")
    check(nonce not in server.request("GET", "/")[2], "a nonce is used once")
    equal(status_of(server, "GET", "/nothing"), 404, "no such path")
    equal(status_of(server, "GET", "/v1/models/nothing"), 404, "no such model")
    status, headers, _ = server.request("GET", "/v1/chat/completions")
    equal((status, headers.get("allow")), (405, "POST"), "wrong method")
    plan = json.loads(server.request("GET", "/plan")[2])
    check(plan["context"] == 1024 and plan["parallel"] == 4, "the plan is the model's")
    for name in ("sharpi_time_to_first_token_seconds_bucket", "sharpi_pages", "sharpi_prefix_hit_tokens_total",
                 "sharpi_memory_bytes", "sharpi_preemptions_total", "sharpi_ring_wraps_total"):
        check(name in server.request("GET", "/metrics")[2], f"metric {name}")
    for kind in ("slow_op", "batch_split", "restarted", "preempted", "window_lost", "saved_prefix", "reuse_mismatch"):
        equal(server.metrics().get(f'sharpi_fallbacks_total{{kind="{kind}"}}'), 0, f"fallbacks of kind {kind}")
    health = json.loads(server.request("GET", "/health")[2])
    equal(health["status"], "ok", "health")


def texts(server):
    _, ids = server.post("/tokenize", {"content": "Rivers flow.", "add_special": False})
    equal(server.post("/detokenize", {"tokens": ids["tokens"]})[1]["content"], "Rivers flow.", "tokenize and back")
    _, pieces = server.post("/tokenize", {"content": "Rivers", "with_pieces": True})
    check(all("id" in p and "piece" in p for p in pieces["tokens"]), "pieces")
    _, rendered = server.post("/apply-template", {"messages": CHAT["messages"]})
    check("Tell me about rivers." in rendered["prompt"], "the template's text")
    _, counted = server.post("/v1/messages/count_tokens", {"messages": CHAT["messages"]})
    equal(counted["input_tokens"], rendered["tokens"], "count_tokens counts what the template makes")
    equal(server.post("/detokenize", {"tokens": [10 ** 9]})[0], 400, "no such token")


def bodies(server):
    for body, status in (("", 400), ("{", 400), ("[]", 400), ('"x"', 400), ("null", 400), ("{}", 400), ("\xff\xfe", 400),
                         ('{"messages": 5}', 400), ('{"messages": [{}]}', 400), ('{"messages": [5]}', 400),
                         ('{"messages": [{"role": 5, "content": "x"}]}', 400), ("[" * 5000 + "]" * 5000, 400),
                         ('{"a":' * 500 + "1" + "}" * 500, 400)):
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/completions"):
            equal(status_of(server, "POST", path, body.encode("latin-1")), status, f"{path} with {body[:30]!r}")
    values = '{"prompt": [' + "1," * 3000000 + "1]}"
    equal(status_of(server, "POST", "/v1/completions", values), 413, "too many values")
    deep = '{"x": "' + "[" * 300 + '", "messages": [{"role": "user", "content": "y"}], "max_tokens": 1}'
    equal(status_of(server, "POST", "/v1/chat/completions", deep), 200, "brackets in a string are no nesting")
    _, headers, _ = server.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "top_a": 0.5, "user": "me"}))
    equal(headers.get("sharpi-ignored-fields"), "top_a", "fields that nothing is done about are named")
    status, document = server.post("/v1/messages", {"messages": CHAT["messages"]})
    equal((status, document["error"]["type"]), (400, "invalid_request_error"), "max_tokens is required")
    check(document["request_id"], "a request id")


def packed(server):
    body = gzip.compress(json.dumps({**CHAT, "logprobs": True, "top_logprobs": 20}).encode())
    status, headers, _ = server.request("POST", "/v1/chat/completions", body, {"Content-Encoding": "gzip"})
    equal((status, headers.get("content-encoding")), (200, None), "a packed request")
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    response = connection.getresponse()
    data = response.read()
    equal(response.headers["Content-Encoding"], "gzip", "a packed answer")
    check(b"sharpi_pages" in gzip.decompress(data), "it unpacks")
    equal(status_of(server, "POST", "/tokenize", gzip.compress(b"x")[:-6], Content_Encoding="gzip"), 400, "cut off")
    equal(status_of(server, "POST", "/tokenize", b"no gzip", Content_Encoding="gzip"), 400, "not gzip")
    equal(status_of(server, "POST", "/tokenize", b"x", Content_Encoding="br"), 415, "unknown encoding")
    bomb = gzip.compress(b"\0" * (64 << 20))
    equal(status_of(server, "POST", "/tokenize", bomb, Content_Encoding="gzip"), 413, "what unpacks without end")


def raw(server, data, seconds=5):
    """What the server answers to these bytes; connection closed by it or after some seconds of silence."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as s:
        out = b""
        try:
            s.sendall(data)
            while part := s.recv(65536):
                out += part
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
        return out.decode("latin-1")


def limits():
    with Server("--set", "server.max-body=64KiB", "--set", "server.idle-timeout=2", "--set", "server.body-timeout=2",
                "--set", "server.max-choices=4") as server:
        equal(status_of(server, "POST", "/tokenize", json.dumps({"content": "x" * 70000})), 413, "a body too large")
        chunked = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + \
            b"10000\r\n" + b"x" * 65536 + b"\r\n10\r\n" + b"y" * 16 + b"\r\n0\r\n\r\n"
        check(" 413 " in raw(server, chunked).split("\r\n")[0], "a chunked body too large")
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200000 + b"\r\n\r\n"
        answer = raw(server, head)
        check(" 431 " in answer or answer == "", "a head too large")
        equal(status_of(server, "POST", "/v1/completions", {"prompt": ["x"] * 5}), 400, "too many choices")
        begun = time.time()
        raw(server, b"GET /hea", 8)
        check(1.5 < time.time() - begun < 6, f"a slow head is ended after {time.time() - begun:.1f} s")
        begun = time.time()
        raw(server, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc", 8)
        check(1.5 < time.time() - begun < 6, f"a slow body is ended after {time.time() - begun:.1f} s")
        check(server.metrics()["sharpi_http_timeouts_total"] >= 2, "timeouts are counted")


def origins():
    with Server("--cors", "https://a.example http://b.example:81") as server:
        status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "https://a.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, authorization"})
        equal((status, headers.get("access-control-allow-origin")), (204, "https://a.example"), "preflight")
        check("authorization" in headers.get("access-control-allow-headers", ""), "headers of the preflight")
        status, headers, _ = server.request("GET", "/v1/models", headers={"Origin": "http://b.example:81"})
        equal((status, headers.get("access-control-allow-origin")), (200, "http://b.example:81"), "the second origin")
        equal(status_of(server, "GET", "/v1/models", Origin="https://evil.example"), 403, "an origin not on the list")
        equal(status_of(server, "OPTIONS", "/v1/models", Origin="https://evil.example"), 403, "its preflight")
        equal(status_of(server, "GET", "/v1/models", Origin=server.url), 200, "our own page")
        equal(status_of(server, "GET", "/v1/models", Host="evil.example:80"), 403, "a name pointed to this machine")
        equal(status_of(server, "GET", "/v1/models", Host="a.example"), 200, "a name on the list")


def keys():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "keys")
        with open(path, "w") as f:
            f.write("# ours\nalpha\n  beta # the second\n")
        with Server("--api-key-file", path) as server:
            def ask(key, header="Authorization"):
                value = f"Bearer {key}" if header == "Authorization" else key
                return server.request("GET", "/v1/models", headers={header: value})[0]
            equal([ask("alpha"), ask("beta"), ask("gamma"), ask("alph"), ask("ours"), ask("")],
                  [200, 200, 401, 401, 401, 401], "keys of a file")
            equal([ask("alpha", "x-api-key"), ask("alphaa", "x-api-key")], [200, 401], "x-api-key")
            equal([status_of(server, "GET", p) for p in ("/", "/health", "/metrics", "/plan", "/v1/models")],
                  [200, 200, 401, 401, 401], "what needs a key")
            with open(path, "w") as f:
                f.write("gamma\n")
            server.process.send_signal(signal.SIGHUP)
            until = time.time() + 5
            while ask("gamma") != 200 and time.time() < until:
                time.sleep(0.05)
            equal([ask("alpha"), ask("gamma")], [401, 200], "keys after SIGHUP")
            open(path, "w").close()
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.6)
            equal([ask("alpha"), ask("gamma"), ask("")], [401, 200, 401], "an empty file opens nothing")


def tls():
    with tempfile.TemporaryDirectory() as folder:
        cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
                               "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                              capture_output=True)
        if made.returncode:
            print("TLS is not tested: no openssl program")
            return
        with Server("--tls-cert", cert, "--tls-key", key) as server:
            check(server.url.startswith("https://"), "https in the address")
            context = ssl.create_default_context(cafile=cert)
            import http.client
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
            text = connection.getresponse().read().decode()
            equal(events(text)[-1][1], "[DONE]", "a stream over TLS")
            connection.close()
            check("HTTP/1.1 200" not in raw(server, b"GET /health HTTP/1.0\r\n\r\n", 3), "no plain text there")


def streams(server):
    _, _, text = server.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
    found = events(text)
    equal(found[-1][1], "[DONE]", "the end of a stream")
    check(all(name is None for name, _ in found), "no event names")
    _, _, text = server.request("POST", "/v1/messages", json.dumps({**CHAT, "stream": True}))
    for name, data in events(text):
        equal(json.loads(data)["type"], name, "an event is called what it is")


def drop(server, seconds, stream):
    """A client that sends a long request and goes away."""
    body = json.dumps({**CHAT, "max_tokens": 900, "ignore_eos": True, "stream": stream}).encode()
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    time.sleep(seconds)
    s.close()


def disconnects(server):
    key = 'sharpi_requests_finished_total{reason="cancelled"}'
    before = server.wait_idle()[key]
    for stream in (False, True):
        for seconds in (0.0, 0.05, 0.1):
            drop(server, seconds, stream)
    time.sleep(0.5)
    after = server.wait_idle()
    equal(after[key] - before, 6, "cancelled requests of clients that went away")


def shutdown():
    with Server("--shutdown-timeout", "20") as server:
        answers = []

        def ask():
            answers.append(server.request("POST", "/v1/chat/completions", json.dumps(
                {**CHAT, "max_tokens": 200, "ignore_eos": True, "stream": True})))
        thread = threading.Thread(target=ask)
        thread.start()
        while server.metrics()["sharpi_requests_running"] == 0:
            time.sleep(0.01)
        equal(server.stop(), 0, "exit status")
        thread.join()
        equal(events(answers[0][2])[-1][1], "[DONE]", "a running answer is finished")
    with Server("--shutdown-timeout", "0") as server:
        answers.clear()

        def ask_long():
            answers.append(server.request("POST", "/v1/chat/completions", json.dumps(
                {**CHAT, "max_tokens": 100000, "ignore_eos": True, "stream": True})))
        thread = threading.Thread(target=ask_long)
        thread.start()
        while server.metrics()["sharpi_requests_running"] == 0:
            time.sleep(0.01)
        begun = time.time()
        equal(server.stop(), 0, "exit status")
        check(time.time() - begun < 15, "a long answer is cut off")
        thread.join()
        last = events(answers[0][2])[-1][1]
        check("[DONE]" in last or "shutting down" in last, f"the reason is said: {last[:80]}")


def main():
    with Server() as server:
        routes(server)
        texts(server)
        bodies(server)
        packed(server)
        streams(server)
        disconnects(server)
        check(status_of(server, "GET", "/health") == 200, "still healthy")
    limits()
    origins()
    keys()
    tls()
    shutdown()
    finish()


main()
