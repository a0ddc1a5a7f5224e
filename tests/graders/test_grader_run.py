"""Rewards by hand, errors by name, and the answer in the form of OpenAI's API."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse
from tests.graders.test_grader_specs import ALIKE, CHECK, MULTI, PYTHON, SCORE

from preftune.errors import DataError, SettingsError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.results import GradingError
from preftune.graders.run import GraderRunner, run
from preftune.graders.sample import Sample
from preftune.graders.sandbox import SandboxSettings
from preftune.graders.specs import validate
from preftune.responses.http_client import HttpChatClient
from preftune.responses.remote import HttpSettings
from preftune.types import assistant, make_prompt, user

RIGHT = Sample(output_text="18 ducks")
FOURTEEN = 14
SHARES = {
    "6b_finetuning": 0.213592,
    "6b_verification": 0.390507,
    "175b_finetuning": 0.345200,
    "175b_verification": 0.558792,
}


def reward(spec: dict[str, Any], text: str, item: dict[str, Any]) -> float:
    result = run(validate(spec), Sample(output_text=text), item)
    assert not result.failed, result.problem
    return result.reward


@pytest.mark.parametrize(
    ("operation", "text", "answer", "expected"),
    [
        ("eq", "18", "18", 1),
        ("eq", "18 ", "18", 0),
        ("eq", "18", 18, 1),
        ("ne", "18", "17", 1),
        ("neq", "18", "18", 0),
        ("like", "It is 18.", "18", 1),
        ("like", "18", "It is 18.", 0),
        ("like", "abc", "%b%", 0),
        ("like", "YES", "yes", 0),
        ("ilike", "Say YES", "yes", 1),
        ("ilike", "STRASSE", "straße", 1),
    ],
)
def test_string_check_by_hand(operation: str, text: str, answer: Any, expected: int) -> None:
    assert reward({**CHECK, "operation": operation}, text, {"answer": answer}) == expected


def test_similarity_says_whether_it_passes() -> None:
    grader = validate({**ALIKE, "pass_threshold": 0.5})
    result = run(grader, Sample(output_text="a b"), {"answer": "a c"})
    assert result.reward == pytest.approx(0.5)
    assert result.metadata.scores == {"rouge_l": pytest.approx(0.5), "passed": True}


def test_multi_joins_rewards_by_its_formula() -> None:
    # right 0; ROUGE-L of "18 ducks" and "18": precision 1/2, recall 1: 2/3
    result = run(validate(MULTI), RIGHT, {"answer": "18"})
    assert result.sub_rewards == {"right": 0.0, "alike": pytest.approx(2 / 3)}
    assert result.reward == pytest.approx(0.2 * 2 / 3)


def test_error_inside_a_multi_is_named_and_counts_0() -> None:
    bad = {**CHECK, "input": "{{item.missing}}"}
    multi = {**MULTI, "graders": {"right": bad, "alike": ALIKE}}
    result = run(validate(multi), RIGHT, {"answer": "18 ducks"})
    assert result.metadata.errors.kinds == ("invalid_variable_error",)
    assert result.problem == "right: item.missing: there is no such value"
    assert result.reward == pytest.approx(0.2)


def test_formula_without_a_value_is_named() -> None:
    result = run(validate({**MULTI, "calculate_output": "1 / right"}), RIGHT, {"answer": "x"})
    assert (result.reward, result.metadata.errors.kinds) == (0.0, ("formula_parse_error",))


@pytest.mark.parametrize(
    ("spec", "item"), [(CHECK, {"answer": "18 ducks"}), (CHECK, {}), (MULTI, {"answer": "18"})]
)
def test_answer_has_the_form_of_openai(spec: dict[str, Any], item: dict[str, Any]) -> None:
    sent = json.loads(json.dumps(run(validate(spec), RIGHT, item).as_json()))
    read = GraderRunResponse.model_validate(sent, strict=True)
    assert read.metadata.name == spec["name"]
    assert len(sent["metadata"]["errors"]) == FOURTEEN
    assert read.metadata.execution_time >= 0
    assert read.metadata.errors.invalid_variable_error == (item == {})


def test_python_grader_is_refused_where_the_operator_forbids_it() -> None:
    with pytest.raises(SettingsError, match="forbidden here"):
        GraderRunner(validate(PYTHON), sandbox=SandboxSettings(allow_python=False))


def test_ten_thousand_rows_are_graded_in_one_go() -> None:
    rows = [(Sample(output_text=f"A: {n}"), {"answer": f"A: {n % 7}"}) for n in range(10_000)]
    with GraderRunner(validate(CHECK)) as runner:
        results = runner.run_all(rows)
    assert sum(one.reward for one in results) == 7


def gsm8k(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(shared_data / "gsm8k-solutions" / "solutions.jsonl.gz") as file:
        return [json.loads(line) for line in file]


def final(solution: str) -> str:
    return solution.rpartition("A: ")[2].strip().replace(",", "")  # 6,250 is 6250


@pytest.mark.parametrize("system", SHARES)
def test_grader_of_the_final_answer_gives_the_known_shares(shared_data: Path, system: str) -> None:
    rows = gsm8k(shared_data)
    asked = [
        (Sample(output_text=final(row[system]["solution"])), {"answer": final(row["ground_truth"])})
        for row in rows
    ]
    with GraderRunner(validate(CHECK)) as runner:
        rewards = [one.reward for one in runner.run_all(asked)]
    assert rewards == [float(row[system]["is_correct"]) for row in rows]
    assert sum(rewards) / len(rows) == pytest.approx(SHARES[system], abs=5e-7)


def test_scorer_gives_none_where_the_grading_failed_and_counts_it() -> None:
    prompts = [make_prompt(user(f"{n}?")) for n in range(3)]
    items = {prompts[0].id: {"answer": "yes"}, prompts[1].id: {}, prompts[2].id: {"answer": "no"}}
    with GraderRunner(validate(CHECK)) as runner:
        scorer = GraderScorer(runner, items)
        rows = [(prompt, (assistant("yes"),)) for prompt in prompts]
        assert scorer.score(rows) == [1.0, None, 0.0]
        assert scorer.score(rows[::-1]) == [0.0, None, 1.0]
        assert scorer.errors == {"invalid_variable_error": 2}
        assert scorer.problems["invalid_variable_error"] == "item.answer: there is no such value"
        with pytest.raises(DataError, match="no item to grade with"):
            scorer.score([(make_prompt(user("else?")), (assistant("yes"),))])


def test_scorers_of_different_graders_have_different_names() -> None:
    names = set()
    for operation in ("eq", "ne"):
        with GraderRunner(validate({**CHECK, "operation": operation})) as runner:
            names.add(GraderScorer(runner, {}).name)
    assert len(names) == 2


def test_scorers_of_other_items_have_other_names() -> None:
    with GraderRunner(validate(CHECK)) as runner:
        names = [
            GraderScorer(runner, {"p-1": {"answer": answer}}).name for answer in ("18", "18", "17")
        ]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("right@")


def test_scorers_that_ask_other_servers_have_other_names() -> None:
    names = []
    for port in (8000, 8001):
        server = HttpSettings(
            url=f"http://127.0.0.1:{port}", allow_urls=(f"http://127.0.0.1:{port}",)
        )
        with GraderRunner(validate(SCORE), client_of=partial(HttpChatClient, server)) as runner:
            names.append(GraderScorer(runner, {}).name)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "said", ['{"answer":"18"}, "x": "prose"', '{"answer":"18"}, "value": 1', "1}, {", "18,", ""]
)
def test_text_that_only_completes_some_json_is_none(said: str) -> None:
    with pytest.raises(GradingError, match="the sample is not JSON"):
        Sample(output_text=said).value("output_json")


def test_json_of_a_sample_may_stand_between_blanks() -> None:
    assert Sample(output_text=' {"answer": [18]}\n').value("output_json") == {"answer": [18]}
    assert Sample(output_text="18").value("output_json") == 18
