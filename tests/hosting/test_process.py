"""The process itself, at its socket."""

import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from preftune.types import user
from preftune.wire.chat import (
    Ask,
    Begun,
    Choice,
    Done,
    Drawing,
    Failed,
    Health,
    Score,
    Scored,
    ScoreRow,
    Unload,
    read_line,
)

HELLO = (user("wash it?"),)
STARTED_S = 60


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    path = tmp_path_factory.mktemp("socket") / "generate.sock"
    command = [sys.executable, "-m", "preftune.hosting", "--socket", str(path), "--rows", "4"]
    with subprocess.Popen(command) as process:
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, base_url="http://generate", timeout=60) as found:
            wait_for(found, process)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            yield found
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not path.exists()


def wait_for(client: httpx2.Client, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + STARTED_S
    while time.monotonic() < end and process.poll() is None:
        try:
            client.get("/health")
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"not started after {STARTED_S} s, exit code {process.poll()}")


def post(client: httpx2.Client, path: str, body: msgspec.Struct) -> httpx2.Response:
    return client.post(path, content=msgspec.json.encode(body))


def test_lines_over_the_socket(client: httpx2.Client, model_folder: Path) -> None:
    ask = Ask(model=str(model_folder), messages=HELLO, drawing=Drawing(max_tokens=5, seed=1))
    reply = post(client, "/generate", ask)
    assert reply.status_code == 200
    told = [read_line(line) for line in reply.content.splitlines()]
    assert [type(one) for one in told] == [Begun, Choice, Done]


def test_a_refusal_has_its_status(client: httpx2.Client, model_folder: Path) -> None:
    reply = post(client, "/generate", Ask(model=str(model_folder), ids=()))
    assert reply.status_code == 400
    assert isinstance(read_line(reply.content), Failed)
    for path in ("/generate", "/score", "/unload"):
        broken = client.post(path, content=b"{")
        assert broken.status_code == 400
        assert isinstance(read_line(broken.content), Failed)


def test_scores_over_the_socket(client: httpx2.Client, reward_folder: Path) -> None:
    row = ScoreRow(messages=HELLO, response=(user("x"),))
    refused = post(client, "/score", Score(reward_model=str(reward_folder), rows=(row,)))
    assert refused.status_code == 400  # a response is the assistant's
    from preftune.types import assistant

    row = ScoreRow(messages=HELLO, response=(assistant("x"),))
    reply = post(client, "/score", Score(reward_model=str(reward_folder), rows=(row,)))
    assert len(msgspec.json.decode(reply.content, type=Scored).scores) == 1


def test_a_dropped_client_frees_its_places(client: httpx2.Client, model_folder: Path) -> None:
    drawing = Drawing(max_tokens=900, temperature=2.0)
    ask = Ask(model=str(model_folder), messages=HELLO, drawing=drawing, n=4, stream=True)
    with client.stream("POST", "/generate", content=msgspec.json.encode(ask)) as reply:
        next(reply.iter_lines())
        health = msgspec.json.decode(client.get("/health").content, type=Health)
        assert health.writing + health.waiting > 0
    end = time.monotonic() + 15
    while time.monotonic() < end:
        health = msgspec.json.decode(client.get("/health").content, type=Health)
        if health.writing == 0:
            break
        time.sleep(0.02)
    assert (health.writing, health.waiting) == (0, 0)


def test_unload_forgets_a_model(client: httpx2.Client, model_folder: Path) -> None:
    folder = str(model_folder.resolve())
    post(client, "/generate", Ask(model=folder, text="x", drawing=Drawing(max_tokens=1)))
    before = msgspec.json.decode(client.get("/health").content, type=Health)
    after = msgspec.json.decode(
        post(client, "/unload", Unload(folders=(folder,))).content, type=Health
    )
    assert folder in before.models
    assert folder not in after.models
    assert after.weight_bytes < before.weight_bytes


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "preftune.hosting",
        "--socket",
        str(tmp_path / "s"),
        "--rows",
        "0",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: preftune.hosting: rows")
    assert len(ran.stderr.splitlines()) == 1
