"""`preftune jobs` and `preftune files` against a real server, whose worker trains nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.api import jobs_world
from tests.api.jobs_world import CHAT_ROW, Server, jsonl
from tests.conftest import Ran
from tests.serving.conftest import free_port

start_server = jobs_world.start_server
FAST, SLOW = ("--hyper", "batch_size=1"), ("--hyper", "batch_size=100")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


@pytest.fixture(autouse=True)
def here(server: Server) -> Iterator[None]:
    """The environment of a user of this server."""
    told = {"PREFTUNE_API_KEY": server.key, "PREFTUNE_URL": url_of(server)}
    os.environ.update(told)
    yield
    for name in told:
        del os.environ[name]


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(CHAT_ROW, 12))
    return file


def create(run_cli: Callable[..., Ran], rows: Path, *more: object) -> Ran:
    made = ("--model", "tiny", "--training-file", rows, "--method", "supervised")
    epochs = ("--hyper", "n_epochs=1")
    return run_cli("jobs", "create", *made, *epochs, *more)


def test_a_job_is_made_followed_and_its_result_written(
    run_cli: Callable[..., Ran], rows: Path, tmp_path: Path
) -> None:
    ran = create(run_cli, rows, *FAST, "--suffix", "desk", "--metadata", "team=a", "--watch")
    job_id, *told = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert job_id.startswith("ftjob-")
    assert told[0] == f"Created fine-tuning job: {job_id}"
    assert told[-1] == "The job has successfully completed"
    assert [line for line in told if line.startswith("New fine-tuned model created: ft:tiny:")]
    assert not [line for line in told if line.startswith("Step ")]  # the bar shows these
    shown = json.loads(run_cli("jobs", "show", job_id).out)
    assert shown["metadata"] == {"team": "a"}
    assert shown["method"]["supervised"]["hyperparameters"]["batch_size"] == 1
    written = run_cli("jobs", "download", job_id, "--out", tmp_path / "results")
    (file,) = (tmp_path / "results").iterdir()
    assert written.out.startswith(f"{file}: ")
    assert file.read_text().startswith("step,train_loss\n1,")
    events = run_cli("jobs", "events", job_id, "--limit", "100").out.splitlines()
    assert events[0].endswith(f"Created fine-tuning job: {job_id}")
    assert len([line for line in events if re.search(r"  Step \d+/10: ", line)]) == 10
    assert run_cli("jobs", "events", job_id, "--limit", "3").out.splitlines() == events[-3:]


def test_a_job_is_paused_resumed_and_cancelled(run_cli: Callable[..., Ran], rows: Path) -> None:
    job_id = create(run_cli, rows, *SLOW).out.strip()
    assert run_cli("jobs", "pause", job_id).out == f"{job_id} is paused\n"
    assert run_cli("jobs", "watch", job_id).code == 3
    again = run_cli("jobs", "pause", job_id)
    assert (again.code, again.out) == (2, "")
    assert "is paused and cannot be paused" in again.err
    assert run_cli("jobs", "resume", job_id).out == f"{job_id} is queued\n"
    assert run_cli("jobs", "cancel", job_id).out == f"{job_id} is cancelled\n"
    ended = run_cli("jobs", "watch", job_id)
    assert (ended.code, ended.out.splitlines()[-1]) == (1, "The job was cancelled")
    assert run_cli("jobs", "download", job_id).code == 2


def test_following_goes_on_when_the_server_is_killed_and_started_again(
    run_cli: Callable[..., Ran], rows: Path, server: Server
) -> None:
    job_id = create(run_cli, rows, *SLOW).out.strip()
    command = [sys.executable, "-m", "preftune.cli.main", "jobs", "watch", job_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        server.wait(lambda: server.job(job_id)["status"] == "running")
        server.end(signal.SIGKILL)
        server.start()
        told, _ = watching.communicate(timeout=60)
    lines = told.splitlines()
    assert (watching.returncode, lines[-1]) == (0, "The job has successfully completed")
    assert lines.count("Fine-tuning job started") == 1


def test_jobs_and_files_are_listed(run_cli: Callable[..., Ran], rows: Path) -> None:
    made = [
        create(run_cli, rows, "--metadata", "team=b", "--metadata", f"n={n}").out.strip()
        for n in range(3)
    ]
    for job_id in made:
        run_cli("jobs", "cancel", job_id)
    listed = run_cli("jobs", "list", "--metadata", "team=b").out.splitlines()
    assert [line.split()[0] for line in listed] == made[::-1]
    assert "supervised of tiny" in listed[0]
    (one,) = run_cli("jobs", "list", "--metadata", "n=1").out.splitlines()
    assert one.startswith(made[1])
    assert len(run_cli("jobs", "list", "--limit", "2").out.splitlines()) == 2


def test_files_are_uploaded_used_and_deleted(run_cli: Callable[..., Ran], rows: Path) -> None:
    odd = rows.rename(rows.with_name("r\x1b[31mows.jsonl"))
    uploaded = run_cli("files", "upload", odd)
    file_id = uploaded.out.split()[0]
    listed = run_cli("files", "list", "--limit", "1").out
    assert listed.startswith(file_id)
    assert "\\x1b[31m" in listed
    assert "\x1b" not in listed + uploaded.out
    made = create(run_cli, Path(file_id))
    run_cli("jobs", "cancel", made.out.strip())
    assert run_cli("files", "delete", file_id).out == f"{file_id} is deleted\n"
    gone = run_cli("files", "delete", file_id)
    assert (gone.code, gone.err) == (2, f"error: server: No such File object: {file_id}\n")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--hyper", "n_epoch=2"], "n_epochs"),
        (["--hyper", "n_epochs"], "Write it as NAME=VALUE"),
        (["--hyper", "learning_rate_multiplier=NaN"], "learning_rate_multiplier=NaN"),
        (["--hyper", "n_epochs=Infinity"], "n_epochs=Infinity"),
        (["--validation-file", "none.jsonl"], "none.jsonl: no such file"),
        (["--extra", "lora_rnk=2"], "lora_rank"),
    ],
)
def test_a_mistake_is_one_line(
    run_cli: Callable[..., Ran], rows: Path, more: list[str], says: str
) -> None:
    ran = create(run_cli, rows, *more)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert says in ran.err


def test_without_a_key_or_a_server_the_way_out_is_said(run_cli: Callable[..., Ran]) -> None:
    away = run_cli("jobs", "list", "--url", f"http://127.0.0.1:{free_port()}/v1")
    assert (away.code, away.err.count("\n")) == (2, 1)
    assert "preftune serve" in away.err
    wrong = run_cli("jobs", "list", "--url", "example.org")
    assert (wrong.code, "no address" in wrong.err) == (2, True)
    odd = run_cli("jobs", "list", "--url", "http://[::1/v1")
    assert (odd.code, "no address" in odd.err) == (2, True)
    os.environ["PREFTUNE_API_KEY"] = ""
    keyless = run_cli("jobs", "list")
    assert (keyless.code, "PREFTUNE_API_KEY: is not set" in keyless.err) == (2, True)


@pytest.mark.parametrize("file_id", ["../models/tiny", "..", ""])
def test_what_is_no_id_of_a_file_deletes_nothing_else(
    run_cli: Callable[..., Ran], file_id: str
) -> None:
    ran = run_cli("files", "delete", file_id)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "base model" not in ran.err  # which it was before ids were one part of a path
