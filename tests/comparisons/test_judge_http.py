"""Judges behind the OpenAI protocol on a real socket: log-probabilities, and what goes wrong."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.comparisons.judge_world import (
    LABELS,
    JudgeServer,
    always_first,
    first_token,
    honest,
    is_right,
    serving_judge,
    summed,
)
from tests.conftest import Ran

from preftune.comparisons.judging.panel_run import Budget, PanelRun, run_panel, write_pairs
from preftune.comparisons.judging.run import JudgeSettings
from preftune.datasets.read import read_comparisons, read_pairs
from preftune.datasets.write import write_records
from preftune.errors import HealthError
from preftune.responses.http_client import HttpChatClient
from preftune.responses.journal import Journal
from preftune.responses.remote import HttpSettings
from preftune.responses.spending import Bill, Ledger, Prices

Cli = Callable[..., Ran]
RUBRIC = "name: sums\ninstructions: Say which is right.\ncriteria: [It is correct.]\n"
FAULTS = ("500", "503", "slow", "cut", "garbage")


@pytest.fixture
def judge(tmp_path: Path, run_cli: Cli) -> Iterator[Callable[..., Ran]]:
    """Run `preftune judge` on 100 sums, or as many as asked, against a server."""
    (tmp_path / "sums.yaml").write_text(RUBRIC)
    urls: dict[int, str] = {}
    with ExitStack() as servers:

        def run(server: JudgeServer, *, n: int = 100, **flags: Any) -> Ran:
            if id(server) not in urls:
                urls[id(server)] = servers.enter_context(serving_judge(server))
            url, sums = urls[id(server)], tmp_path / "sums.jsonl"
            write_records(sums, [summed(number) for number in range(n)])
            given = {"url": url, "allow-url": url, "model": "m", "rubric": tmp_path / "sums.yaml"}
            given |= {"out": tmp_path / "said.jsonl", "pairs": tmp_path / "pairs.jsonl", **flags}
            options = [part for name, value in given.items() for part in (f"--{name}", value)]
            return run_cli("judge", sums, *options, "--unqualified")

        yield run


def weighed(right: float, wrong: float) -> Callable[[str, str, str], Any]:
    """A is named with probability `right` where it is right, else with `wrong`."""

    def weigh(question: str, first: str, _second: str) -> Any:
        p = right if is_right(question, first) else wrong
        return first_token(("A", math.log(0.9 * p)), ("B", math.log(0.9 * (1 - p))))

    return weigh


def test_labels_are_weighed_by_log_probabilities_over_both_orders(
    judge: Callable[..., Ran], tmp_path: Path
) -> None:
    server = JudgeServer(say=always_first, weigh=weighed(0.7, 0.45))  # the text alone would flip
    ran = judge(server, n=10)
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^by log-probabilities +20$", ran.out, re.MULTILINE)
    assert {(b["logprobs"], b["top_logprobs"], b["max_tokens"]) for b in server.bodies} == {
        (True, 10, 8)
    }
    said = read_comparisons(tmp_path / "said.jsonl")[1]
    assert len(said) == 20
    assert {tuple(round(s, 6) for s in j.scores) for j in said} == {(0.7, 0.3), (0.45, 0.55)}
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    # (P(first) of one order + 1 - P(first) of the other) / 2 = (.7 + 1 - .45) / 2
    assert [pair.probability for pair in pairs] == pytest.approx([0.625] * 10)
    assert {(p.provenance.chosen_generator, p.weight) for p in pairs} == {("good", 1.0)}


def test_a_server_without_log_probabilities_is_read_by_its_text_and_told(
    judge: Callable[..., Ran], tmp_path: Path
) -> None:
    ran = judge(JudgeServer(), n=10)
    assert ran.code == 0
    assert "gives no log-probabilities" in ran.out
    assert "by log-probabilities" not in ran.out
    assert {j.scores for j in read_comparisons(tmp_path / "said.jsonl")[1]} == {()}
    assert {pair.probability for pair in read_pairs(tmp_path / "pairs.jsonl")} == {1.0}


@pytest.mark.parametrize(
    "listed",
    [
        [("The", math.log(0.8)), ("A", math.log(0.1)), ("B", math.log(0.1))],  # no label was meant
        [("A", math.log(0.5)), ("B", math.log(0.5))],  # no label is the likelier one
        [("A", 812.0), ("B", -1.0)],  # no log-probability
        [("C", -0.1)],
    ],
)
def test_log_probabilities_that_name_no_label_leave_it_to_the_text(
    judge: Callable[..., Ran], tmp_path: Path, listed: list[tuple[str, float]]
) -> None:
    server = JudgeServer(weigh=lambda *_: first_token(*listed))
    ran = judge(server, n=4)
    assert (ran.code, ran.err) == (0, "")
    said = read_comparisons(tmp_path / "said.jsonl")[1]
    assert [(j.scores, j.kind) for j in said] == [((), "binary")] * 8
    server = JudgeServer(say=lambda *texts: f"I say {honest(*texts)}", weigh=server.weigh)
    (tmp_path / "said.calls.jsonl").unlink()
    ran = judge(server, n=4)
    assert ran.code == 2
    assert "8 of 8 answers hold no verdict" in ran.err


def patient(url: str, **settings: Any) -> HttpSettings:
    """Ask again at once, so that a test need not wait."""
    return HttpSettings(url=url, allow_urls=(url,), backoff_s=0.01, longest_wait_s=0.05, **settings)


def panel(out: Path, client: HttpChatClient, budget: Budget | None = None) -> PanelRun:
    return run_panel(
        [summed(n) for n in range(100)],
        [client],
        LABELS,
        JudgeSettings(),
        out=out,
        unqualified=True,
        budget=budget,
    )


def test_log_probabilities_that_are_none_are_named_as_such(tmp_path: Path) -> None:
    broken = {"content": [{"top_logprobs": [{"token": "A", "logprob": "high"}]}]}
    with serving_judge(JudgeServer(weigh=lambda *_: broken)) as url:
        client = HttpChatClient(patient(url, attempts=1, breaker=1000), "m")
        with pytest.raises(HealthError, match=r"200 of 200 questions.*not a chat completion"):
            panel(tmp_path / "said.jsonl", client)


@pytest.mark.faults
def test_chaos_at_the_judges_url_loses_no_pair(tmp_path: Path) -> None:
    draw = Random(3)
    server = JudgeServer(fault=lambda _: draw.choice(FAULTS) if draw.random() < 0.2 else "")
    with serving_judge(server) as url:
        client = HttpChatClient(patient(url, concurrency=16, timeout_s=0.5), "m")
        run = panel(tmp_path / "said.jsonl", client)
    assert len(run.judged[0].judgments) == 200
    joined = write_pairs(tmp_path / "pairs.jsonl", run, LABELS)
    chosen = {pair.provenance.chosen_generator for pair in joined.pairs}
    assert (len(joined.pairs), chosen) == (100, {"good"})
    assert 220 <= len(server.bodies) <= 300  # 200 / .8 = 250


@pytest.mark.faults
def test_chaos_stops_at_the_cap_and_the_next_run_pays_for_the_rest_alone(tmp_path: Path) -> None:
    draw = Random(4)
    server = JudgeServer(fault=lambda _: "cut" if draw.random() < 0.5 else "")
    out, prices, cap = tmp_path / "said.jsonl", Prices(usd_in=10.0, usd_out=10.0), 1.0

    def run(cap_usd: float) -> PanelRun:
        with Journal(tmp_path / "ledger") as journal:
            budget = Budget(ledger=Ledger(journal, cap_usd=cap_usd), prices=prices)
            bill = Bill(ledger=budget.ledger, prices=prices)
            return panel(out, HttpChatClient(patient(url), "m", bill=bill), budget)

    with serving_judge(server) as url:
        with pytest.raises(HealthError, match="questions have no answer"):
            run(cap)
        with Journal(tmp_path / "ledger") as journal:
            spent = Ledger(journal).spent_usd
        dearest = 0.006  # of one call: its prompt is below 600 tokens by the estimate
        assert cap - dearest <= spent <= cap + 8 * dearest
        answered = len((tmp_path / "said.calls.jsonl").read_text().splitlines()) - 1
        assert 0 < answered < 200
        server.fault = lambda _: ""
        server.bodies.clear()
        assert len(run(5.0).judged[0].judgments) == 200
    assert len(server.bodies) == 200 - answered
