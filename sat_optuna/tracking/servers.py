"""Serves optuna-dashboard and the MLflow UI to this machine alone, because neither has a password.

Both functions block until Ctrl-C, SIGTERM or SIGHUP and then return; call them in the main thread.
"""

import contextlib
import errno
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sat_optuna.errors import ServerError, errors_as
from sat_optuna.tracking.store import MLFLOW_SETTINGS, bring_artifacts, store_file, store_uri

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from optuna.artifacts._protocol import ArtifactStore
    from optuna.storages import BaseStorage

__all__ = ["dashboard_app", "serve_dashboard", "serve_mlflow"]

_START_SECONDS = 180.0  # on a busy machine MLflow's imports alone take 10 s
_STOP_SECONDS = 10.0
# No other page may show this one within itself, where a user would click on what is not seen.
_UNFRAMED = (("X-Frame-Options", "DENY"), ("Content-Security-Policy", "frame-ancestors 'none'"))
# A page that somebody uploaded as an artifact must run nothing here.
_UPLOADED = (("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))
# By the header Host. MLflow's own list has 10.*, which 10.evil.example matches.
_HERE = ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", "[::1]", "[[]::1]:*")
# Kills a group of processes once its own input ends, as it does when the parent is gone.
_KEEPER = 'read group || exit; read end; kill -s KILL -- "-$group"'


def _ignore(_url: str) -> None:
    """Do nothing: the default of `on_ready`."""


def serve_dashboard(
    storage: "BaseStorage | str",
    *,
    artifacts: "ArtifactStore | None" = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    on_ready: Callable[[str], object] = _ignore,
) -> None:
    """Serve optuna-dashboard on a study's storage until the process is told to end.

    Args:
        storage: an open storage of Optuna's, or the URL of an existing one, for example
            `sqlite:///studies/mnist5k-se/study.db`; or a `ShownStudies`, which of several
            databases is only read.
        artifacts: where the artifacts of its studies are; None for none.
        host: a loopback address, or localhost.
        port: the port to listen on; 0 takes a free one.
        on_ready: called with the server's URL when it listens.

    Raises:
        ServerError: the port is in use, the host is no loopback address, or the storage cannot be
            read.
    """
    _check_host(host)
    with _until_told_to_end():
        server_class = _ServerV6 if ":" in host else _Server
        try:
            dashboard = dashboard_app(storage, artifacts)
            server = make_server(host, port, dashboard, server_class, _SilentHandler)
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, error) from error
        with server:
            on_ready(_url(host, server.server_port))
            server.serve_forever()


def serve_mlflow(
    root: str | Path = "mlruns",
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    on_ready: Callable[[str], object] = _ignore,
) -> None:
    """Serve the MLflow UI on a folder of runs until the process is told to end.

    Args:
        root: the folder that holds mlflow.db. If MLFLOW_TRACKING_URI is set, it is used instead.
        host: a loopback address, or localhost.
        port: the port to listen on; 0 takes a free one.
        on_ready: called with the server's URL when it answers.

    Raises:
        ServerError: the port is in use, the host is no loopback address, there are no runs yet,
            the runs are on a tracking server, or MLflow does not start.
    """
    _check_host(host)
    uri = _served_uri(Path(root))
    port = _free_port(host, port)
    with _until_told_to_end(), tempfile.TemporaryFile() as log, _keeper() as keep:
        # The server gets its own session, so Ctrl-C reaches only this process, which ends it.
        child = subprocess.Popen(
            _mlflow_command(Path(root), host, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_mlflow_environment(uri),
            start_new_session=True,
        )
        keep(child.pid)
        try:
            _wait_until_healthy(_url(host, port), child, log)
            on_ready(_url(host, port))
            code = child.wait()
            raise ServerError(f"the MLflow server has ended with code {code}: {_last_line(log)}")
        finally:
            _end_group(child)


@contextlib.contextmanager
def _keeper() -> Iterator[Callable[[int], None]]:
    """Yield what is told a group of processes; it dies with this process, by kill -9 too."""
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stdin = cast("IO[bytes]", keeper.stdin)

    def keep(group: int) -> None:
        stdin.write(f"{group}\n".encode())
        stdin.flush()

    try:
        yield keep
    finally:
        keeper.kill()  # before its input ends: the group is gone, and its number may be another's
        stdin.close()
        keeper.wait()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser that keeps its connection must not delay the end


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: no line is printed for a request."""


def dashboard_app(
    storage: "BaseStorage | str", artifacts: "ArtifactStore | None" = None
) -> "WSGIApplication":
    """Return optuna-dashboard as `serve_dashboard` serves it, which pages of this machine may ask.

    Args:
        storage: as of `serve_dashboard`.
        artifacts: as of `serve_dashboard`.

    Raises:
        ServerError: the storage cannot be read.
    """
    import sqlalchemy.exc
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    from sat_optuna.tracking.several import ShownStudies

    try:
        if isinstance(storage, str):
            # A running search locks SQLite for short times, so wait up to 60 s instead of 5 s.
            patience = {"timeout": 60} if storage.startswith("sqlite") else {}
            storage = RDBStorage(storage, engine_kwargs={"connect_args": patience})
        shown = storage if isinstance(storage, ShownStudies) else ShownStudies({"": storage})
        served = wsgi(shown, artifact_store=artifacts)
        return _only_from_here(served if shown.is_one else _reading_alone(served))
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ServerError(
            f"optuna-dashboard cannot read {storage}: {reason}; "
            "give the folder of a study that this version has written"
        ) from error


def _reading_alone(dashboard: "WSGIApplication") -> "WSGIApplication":
    """Refuse what would change a study, with a sentence that the pages show."""
    from sat_optuna.tracking.several import READ_ONLY

    def guarded(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return dashboard(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": READ_ONLY}).encode()]

    return guarded


def _only_from_here(dashboard: "WSGIApplication") -> "WSGIApplication":
    """Refuse requests that a foreign web page makes the browser send, and to be framed by one.

    optuna-dashboard itself checks neither the header Host nor Origin. Without the check of Host, a
    page could rebind its own name to 127.0.0.1 and delete studies.
    """

    def guarded(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        def unframed(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            asked = environ.get("PATH_INFO", "")
            extra = _UPLOADED if asked.startswith("/artifacts/") else ()
            return start(status, [*headers, *_UNFRAMED, *extra], *more)

        host, origin = f"//{environ.get('HTTP_HOST', '')}", environ.get("HTTP_ORIGIN")
        if _is_loopback(_hostname(host)) and (origin is None or _is_loopback(_hostname(origin))):
            return dashboard(environ, unframed)
        start("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"only pages of this machine may ask\n"]

    return guarded


def _served_uri(root: Path) -> str:
    uri, database = store_uri(root), root.resolve() / "mlflow.db"
    if uri.startswith(("http:", "https:")):
        raise ServerError(
            f"MLFLOW_TRACKING_URI names the server {uri}, which has a UI of its own; "
            "open it in a browser, or unset the variable to see the runs of this folder"
        )
    if store_file(root) == database:
        if not database.exists():
            raise ServerError(
                f"{root} holds no mlflow.db: no run was logged there; run a study first"
            )
        with errors_as(ServerError, f"cannot read {database}", "bring it back from a copy"):
            bring_artifacts(root)
    return uri


def _mlflow_command(root: Path, host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1"]
    command += ["--artifacts-destination", str(root.resolve() / "artifacts")]
    command += ["--allowed-hosts", ",".join((*_HERE, host))]
    return [*command, "--host", host, "--port", str(port)]


def _mlflow_environment(uri: str) -> dict[str, str]:
    return {
        **MLFLOW_SETTINGS,
        **os.environ,
        # The URI may hold a password, and every user of the machine can read an argument.
        "MLFLOW_BACKEND_STORE_URI": uri,
        # MLflow's job runner takes eight processes and 2 GB, and nothing here uses it.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _wait_until_healthy(url: str, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    # A proxy that is set in the environment must not be asked for an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            code = child.returncode
            raise ServerError(f"the MLflow server ended with code {code}: {_last_line(log)}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise ServerError(
        f"the MLflow server has not answered for {_START_SECONDS:.0f} s: {_last_line(log)}"
    )


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End a child and all its descendants; kill those that do not end when they are asked to."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def _until_told_to_end() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the block as Ctrl-C does; nothing is raised after the block."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in before:  # a second Ctrl-C must not interrupt the ending of the server
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # A signal that is ignored stays ignored: nohup relies on that.
    before = {n: signal.getsignal(n) for n in ends if signal.getsignal(n) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_host(host: str) -> None:
    if not _is_loopback(host):
        raise ServerError(
            f"host {host} given, but the server has no password and listens on this machine "
            "alone; give 127.0.0.1 or localhost, and come from elsewhere through an SSH tunnel"
        )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _hostname(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: Exception) -> ServerError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ServerError(
            f"port {port} of {host} is in use; end what listens there or choose another "
            "port with --port"
        )
    return ServerError(f"cannot listen on port {port} of {host}: {error}; choose another --port")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
