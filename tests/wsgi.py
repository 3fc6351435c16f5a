"""A web application asked without a server."""

import io
import json
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

__all__ = ["Answer", "ask"]


class Answer(NamedTuple):
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's values."""
        return json.loads(self.body)


def ask(
    app: WSGIApplication, path: str, *, method: str = "GET", sent: object = None, query: str = ""
) -> Answer:
    """Ask an application as a page of this machine does."""
    body = b"" if sent is None else json.dumps(sent).encode()
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {
        "HTTP_HOST": "localhost",
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    answered: dict[str, Any] = {}

    def start(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        answered.update(status=int(status.split()[0]), headers=dict(headers))

    content = app(environ, start)
    try:
        return Answer(body=b"".join(content), **answered)
    finally:
        getattr(content, "close", int)()  # as a server does
