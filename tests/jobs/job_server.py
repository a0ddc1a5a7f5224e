"""The server's side of the worker protocol: honest, in memory, and strict about the fence."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from preftune.engine.checkpoint import verify
from preftune.files import sha256_of
from preftune.wire.job import LOST, Beat, Beaten, Checkpoint, Event, Events, Finish, Named, Started

WORKER = "known-to-this-worker"
KINDS: dict[str, Any] = {
    "beat": Beat,
    "events": Events,
    "started": Started,
    "checkpoint": Checkpoint,
    "finish": Finish,
}


@dataclass(kw_only=True, slots=True)
class JobServer:
    """What one job's workers told, each event once, and what they are asked to do."""

    url: str = ""
    fence: int = 1
    folder: Path = Path()  # of the current attempt
    asked: str = ""
    away: bool = False  # answers 503 to everything
    events: dict[str, Event] = field(default_factory=dict)
    told: list[tuple[str, Any]] = field(default_factory=list)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    folders: dict[int, Path] = field(default_factory=dict)
    starts: list[Started] = field(default_factory=list)
    ends: list[Finish] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: int = 0  # messages of workers that are not current
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, what: str, body: bytes, secret: str) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        with self.lock:
            if self.away:
                return 503, b"{}"
            message = msgspec.json.decode(body, type=KINDS[what])
            if secret != f"Bearer {WORKER}" or message.fence != self.fence or self._over():
                self.refused += 1
                return LOST, b"{}"
            self.told.append((what, message))
            return 200, msgspec.json.encode(self._act(message))

    def _over(self) -> bool:
        return any(end.fence == self.fence for end in self.ends)

    def _act(self, message: Any) -> Any:
        match message:
            case Beat():
                return Beaten(asked=self.asked)  # type: ignore[arg-type]  # the tests set words of it
            case Events():
                for event in message.events:
                    before = self.events.setdefault(event.key, event)
                    if before.data != event.data and event.type == "metrics":
                        self.problems.append(f"{event.key} was told with other figures")
            case Started():
                self.starts.append(message)
            case Checkpoint():
                self._publish(message)
                return Named(name=f"ft:base::x:ckpt-step-{message.step}")
            case Finish():
                if message.outcome == "succeeded":
                    self._check_folder(message)
                self.ends.append(message)
        return None

    def _publish(self, message: Checkpoint) -> None:
        self._check_folder(message)
        if message.step not in self.checkpoints:
            self.checkpoints[message.step] = message
            self.folders[message.step] = self.folder / message.folder

    def _check_folder(self, message: Checkpoint | Finish) -> None:
        folder = self.folder / message.folder
        wrong = verify(folder)
        if wrong or sha256_of(folder / "MANIFEST.json") != message.manifest_hash:
            self.problems.append(f"{message.folder}: {wrong or 'another manifest'}")

    def steps(self) -> list[Event]:
        """Return the events of steps in the order they were first told."""
        return [event for event in self.events.values() if event.type == "metrics"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one message."""
        job: JobServer = self.server.job  # type: ignore[attr-defined]  # set by `serving`
        body = self.rfile.read(int(self.headers["content-length"]))
        what = self.path.rsplit("/", 1)[-1]
        status, answer = job.answer(what, body, self.headers.get("authorization", ""))
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve(job: JobServer) -> ThreadingHTTPServer:
    """Start a server for a job and note its address; the caller shuts it down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.job = job  # type: ignore[attr-defined]  # the handler reads it
    job.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
