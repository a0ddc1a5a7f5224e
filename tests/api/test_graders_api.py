"""POST /v1/fine_tuning/alpha/graders with the openai client against a real server."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.api.chat_world import Live, running
from tests.api.conftest import Api, refused

from preftune.graders.results import GradeErrors

RUN = "/v1/fine_tuning/alpha/graders/run"
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
ALIKE = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "tiny",
    "input": [{"role": "user", "content": "Is {{sample.output_text}} kind?"}],
    "sampling_params": {"max_completions_tokens": 8},
}
BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "alike": ALIKE},
    "calculate_output": "0.5 * exact + 0.5 * alike",
}


def python(body: str) -> dict[str, Any]:
    return {"type": "python", "name": "code", "source": f"def grade(sample, item):\n    {body}\n"}


@pytest.fixture(scope="module")
def live() -> Live:
    return running()


def run(live: Live, grader: Any, sample: str, item: Any) -> Any:
    return live.client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)


@pytest.mark.parametrize(
    ("grader", "sample", "reward"),
    [
        (EXACT, "warm", 1.0),
        (EXACT, "hot", 0.0),
        (ALIKE, "warm!", 8 / 9),
        (BOTH, "warm!", 4 / 9),
        (python("return len(sample['output_text']) / len(item['answer'])"), "wa", 0.5),
    ],
    ids=["equal", "other", "alike", "multi", "python"],
)
def test_a_grader_gives_its_reward(live: Live, grader: Any, sample: str, reward: float) -> None:
    found = run(live, grader, sample, {"answer": "warm"})
    assert found.reward == pytest.approx(reward)
    assert found.metadata.type == grader["type"]
    assert found.metadata.name == grader["name"]
    assert not any(value is True for value in found.metadata.errors.model_dump().values())
    if grader is BOTH:
        assert found.sub_rewards == {"exact": 0.0, "alike": pytest.approx(8 / 9)}


def test_all_fourteen_errors_are_named(live: Live) -> None:
    body = {"grader": EXACT, "model_sample": "x", "item": {"answer": "x"}}
    answer = live.http.post("/fine_tuning/alpha/graders/run", json=body)
    errors = answer.json()["metadata"]["errors"]
    assert len(errors) == 14
    assert set(errors) == set(GradeErrors.__slots__)


@pytest.mark.parametrize(
    ("grader", "flag"),
    [
        ({**EXACT, "reference": "{{item.missing}}"}, "invalid_variable_error"),
        ({**EXACT, "input": "{{sample.output_json.a}}"}, "sample_parse_error"),
        (python("return 1 / 0"), "python_grader_runtime_error"),
        (python("return 'good'"), "python_grader_runtime_error"),
        ({**BOTH, "calculate_output": "log(exact - 1)"}, "formula_parse_error"),
        (JUDGE, "truncated_observation_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes_wrong_is_flagged_and_scores_0(live: Live, grader: Any, flag: str) -> None:
    found = run(live, grader, "no json", {"answer": "warm"})
    assert found.reward == 0
    plain = found.model_dump(by_alias=True)
    assert plain["metadata"]["errors"][flag] is True
    assert plain["preftune"]["problem"]


def test_a_judge_is_a_model_of_this_server_and_its_tokens_are_counted(live: Live) -> None:
    found = run(live, JUDGE, "wash it warm", {})
    assert found.metadata.sampled_model_name == "tiny"
    assert found.metadata.token_usage > 8
    counted = found.model_dump(by_alias=True)["model_grader_token_usage_per_model"]
    assert counted == {"tiny": found.metadata.token_usage}


def test_a_reward_model_is_a_grader_and_clipped_only_on_request(live: Live) -> None:
    body = {"best_of": 3, "reward_model": "reward"}
    asked: Any = [{"role": "user", "content": "can i wash it ?"}]
    best = live.client.chat.completions.create(
        model="tiny", messages=asked, seed=1, max_tokens=8, extra_body=body
    )
    (score,) = best.model_dump()["preftune"]["scores"]
    grader = {**JUDGE, "model": "reward", "input": [{"role": "user", "content": "{{item.ask}}"}]}
    del grader["sampling_params"]
    text, item = best.choices[0].message.content or "", {"ask": "can i wash it ?"}
    assert run(live, grader, text, item).reward == pytest.approx(score, abs=1e-4)
    above = {**grader, "range": [score + 1, score + 2]}
    found = run(live, above, text, item)
    assert found.reward == pytest.approx(score + 1)
    assert found.metadata.scores == {"judge": pytest.approx(score, abs=1e-4)}


BAD: list[tuple[Any, str, str]] = [
    ({**ALIKE, "evaluation_metric": "vibes"}, "grader.evaluation_metric", "unknown"),
    ({**ALIKE, "evaluation_metric": "cosine"}, "grader.evaluation_metric", "embedding"),
    ({**EXACT, "operation": "is"}, "grader.operation", "Invalid"),
    ({k: v for k, v in EXACT.items() if k != "reference"}, "grader.reference", "missing"),
    ({**EXACT, "refrence": "x"}, "grader", "'reference'"),
    ({**EXACT, "input": "{{sample.text}}"}, "grader.input", "unknown variable"),
    ({"type": "python", "name": "p", "source": "x = 1"}, "grader.source", "no function grade"),
    ({"type": "python", "name": "p", "source": "def grade("}, "grader.source", "parse"),
    ({**BOTH, "graders": {"again": BOTH}}, "grader.graders.again", "do not nest"),
    ({**BOTH, "calculate_output": "exact + other"}, "grader.calculate_output", "other"),
    ({**BOTH, "calculate_output": "open(exact)"}, "grader.calculate_output", "open"),
    ({**BOTH, "calculate_output": "exact +"}, "grader.calculate_output", ""),
    ({"type": "vibes", "name": "v"}, "grader.type", "no grader"),
    ({}, "grader.type", "no grader"),
]


@pytest.mark.parametrize(("grader", "param", "says"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_a_bad_grader_is_refused_by_validate_and_by_run(
    live: Live, grader: Any, param: str, says: str
) -> None:
    graders = live.client.fine_tuning.alpha.graders
    for ask in (
        lambda: graders.validate(grader=grader),
        lambda: graders.run(grader=grader, model_sample="x", item={}),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.param == param
        assert says in caught.value.message


@pytest.mark.parametrize(
    "grader", [EXACT, ALIKE, JUDGE, BOTH, {**BOTH, "graders": EXACT, "calculate_output": "exact"}]
)
def test_validate_gives_back_what_it_was_given(live: Live, grader: Any) -> None:
    answer = live.http.post("/fine_tuning/alpha/graders/validate", json={"grader": grader})
    assert answer.status_code == 200
    assert answer.json() == {"grader": grader}


def test_a_judge_that_is_no_model_here_is_refused(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="does not exist"):
        run(live, {**JUDGE, "model": "gpt-4.1"}, "x", {})


def test_a_template_that_grows_without_bound_is_refused(live: Live) -> None:
    often = {**EXACT, "input": "{{sample.output_text}}" * 100}
    with pytest.raises(openai.BadRequestError, match="262144 characters when filled in"):
        run(live, often, "x" * 10_000, {"answer": "x"})
    many = {**EXACT, "input": "{{item.answer}}" * 1001}
    with pytest.raises(openai.BadRequestError, match="more than 1000 variables"):
        run(live, many, "x", {"answer": ""})


def test_reads_stay_fast_while_graders_work(live: Live) -> None:
    slow = python("import time; time.sleep(1.5); return 1.0")
    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(run, live, slow, "x", {}) for _ in range(6)]
        time.sleep(0.5)
        assert live.http.get("/models").status_code == 200
        assert not all(one.done() for one in work)
        assert [one.result().reward for one in work] == [1.0] * 6


def test_python_graders_can_be_forbidden(api: Api) -> None:
    from dataclasses import replace

    api.asgi.state.api = replace(api.options.api, python_graders=False)
    body = {"grader": python("return 1.0"), "model_sample": "x", "item": {}}
    error = refused(api.client().post(RUN, json=body), 403)
    assert "forbidden" in error["message"]
    body["grader"] = {**BOTH, "graders": {"exact": python("return 1.0"), "alike": ALIKE}}
    refused(api.client().post(RUN, json=body), 403)


def test_a_key_without_the_scope_may_not_grade(api: Api) -> None:
    body = {"grader": EXACT, "model_sample": "x", "item": {"answer": "x"}}
    refused(api.client(scopes=["graders:read"]).post(RUN, json=body), 403)
    checked = api.client(scopes=["graders:read"]).post(
        RUN.replace("run", "validate"), json={"grader": EXACT}
    )
    assert checked.status_code == 200
