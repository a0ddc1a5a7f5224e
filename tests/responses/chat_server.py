"""A chat server on a real socket that fails as a test asks for, and counts what it is paid for."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

Fault = Callable[[int, dict[str, Any]], str]
PROMPT_TOKENS, COMPLETION_TOKENS = 10, 5
UNPAID = {"429", "500", "503", "400", "401", "404", "redirect", "no-seed", "later", "soon"}


def no_fault(number: int, body: dict[str, Any]) -> str:
    """Answer every call."""
    return ""


@dataclass
class ChatServer:
    """What the server was asked and what it took money for; `fault` names what goes wrong."""

    fault: Fault = no_fault
    latency_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)  # "content/seed" of every call taken money for
    busy: int = 0
    most_busy: int = 0
    port: int = 0
    error_text: str = "it is broken"
    redirect_to: str = "http://169.254.169.254/latest/meta-data/"
    tls: ssl.SSLContext | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


def item(body: dict[str, Any]) -> str:
    """What tells one call from another."""
    return f"{body['messages'][-1]['content']}/{body.get('seed')}/{body['temperature']}"


def completion(body: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """A good answer."""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    message = {"role": "assistant", "content": f"answer to {item(body)}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "model": body["model"], "choices": [choice], "usage": usage, **extra}


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """Serve in threads until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            _handle(server, self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away

    http = Quiet(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    if server.tls:
        http.socket = server.tls.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        http.shutdown()
        thread.join()
        http.server_close()


def _handle(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
    body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    with server.lock:
        number = len(server.bodies)
        server.bodies.append(body)
        server.headers.append(dict(handler.headers))
        server.busy += 1
        server.most_busy = max(server.most_busy, server.busy)
    try:
        server.stopping.wait(server.latency_s)
        fault = server.fault(number, body)
        if fault not in UNPAID:
            with server.lock:
                server.paid.append(item(body))
        with suppress(ConnectionError, TimeoutError):
            _answer(server, handler, fault, body)
    finally:
        with server.lock:
            server.busy -= 1


def _answer(
    server: ChatServer, handler: BaseHTTPRequestHandler, fault: str, body: dict[str, Any]
) -> None:
    if not fault:
        _send(handler, 200, json.dumps(completion(body)).encode())
        return
    handler.close_connection = True
    if fault in RAW:
        RAW[fault](server, handler.wfile)
    elif fault == "redirect":
        _send(handler, 302, b"", {"Location": server.redirect_to})
    elif fault == "no-seed":
        said = b'{"error": {"message": "Unknown parameter: seed"}}'
        _send(handler, 400, said) if "seed" in body else _answer(server, handler, "", body)
    elif fault in UNPAID:
        asked = {"429": "0", "soon": "1", "later": "3600"}
        retry = {"Retry-After": asked[fault]} if fault in asked else {}
        error = json.dumps({"error": {"message": server.error_text, "type": "x"}}).encode()
        _send(handler, 429 if fault in asked else int(fault), error, retry)
    else:
        _send(handler, 200, *_odd(fault, handler, body))


def _odd(
    fault: str, handler: BaseHTTPRequestHandler, body: dict[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """A whole answer of status 200 that is not as it should be."""
    good = completion(body)
    if fault == "garbage":
        return b'{"choices": [', {}
    if fault == "packed":
        return json.dumps(good).encode(), {"Content-Encoding": "gzip"}
    if fault == "filtered":
        good["choices"][0]["finish_reason"] = "content_filter"
    elif fault == "uncounted":
        good["usage"] = None
    elif fault == "echo":
        good["choices"][0]["message"]["content"] = str(dict(handler.headers))
    return json.dumps(good).encode(), {}


def _silent(server: ChatServer, raw: BufferedIOBase) -> None:
    server.stopping.wait(1.5)


def _cut(server: ChatServer, raw: BufferedIOBase) -> None:
    raw.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [{"mess')


def _reset(server: ChatServer, raw: BufferedIOBase) -> None:
    pass  # the connection closes with nothing said


def _drip(server: ChatServer, raw: BufferedIOBase) -> None:
    raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
    _slowly(server, raw, b" ")


def _drip_headers(server: ChatServer, raw: BufferedIOBase) -> None:
    raw.write(b"HTTP/1.1 200 OK\r\n")
    _slowly(server, raw, b"x: y\r\n")


def _slowly(server: ChatServer, raw: BufferedIOBase, piece: bytes) -> None:
    for _ in range(40):
        raw.write(piece)
        if server.stopping.wait(0.05):
            return


def _endless(server: ChatServer, raw: BufferedIOBase) -> None:
    raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not server.stopping.is_set():
        raw.write(b" " * 65536)


RAW: dict[str, Callable[[ChatServer, BufferedIOBase], None]] = {
    "timeout": _silent,
    "cut": _cut,
    "reset": _reset,
    "drip": _drip,
    "drip-headers": _drip_headers,
    "endless": _endless,
}


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    if handler.close_connection:  # said aloud, or the next call may come on a dying connection
        handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body)
