"""`preftune serve` as a real process: its start, what it prints, and what it refuses."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.api.jobs_world import base_model
from tests.conftest import Ran
from tests.serving.commands import Start, first_lines, starting
from tests.serving.conftest import free_port

SERVE = [sys.executable, "-m", "preftune.cli.main", "serve"]


@pytest.fixture
def started() -> Iterator[Start]:
    """Start `preftune serve` with flags; it ends with the test."""
    with starting(SERVE) as start:
        yield start


def test_the_first_start_prints_address_key_and_link_and_loads_no_torch(
    started: Start, tmp_path: Path
) -> None:
    base_model(tmp_path / "tiny")
    (tmp_path / "models.yaml").write_text("tiny: tiny\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("--store", tmp_path / "p.db", "--models", tmp_path / "models.yaml", "--port", port)
    began = time.monotonic()
    process = started(*flags)
    said = first_lines(process, 7)
    assert time.monotonic() - began < 30  # below 3 s on a machine with nothing else to do
    key = said[2]
    assert said[0] == f"serving at {url}/v1"
    assert key.startswith("pft_")
    assert said[3:5] == [f"export OPENAI_BASE_URL={url}/v1", f"export OPENAI_API_KEY={key}"]
    assert said[6].startswith(f"{url}/setup#")
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    with httpx2.Client(base_url=url, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {key}"}
        assert client.get("/v1/models", headers=headers).json()["data"][0]["id"] == "tiny"
        assert client.get("/v1/models").status_code == 401
        assert [client.get(path).status_code for path in ("/login", "/healthz")] == [200, 200]
    process.send_signal(signal.SIGTERM)
    out = "stopped; every job goes on when the server is started again\n"
    assert process.communicate(timeout=30)[0] == out
    assert process.returncode == 0
    again = started(*flags, "--max-jobs", 0)
    assert first_lines(again, 1) == [f"serving at {url}/v1"]
    again.send_signal(signal.SIGINT)
    assert "pft_" not in again.communicate(timeout=30)[0]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "no model to tune"),
        (["--model", "tiny=nowhere"], "no config.json"),
        (["--model", "org/name"], "downloaded"),
        (["--model", "tiny={tiny}", "--host", "::"], "--insecure on a network that you trust"),
        (["--model", "tiny={tiny}", "--result-encoding", "zip"], "result_encoding"),
        (["--model", "tiny={tiny}", "--max-jobs", "-1"], "max_jobs"),
        (["--model", "tiny={tiny}", "--config", "{config}"], "Did you mean 'least_examples'"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_made(
    run_cli: Callable[..., Ran], tmp_path: Path, flags: list[str], problem: str
) -> None:
    tiny, config = base_model(tmp_path / "tiny"), tmp_path / "config.yaml"
    config.write_text("least_example: 3\n")
    given = [one.format(tiny=tiny, config=config) for one in flags]
    ran = run_cli("serve", "--store", tmp_path / "p.db", "--port", 0, *given)
    assert (ran.code, ran.out) == (2, "")
    assert problem in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "tiny"]
