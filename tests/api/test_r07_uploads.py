"""R7: server and client are killed in the middle of uploads; nothing half is ever seen."""

import contextlib
import hashlib
import itertools
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from tests.api.conftest import key_for, new_project
from tests.serving.conftest import free_port
from tests.store.forked import Forks, forks
from tests.store.sizes import size

from preftune.serving.base_models import BaseModels
from preftune.store.blobs import BLOBS, TEMPORARY
from preftune.store.database import Database

KILLS, PARTS, PART_BYTES = size(5, 100), size(6, 24), size(2**20, 2**23)
MEMORY_FILE_BYTES = size(48, 200) * 2**20
MOST_GROWTH_KIB = 64 * 1024
PATIENCE_S = 60.0
MODULES = ("preftune.serving.serve", "preftune.cli.serve")
PIECE = 16 * 1024


@dataclass(kw_only=True)
class Mortal:
    """A server that can be killed and started again, at the same address."""

    forks: Forks
    store: Path
    base: str
    secret: str
    port: int
    process: int = 0

    def start(self) -> None:
        arguments = ("serve", "--store", str(self.store), "--model", self.base)
        self.process = self.forks.run(*arguments, "--port", str(self.port), "--max-jobs", "0")
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def end(self, sign: int = signal.SIGKILL) -> None:
        self.forks.end(self.process, sign)

    def client(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.secret}"}
        url = f"http://127.0.0.1:{self.port}/v1"
        return httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60)

    def memory_kib(self, name: str) -> int:
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0])

    def _answers(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}/healthz"
            return bool(httpx2.get(url, trust_env=False).status_code == 200)
        except httpx2.TransportError:
            return False


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, bases: BaseModels) -> Iterator[Mortal]:
    folder = tmp_path_factory.mktemp("r07")
    with Database(folder / "store.db") as database:
        _, secret = key_for(database, new_project(database, "default"))
    ((name, where),) = bases.folders.items()
    with forks(folder / "log", *MODULES) as parent:
        server = Mortal(
            forks=parent,
            store=folder / "store.db",
            base=f"{name}={where}",
            secret=secret,
            port=free_port(),
        )
        server.start()
        yield server
        server.end(signal.SIGTERM)


def rows(count_bytes: int, seed: int) -> bytes:
    """Return JSON Lines of about so many bytes."""
    draw = random.Random(seed)
    lines = []
    while count_bytes > 0:
        line = json.dumps({"text": draw.randbytes(20_000).hex()}).encode() + b"\n"
        lines.append(line)
        count_bytes -= len(line)
    return b"".join(lines)


def form(field: str, content: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Return a form as bytes, and its headers."""
    said = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="a.jsonl"\r\n\r\n'
    body = "".join((*said, head)).encode() + content + b"\r\n--b--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=b"}


def slowly(body: bytes, after: int, then: Callable[[], None]) -> Iterator[bytes]:
    """Yield a body in pieces; once so many bytes are out, something happens."""
    for at in range(0, len(body), PIECE):
        if at <= after < at + PIECE:
            then()
        yield body[at : at + PIECE]


@contextmanager
def cut_off() -> Iterator[None]:
    """Let a request end as it may when the other side dies."""
    with contextlib.suppress(httpx2.TransportError):
        yield


def half_files(server: Mortal) -> list[Path]:
    return list((server.store.with_name("store.db.files") / TEMPORARY).glob("*.tmp"))


def contents_are_whole(server: Mortal) -> int:
    """Check that each content is what its name says; return how many there are."""
    folder = server.store.with_name("store.db.files") / BLOBS
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in found:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    return len(found)


def test_r07_an_upload_goes_on_after_kills_of_the_server_and_no_file_is_half(
    mortal: Mortal,
) -> None:
    content = rows(PARTS * PART_BYTES, seed=1)
    cuts = [len(content) * n // PARTS for n in range(PARTS + 1)]
    pieces = [content[a:b] for a, b in itertools.pairwise(cuts)]
    draw, killed = random.Random(2), 0
    said = {"filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    with mortal.client() as client:
        upload = client.post("/uploads", json={**said, "bytes": len(content)}).json()["id"]
    arrived: dict[int, str] = {}
    while len(arrived) < PARTS:
        number = next(n for n in range(PARTS) if n not in arrived)
        body, headers = form("data", pieces[number])
        kill = killed < KILLS
        after = draw.randrange(len(body)) if kill else -1
        with mortal.client() as client, cut_off():
            answer = client.post(
                f"/uploads/{upload}/parts",
                content=slowly(body, after, mortal.end),
                headers={**headers, "Content-Length": str(len(body))},
            )
            arrived[number] = answer.json()["id"]
        if kill:
            killed += 1
            mortal.start()
            assert half_files(mortal) == []
        with mortal.client() as client:
            assert client.get("/files").json()["data"] == []
            listed = client.get(f"/uploads/{upload}/parts").json()["data"]
        assert set(arrived.values()) <= {part["id"] for part in listed}
        contents_are_whole(mortal)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    with mortal.client() as client:
        sent = {"part_ids": [arrived[n] for n in range(PARTS)], "md5": md5}
        file = client.post(f"/uploads/{upload}/complete", json=sent).json()["file"]
        assert client.get(f"/files/{file['id']}/content").content == content
        client.delete(f"/files/{file['id']}")
    assert killed == KILLS


def test_r07_a_file_whose_server_was_killed_is_not_there_or_whole(mortal: Mortal) -> None:
    """The request has a key: asked again, it is answered with the file that came through."""
    content = rows(PART_BYTES, seed=3)
    body, headers = form("file", content, purpose="fine-tune")
    draw = random.Random(4)
    for number in range(size(3, 30)):
        key = {**headers, "Idempotency-Key": f"file-{number}"}
        killer = threading.Timer(draw.uniform(0.0, 0.08), mortal.end)
        with mortal.client() as client, cut_off():
            killer.start()
            client.post("/files", content=body, headers=key)
        killer.join()
        mortal.start()
        with mortal.client() as client:
            seen = client.get("/files").json()["data"]
            made = client.post("/files", content=body, headers=key).json()
            assert [file["id"] for file in seen] in ([], [made["id"]])
            listed = client.get("/files").json()["data"]
            assert [file["id"] for file in listed] == [made["id"]]
            assert client.get(f"/files/{made['id']}/content").content == content
            client.delete(f"/files/{made['id']}")


def test_r07_t22_clients_that_go_away_leave_nothing(mortal: Mortal) -> None:
    body, headers = form("file", rows(PART_BYTES, seed=5), purpose="fine-tune")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    for number in range(size(5, 50)):
        with socket.create_connection(("127.0.0.1", mortal.port)) as sender:
            sender.sendall(
                f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {mortal.secret}\r\n{head}\r\n".encode()
            )
            sender.sendall(body[: len(body) * (number + 1) // 7])
    deadline = time.monotonic() + PATIENCE_S
    while half_files(mortal):
        assert time.monotonic() < deadline, "half files stay"
        time.sleep(0.02)
    with mortal.client() as client:
        assert client.get("/files").json()["data"] == []


def test_r07_a_large_file_needs_little_memory(mortal: Mortal) -> None:
    line = json.dumps({"text": 30_000 * "long "}).encode() + b"\n"
    count = MEMORY_FILE_BYTES // len(line)
    head, headers = form("file", b"", purpose="fine-tune")
    head, tail = head[: -len(b"\r\n--b--\r\n")], b"\r\n--b--\r\n"

    def body() -> Iterator[bytes]:
        yield head
        for _ in range(count):
            yield line
        yield tail

    with mortal.client() as client:
        client.get("/files")
        before_kib = mortal.memory_kib("VmRSS")
        answer = client.post("/files", content=body(), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] == count * len(line)
        assert mortal.memory_kib("VmHWM") - before_kib < MOST_GROWTH_KIB
        got = hashlib.sha256()
        with client.stream("GET", f"/files/{answer.json()['id']}/content") as said:
            for piece in said.iter_bytes():
                got.update(piece)
    wanted = hashlib.sha256()
    for _ in range(count):
        wanted.update(line)
    assert got.digest() == wanted.digest()


def test_r13_the_server_is_back_within_seconds_of_a_kill(mortal: Mortal) -> None:
    mortal.end()
    began = time.monotonic()
    mortal.start()
    assert time.monotonic() - began < 20  # below 3 s on a machine with nothing else to do


def test_t05_t28_the_log_of_all_this_has_no_key_and_no_crash(mortal: Mortal) -> None:
    said = mortal.store.with_name("log").read_text()
    assert '"path":"/v1/files"' in said
    assert mortal.secret not in said
    assert "Traceback" not in said, said[said.index("Traceback") :][:3000]
