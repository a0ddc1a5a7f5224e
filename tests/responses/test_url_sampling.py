import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tests.responses.chat_server import (
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    ChatServer,
    serving,
)

from preftune.errors import DataError, SettingsError
from preftune.records import decode, encode
from preftune.responses.generator import GenerateSettings
from preftune.responses.openai_generator import MissingResponsesError
from preftune.responses.remote import HttpSettings
from preftune.responses.spending import Prices
from preftune.responses.url_sampling import Asked, UrlReport, sample_url
from preftune.types import Prompt, Response, make_prompt, user

CANARY = "canary-7f3a9c21d5"
PROMPTS = [make_prompt(user(f"question {i}")) for i in range(6)]
DRAWS = [GenerateSettings(max_new_tokens=8, temperature=t) for t in (0.7, 1.0)]
PRICES = Prices(usd_in=100.0, usd_out=1000.0)
CALL_USD = PRICES.cost_usd(PROMPT_TOKENS, COMPLETION_TOKENS)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer()) as running:
        yield running


def run(server: ChatServer, out: Path, **changed: Any) -> tuple[UrlReport, list[str]]:
    told: list[str] = []
    http = HttpSettings(
        url=server.url, allow_urls=(server.url,), timeout_s=2, backoff_s=0.01, attempts=2
    )
    given: dict[str, Any] = {
        "models": [Asked(model="a"), Asked(model="b")],
        "draws": DRAWS,
        "n": 2,
        "seed": 5,
        "prompts": PROMPTS,
        **changed,
    }
    report = sample_url(
        given.pop("prompts"),
        http,
        given.pop("models"),
        given.pop("draws"),
        out=out,
        tell=told.append,
        **given,
    )
    return report, told


def responses(path: Path) -> list[Response]:
    found = [decode(line) for line in path.read_bytes().splitlines()]
    return [record for record in found if isinstance(record, Response)]


def test_each_model_answers_at_each_temperature_once(server: ChatServer, tmp_path: Path) -> None:
    report, told = run(server, tmp_path / "out")
    found = responses(tmp_path / "out")
    assert (report.found, report.asked, report.spent_usd) == (0, 48, None)
    assert (report.sampled.responses, report.sampled.prompts) == (48, 6)
    host = server.url.removeprefix("http://")
    assert Counter((r.generator, r.sampling.temperature) for r in found if r.sampling) == {
        (f"{model}@{host}", t): 12 for model in "ab" for t in (0.7, 1.0)
    }
    assert len({r.id for r in found}) == 48
    assert len(server.bodies) == 48
    # "question 0" has 10 bytes: 4 tokens, and 8 for the message; longest answer 8
    assert told == ["48 requests, about 576 prompt tokens, at most 384 completion tokens"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_second_run_asks_nothing(server: ChatServer, tmp_path: Path) -> None:
    run(server, tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    report, told = run(server, tmp_path / "out")
    assert (report.asked, told, len(server.bodies)) == (0, [], 48)
    assert (tmp_path / "out").read_bytes() == before


def test_bytes_are_those_of_a_run_that_nothing_stopped(server: ChatServer, tmp_path: Path) -> None:
    run(server, tmp_path / "whole")
    server.fault = lambda number, body: "400" if number % 5 == 2 else ""
    with pytest.raises(MissingResponsesError, match="responses could not be had"):
        run(server, tmp_path / "out")
    server.fault = lambda number, body: ""
    asked = len(server.bodies)
    report, _ = run(server, tmp_path / "out")
    assert report.asked == len(server.bodies) - asked == 48 - report.found > 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_failures_of_one_model_do_not_stop_the_next_and_are_listed(
    server: ChatServer, tmp_path: Path
) -> None:
    server.fault = lambda number, body: "400" if body["model"] == "a" else ""
    with pytest.raises(MissingResponsesError, match="24 responses could not be had"):
        run(server, tmp_path / "out")
    listed = [json.loads(line) for line in (tmp_path / "out.failed").read_text().splitlines()]
    assert len(listed) == 24
    assert {row["reason"] for row in listed} == {"HTTP 400: it is broken (attempt 1)"} | {
        row["reason"] for row in listed if row["reason"].startswith("not asked")
    }
    assert len((tmp_path / "out.answers").read_bytes().splitlines()) == 24
    server.fault = lambda number, body: ""
    run(server, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_cost_is_told_before_and_counted_over_all_runs(server: ChatServer, tmp_path: Path) -> None:
    priced = [Asked(model="a", prices=PRICES)]
    server.fault = lambda number, body: "400" if number >= 10 else ""
    with pytest.raises(MissingResponsesError):
        run(server, tmp_path / "out", models=priced)
    server.fault = lambda number, body: ""
    report, told = run(server, tmp_path / "out", models=priced)
    # 14 calls of 12 + 8 tokens: 14 * (12 * 100 + 8 * 1000) / 1e6
    assert told == [
        "14 requests, about 168 prompt tokens, at most 112 completion tokens: "
        "at most about 0.1288 USD",
        "0.1440 USD spent on out so far",
    ]
    assert report.spent_usd == pytest.approx(24 * CALL_USD) == pytest.approx(0.144)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.ledger"]


def test_estimate_above_the_cap_is_refused_before_anything_is_asked(
    server: ChatServer, tmp_path: Path
) -> None:
    priced = [Asked(model="a", prices=PRICES)]
    with pytest.raises(SettingsError, match=r"cap 0.2 USD: 0.0000 spent .* up to 0.2208 to come"):
        run(server, tmp_path / "out", models=priced, cap_usd=0.2)
    assert server.bodies == []
    assert list(tmp_path.iterdir()) == []
    run(server, tmp_path / "out", models=priced, cap_usd=0.2209)


def test_cap_stops_a_run_whose_answers_cost_more_than_estimated(
    server: ChatServer, tmp_path: Path
) -> None:
    # an answer costs .006 and is guessed at .00135: (12 * 100 + 1 * 150) / 1e6 is wrong on purpose
    low = Prices(usd_in=100.0, usd_out=1000.0)
    draws = [GenerateSettings(max_new_tokens=1)]  # the server writes 5 all the same
    priced = [Asked(model="a", prices=low)]
    with pytest.raises(MissingResponsesError, match="the cost cap is reached"):
        run(server, tmp_path / "out", models=priced, draws=draws, n=10, cap_usd=0.2)
    assert 0.2 - 0.0022 < len(server.paid) * CALL_USD <= 0.2 + 8 * CALL_USD


def test_answers_of_other_settings_are_kept_and_told(server: ChatServer, tmp_path: Path) -> None:
    server.fault = lambda number, body: "400" if number >= 10 else ""
    with pytest.raises(MissingResponsesError):
        run(server, tmp_path / "out")
    server.fault = lambda number, body: ""
    _, told = run(server, tmp_path / "out", seed=6)
    kept = tmp_path / "out.answers"
    assert told[-1] == f"10 answers to other prompts or under other settings stay in {kept}"
    assert len(responses(kept)) == 58


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"models": []}, "no model"),
        ({"models": [Asked(model="a"), Asked(model="a")]}, "given twice"),
        ({"models": [Asked(model="a"), Asked(model="b", prices=PRICES)]}, "some models only"),
        ({"cap_usd": 1.0}, "a cost cap without prices"),
        ({"draws": [GenerateSettings(temperature=0)]}, "at temperature 0 gives 2 equal"),
        ({"draws": []}, "no generator"),
    ],
)
def test_contradictions_are_refused_before_anything_is_asked(
    server: ChatServer, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        run(server, tmp_path / "out", **changed)
    assert server.bodies == []
    assert list(tmp_path.iterdir()) == []


def test_second_process_is_refused(server: ChatServer, tmp_path: Path) -> None:
    seen: list[BaseException] = []

    def nested(number: int, body: dict[str, Any]) -> str:
        if number == 0:
            try:
                run(server, tmp_path / "out")
            except DataError as error:
                seen.append(error)
        return ""

    server.fault = nested
    run(server, tmp_path / "out")
    assert [str(error).partition(": ")[2] for error in seen] == [
        "another process is writing it. Let it end."
    ]


def write_prompts(path: Path, prompts: list[Prompt]) -> Path:
    path.write_bytes(b"".join(encode(prompt) for prompt in prompts))
    return path


PRICED = ["--price-in", "100", "--price-out", "1000"]


def command(server: ChatServer, folder: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "preftune.cli.main", "sample"]
    there = ["--url", server.url, "--allow-url", server.url, "--model", "a"]
    files = ["--prompts", str(folder / "prompts.jsonl"), "--out", str(folder / "out.jsonl")]
    return [*program, *there, *files, *more]


CHAOS = {3: "429", 7: "500", 11: "cut", 15: "reset", 19: "garbage"}  # of every 20 calls
TAKEN_FOR = {"cut", "reset", "garbage"}  # faults that the server takes money for


@pytest.mark.faults
def test_run_killed_in_chaos_has_each_answer_once_within_cap_and_concurrency(
    tmp_path: Path,
) -> None:
    prompts = [make_prompt(user(f"question {i}")) for i in range(60)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    kills, n, concurrency, cap_usd = 0, 3, 2, 2.0
    limits = ["--concurrency", str(concurrency), "--cost-cap", str(cap_usd)]
    faults = Counter[str]()

    def chaos(number: int, body: dict[str, Any]) -> str:
        fault = CHAOS.get(number % 20, "")
        faults[fault] += 1
        return fault

    with serving(ChatServer(latency_s=0.03, fault=chaos)) as server:
        asking = command(server, tmp_path, "--n", str(n), "--max-new-tokens", "5", *PRICED, *limits)
        while True:
            before = len(server.bodies)
            with subprocess.Popen(asking, stdout=subprocess.DEVNULL) as process:
                if kills < 3 and not ended_within(1, process, partial(asked_more, server, before)):
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                code = process.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL
        paid = Counter(server.paid)
    found = responses(tmp_path / "out.jsonl")
    assert kills >= 2
    assert faults.keys() == {"", *CHAOS.values()}
    assert [r.prompt_id for r in found] == [p.id for p in prompts for _ in range(n)]
    assert len({r.id for r in found}) == len(paid) == 180
    assert all(r.messages[0].content.startswith("answer to question") for r in found)
    assert server.most_busy <= concurrency
    spoilt = sum(faults[fault] for fault in TAKEN_FOR)
    assert paid.total() - spoilt - 180 <= concurrency * kills
    booked = [json.loads(line) for line in (tmp_path / "out.jsonl.ledger").read_text().splitlines()]
    last = {row["n"]: row["usd"] for row in booked}
    assert paid.total() * CALL_USD - 1e-9 <= sum(last.values()) <= cap_usd


def asked_more(server: ChatServer, before: int) -> bool:
    return len(server.bodies) > before


def ended_within(
    seconds: float, process: "subprocess.Popen[bytes]", begun: Callable[[], bool]
) -> bool:
    """Whether the process ended within so many seconds of beginning to ask."""
    end = float("inf")
    while monotonic() < end:
        if begun():
            end = min(end, monotonic() + seconds)
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        return True
    return False


@pytest.mark.parametrize("fault", ["echo", "401", "cut"])
def test_key_is_in_no_file_and_no_output(
    run_cli: Callable[..., Any],
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    monkeypatch.setenv("CANARY_KEY", CANARY)
    server.fault = lambda number, body: fault if number % 2 else ""
    server.error_text = f"Incorrect API key: {CANARY}"
    asking = command(server, tmp_path, "--key-env", "CANARY_KEY", "--n", "1", *PRICED)
    ran = run_cli(*asking[3:])
    assert ran.code == (2 if fault == "401" else 0), ran.err
    assert server.headers[0]["Authorization"] == f"Bearer {CANARY}"
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert "[key]" in "".join((*written, ran.err)) or fault == "cut"
    assert CANARY not in "".join((*written, ran.out, ran.err))
