"""An internet of the tests: everything that listens at its addresses, in a network namespace of its own.

  internet.py serve LOG CERT KEY    http at port 80, https at port 443, of every address that this namespace has
  internet.py names ADDRESS         a DNS server at ADDRESS:53

Every connection is a line of LOG, `called ADDRESS PORT`, by the address that was called. What is served, whoever is
asked: a registry of npm, an index of pip, a repository of git (static, below /srv/internet), a page, and redirects.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import socket
import ssl
import struct
import sys
import tarfile
import threading
import urllib.parse
import zipfile


def npm_package():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in {
            "package/package.json": '{"name": "tiny-hello", "version": "1.0.0", "main": "index.js"}',
            "package/index.js": 'module.exports = "hello from npm";\n',
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def wheel():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tiny_hello.py", 'print("hello from pip")\n')
        info = "tiny_hello-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-hello\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"tiny_hello.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return data.getvalue()


NPM, WHEEL = npm_package(), wheel()
NPM_META = json.dumps({
    "name": "tiny-hello",
    "dist-tags": {"latest": "1.0.0"},
    "versions": {"1.0.0": {"name": "tiny-hello", "version": "1.0.0", "dist": {
        "tarball": "https://HOST/tiny-hello/-/tiny-hello-1.0.0.tgz",
        "shasum": hashlib.sha1(NPM).hexdigest(),
        "integrity": "sha512-" + base64.b64encode(hashlib.sha512(NPM).digest()).decode(),
    }}},
}).encode()
INDEX = b'<html><body><a href="https://files.example.net/tiny_hello-1.0-py3-none-any.whl">tiny_hello-1.0-py3-none-any.whl</a></body></html>'
PAGES = {
    "/": ("text/plain", b"hello from curl\n"),
    "/tiny-hello": ("application/json", NPM_META),
    "/tiny-hello/-/tiny-hello-1.0.0.tgz": ("application/octet-stream", NPM),
    "/simple/tiny-hello/": ("text/html", INDEX),
    "/tiny_hello-1.0-py3-none-any.whl": ("application/octet-stream", WHEEL),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", urllib.parse.unquote(query))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        kind, body = PAGES.get(path, ("text/plain", None))
        if body is NPM_META:
            body = body.replace(b"HOST", self.headers.get("Host", "").encode())
        # The repository, as files.
        place = os.path.join("/srv/internet", path.lstrip("/"))
        if body is None and ".." not in path and os.path.isfile(place):
            with open(place, "rb") as file:
                body = file.read()
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    tls = None

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "internet", self.server_address[1]

    def finish_request(self, request, client_address):
        address, port = request.getsockname()[:2]
        with open(sys.argv[2], "a") as log:
            log.write(f"called {address.removeprefix('::ffff:')} {port}\n")
        try:
            request.settimeout(60)
            if self.tls:
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass


def serve():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[3], sys.argv[4])
    servers = [Server(("::", port), Handler) for port in (80, 443)]
    servers[1].tls = tls
    for server in servers:
        threading.Thread(target=server.serve_forever).start()


PUBLIC, LOOPBACK = "93.184.216.34", "127.0.0.1"
# A name's addresses; of several lists the next one each time it is asked for.
NAMES = {
    "public.dns.test": [[PUBLIC]],
    "inner.dns.test": [[LOOPBACK]],
    "zero.dns.test": [["0.0.0.0"]],
    "private.dns.test": [["10.1.2.3"]],
    "metadata.dns.test": [["169.254.169.254"]],
    "own.dns.test": [["93.184.216.1"]],
    "both.dns.test": [[PUBLIC, LOOPBACK]],
    "mapped.dns.test": [["::ffff:127.0.0.1"]],
    "six.dns.test": [["::1"]],
    "rebind.dns.test": [[PUBLIC], [LOOPBACK]],
}


def names():
    asked = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((sys.argv[2], 53))
        while True:
            query, peer = server.recvfrom(512)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
                at += 1 + query[at]
            kind = struct.unpack("!H", query[at + 1:at + 3])[0]
            question, name = query[12:at + 5], ".".join(labels)
            lists = NAMES.get(name, [])
            answers = []
            if lists:
                turn = asked.get((name, kind), 0)
                asked[name, kind] = turn + 1
                for address in lists[min(turn, len(lists) - 1)]:
                    six = ":" in address
                    if kind == (28 if six else 1):
                        data = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address)
                        answers.append(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data)
            flags = 0x8180 if lists else 0x8183
            head = query[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
            server.sendto(head + question + b"".join(answers), peer)


if __name__ == "__main__":
    {"serve": serve, "names": names}[sys.argv[1]]()
