"""A model hub on loopback: enough of its HTTP for one file at a time, and the faults that a network has."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubStub:
    """files: by repository/path. cut: after how many bytes of an answer the connection is closed. etags: another than
    the file's digest. ranges: whether it honours them. asked: (method, path, range) of each request for
    a file."""

    files: dict[str, bytes]
    url: str = ""
    cut: int | None = None
    etags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    gated: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def downloads(self) -> list[tuple[str, str]]:
        """(file, range) of each GET."""
        return [(path.rpartition("/")[2], span) for method, path, span in self.asked if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    stub: ClassVar[HubStub]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        stub, span = self.stub, self.headers.get("Range", "")
        repository, resolve, rest = self.path.lstrip("/").partition("/resolve/")
        if resolve:  # the library asks for other things besides
            stub.asked.append((self.command, self.path, span))
        revision, _, path = rest.partition("/")
        data = stub.files.get(f"{repository}/{path}")
        if stub.gated or data is None or revision not in ("main", COMMIT):
            self.send_response(403 if stub.gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if stub.gated else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span and stub.ranges else 0
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{stub.etags.get(path, hashlib.sha256(data).hexdigest())}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(data[begin:] if stub.cut is None else data[begin : begin + stub.cut])
            self.close_connection = stub.cut is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_hub(files: dict[str, bytes]) -> Iterator[HubStub]:
    stub = HubStub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub}))
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
