"""Tracking servers that fail: real ones on a socket of this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("nobody listens", "sleeps", "500", "403", "503 for an hour", "not MLflow")


@contextmanager
def lost_server(kind: str) -> Iterator[str]:
    """Yield the address of a server that fails in one of `KINDS`, with a password in it."""
    if kind == "nobody listens":
        with socket.socket() as held:  # bound and not listening: nobody else gets the port
            held.bind(("127.0.0.1", 0))
            yield f"http://me:secret@127.0.0.1:{held.getsockname()[1]}"
        return

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if kind == "sleeps":
                gone.wait(30)
                return
            code = int(kind[:3]) if kind[0].isdigit() else 200
            self.send_response(code)
            if kind == "503 for an hour":
                self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"<>")

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    gone = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
    finally:
        gone.set()
        server.shutdown()
        thread.join()
        server.server_close()
