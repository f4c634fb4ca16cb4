#!/usr/bin/env python3
"""A web server that misbehaves, for tests of `sharpi pull`. Serves one folder on 127.0.0.1; the first line of output is its port.

The first part of a path says how:
    /plain/F     whole answers, with Range, ETag and If-Range
    /drop/F      closes the connection after 40,000 bytes of every answer
    /norange/F   ignores Range, and closes the first connection half-way
    /changing/F  drops as above; from the second answer on it is another version: the bytes of F, reversed
    /slow/F      sends 20,000 bytes at once, then 100 every tenth of a second
    /busy/F      answers 503 twice, then as /plain
    /endless/F   more bytes than Content-Length of F would allow, chunked
    /moved/F     redirects to /plain/F and says the file's sha256, as hubs do
    /lies/F      the same, with a wrong sha256
    /refused/F   401
    /OWNER/NAME/resolve/main/F and /api/models/OWNER/NAME/revision/main: a hub's repository of the folder's files
Every request is written to requests.log in the folder: method, path, Range or "-", status.
"""
import hashlib
import http.server
import json
import os
import sys
import time

CUT = 40000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counts = {}

    def log_message(self, *args):
        pass

    def log_request(self, code="-", size="-"):
        status = code.value if hasattr(code, "value") else code
        with open("requests.log", "a") as log:
            log.write("%s %s %s %s\n" % (self.command, self.path, self.headers.get("Range", "-"), status))

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self, data, cut=None, ranges=True):
        etag = '"%s"' % hashlib.md5(data).hexdigest()
        wanted, first = self.headers.get("Range"), 0
        if wanted and ranges and self.headers.get("If-Range", etag) == etag:
            first = int(wanted.split("=")[1].rstrip("-"))
            if first >= len(data):
                return self.answer(416, b"", [("Content-Range", "bytes */%d" % len(data))])
        self.send_response(206 if first else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, len(data) - 1, len(data)))
        self.end_headers()
        body = data[first:]
        if cut is not None and cut < len(body):
            self.wfile.write(body[:cut])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def hub(self, parts):
        if parts[:2] == ["api", "models"]:
            if parts[2:] != ["own-er", "models", "revision", "main"]:
                return self.answer(401)
            names = [{"rfilename": n} for n in sorted(os.listdir(".")) if n != "requests.log"]
            return self.answer(200, json.dumps({"siblings": names}).encode())
        return self.file("moved", parts[-1])

    def file(self, how, name):
        if not os.path.isfile(name):
            return self.answer(404)
        with open(name, "rb") as f:
            data = f.read()
        n = self.counts[how] = self.counts.get(how, 0) + 1
        if how in ("moved", "lies"):
            digest = hashlib.sha256(data if how == "moved" else b"").hexdigest()
            return self.answer(302, b"", [("Location", "/plain/" + name), ("X-Linked-Etag", '"%s"' % digest)])
        if how == "refused":
            return self.answer(401)
        if how == "busy" and n <= 2:
            return self.answer(503)
        if how == "endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if how == "slow":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:20000])
            for at in range(20000, len(data), 100):
                time.sleep(0.1)
                self.wfile.write(data[at : at + 100])
            return None
        if how == "norange":
            return self.serve(data, len(data) // 2 if n == 1 else None, ranges=False)
        if how == "changing":
            return self.serve(data if n == 1 else data[::-1], CUT if n == 1 else None)
        return self.serve(data, CUT if how == "drop" else None)

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        try:
            if parts[0] in ("api", "own-er"):
                self.hub(parts)
            elif len(parts) == 2:
                self.file(parts[0], parts[1])
            else:
                self.answer(404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # clients that go away are what some tests are about


os.chdir(sys.argv[1])
with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
