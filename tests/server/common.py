"""What the server's tests share: a running `sharpi serve`, and checks that say what they saw.

Environment: SHARPI (the program), SHARPI_TEST_MODEL (a GGUF with tokenizer; its answers do not matter, only that the same is said
again), SHARPI_TEST_TEMPLATE (its chat template, chatml if not set).
"""
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time

SHARPI = os.environ.get("SHARPI", "./sharpi")
MODEL = os.environ["SHARPI_TEST_MODEL"]
TEMPLATE = os.environ.get("SHARPI_TEST_TEMPLATE", "chatml")

failures = []


def check(condition, what):
    """Notes a failure with the line that found it and goes on: one run shows all."""
    if not condition:
        line = sys._getframe(1).f_lineno
        failures.append(what)
        print(f"FAILED line {line}: {what}", flush=True)
    return bool(condition)


def equal(got, wanted, what):
    if got != wanted:
        line = sys._getframe(1).f_lineno
        failures.append(what)
        print(f"FAILED line {line}: {what}: {got!r} instead of {wanted!r}", flush=True)


def finish():
    print(f"{os.path.basename(sys.argv[0])}: {'ok' if not failures else str(len(failures)) + ' failed'}", flush=True)
    sys.exit(1 if failures else 0)


class Server:
    """with Server("--parallel", "2") as server: server.port, server.url ..."""

    def __init__(self, *options, env=None, context=1024, threads=2, model=MODEL):
        self.options = [SHARPI, "serve", "-m", model, "--template", TEMPLATE, "-c", str(context), "-t", str(threads),
                        "--host", "127.0.0.1", "--port", "0", *options]
        self.env = {**os.environ, **(env or {})}

    def __enter__(self):
        self.process = subprocess.Popen(self.options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=self.env)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.process.wait()
            raise RuntimeError(f"sharpi serve did not start: {self.process.stderr.read()}")
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])
        self.base = self.url + "/v1"
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self, timeout=60):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            check(False, "the server did not end after SIGTERM")
            return -9

    def request(self, method, path, body=None, headers=None, timeout=120):
        """(status, headers, body as text) of a raw request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response.status, dict((k.lower(), v) for k, v in response.getheaders()), text

    def post(self, path, body, **headers):
        status, _, text = self.request("POST", path, body, headers)
        return status, json.loads(text)

    def metrics(self):
        """name{labels} -> number"""
        _, _, text = self.request("GET", "/metrics")
        return {m[1]: float(m[2]) for m in re.finditer(r"^(sharpi_\S+) (\S+)$", text, re.M)}

    def wait_idle(self, seconds=30):
        """Until no request runs, and those of clients that went away have been cleared up too; the metrics then."""
        until = time.time() + seconds
        while time.time() < until:
            m = self.metrics()
            if m["sharpi_requests_running"] == m["sharpi_requests_queued"] == m["sharpi_http_body_bytes"] == 0:
                return m
            time.sleep(0.05)
        check(False, "requests still run, or a body is held")
        return self.metrics()


def events(text):
    """Server-sent events as (name or None, data)."""
    out = []
    for block in text.split("\n\n"):
        name, data = None, None
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
        if data is not None:
            out.append((name, data))
    return out
