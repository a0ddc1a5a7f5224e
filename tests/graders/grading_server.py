"""A grading model on a real socket: what it says is a function of the messages it is sent."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from preftune.graders.model_graders import ClientOf
from preftune.responses.http_client import HttpChatClient
from preftune.responses.remote import HttpSettings


@dataclass
class Reply:
    """One answer."""

    text: str
    finish_reason: str = "stop"
    status: int = 200


@dataclass
class GradingServer:
    """Says what `say` makes of the last message, and remembers what it was sent."""

    say: Callable[[str], Reply] = lambda _: Reply("{}")
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    @property
    def client_of(self) -> ClientOf:
        """Who asks it."""
        settings = HttpSettings(
            url=self.url, allow_urls=(self.url,), attempts=1, breaker=1000, timeout_s=5.0
        )
        return lambda model: HttpChatClient(settings, model)


@contextmanager
def serving_grades() -> Iterator[GradingServer]:
    """Serve until the block ends."""
    server = GradingServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            reply = server.say(body["messages"][-1]["content"])
            message = {"role": "assistant", "content": reply.text}
            choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
            usage = {"prompt_tokens": 10, "completion_tokens": 5}
            answer = {"model": body["model"], "choices": [choice], "usage": usage}
            encoded = json.dumps(answer).encode()
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
