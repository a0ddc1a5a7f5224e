"""What the rater's page may ask the server, and what it hears, on both databases."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from httpx2 import Response
from sqlalchemy import update
from starlette.testclient import TestClient
from tests.serving.conftest import App, make_cast
from tests.serving.rater_world import compared, comparisons, label_url, said_of

from preftune.serving.settings import ServerSettings
from preftune.store.database import Database
from preftune.store.items import Content, NewItem, Verdict, add_items, of_comparison
from preftune.store.projects import (
    ProjectSettings,
    change_settings,
    change_state,
    publish_guideline,
)
from preftune.store.queue import next_task
from preftune.store.schema import items
from preftune.types import (
    Comparison,
    Message,
    Prompt,
    Sampling,
    ToolCall,
    assistant,
    make_prompt,
    user,
)
from preftune.types import Response as Said


@pytest.fixture
def place(database_url: str) -> Iterator[App]:
    """The application over each database, with the cast in it and nothing to label."""
    with Database(database_url) as database:
        made = App(database=database, cast=make_cast(database), settings=ServerSettings())
        with made.clients:
            yield made


class Rater:
    """A person at the API."""

    def __init__(self, app: App, role: str = "rater") -> None:
        self.client: TestClient = app.client(role)
        self.base = label_url(app.cast.project_id)

    def get(self, what: str) -> Any:
        answer = self.client.get(f"{self.base}/{what}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def task(self) -> Any:
        return self.get("next")["task"]

    def post(self, what: str, body: dict[str, Any], key: str = "") -> Response:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self.client.post(f"{self.base}/{what}", json=body, headers=headers)

    def say(self, task: Any, grade: int = 2, key: str = "", **fields: Any) -> Response:
        return self.post("vote", body(task, {"kind": "scale", "grade": grade}, **fields), key)


def body(task: Any, verdict: Verdict, **fields: Any) -> dict[str, Any]:
    place = {"item_id": task["item_id"], "round": task["round"]}
    return {**place, "verdicts": {"overall": verdict}, **fields}


def put(app: App, new: list[NewItem], **settings: Any) -> None:
    if settings:
        made = ProjectSettings(**settings)
        project = app.cast.project_id
        app.database.write(lambda db: change_settings(db, project, made, by="lead"))
    app.database.write(lambda db: add_items(db, app.cast.project_id, new, by=app.cast.ids["lead"]))


def stands(app: App) -> dict[str, list[tuple[str, Verdict]]]:
    with app.database.read() as db:
        return said_of(db, app.cast.project_id)


def message(answer: Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_a_vote_is_in_the_store_as_it_was_meant(place: App) -> None:
    put(place, comparisons(1))
    rater = Rater(place)
    task = rater.task()
    good_first = task["responses"][0]["turns"][0]["text"].startswith("a fine")
    told = rater.say(task, 2 if good_first else 6, why={"overall": "[clear] it is"}, seconds=4.5)
    assert told.json() == {"again": False, "feedback": [], "next": rater.get("next")}
    said = stands(place)
    assert said == {"c0": [(place.cast.ids["rater"], {"kind": "scale", "grade": 2})]}
    assert rater.task() is None
    assert rater.get("next")["pace"] == {"seconds_per_item": 4.5}
    assert rater.get("next")["progress"] == {"done_by_me": 1, "done": 1, "total": 1}


def test_an_item_comes_again_until_it_is_answered_and_in_the_same_order(place: App) -> None:
    put(place, comparisons(5))
    rater = Rater(place)
    assert rater.task() == rater.task()


def test_the_same_key_twice_counts_once(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    task, key = rater.task(), uuid.uuid4().hex
    assert rater.say(task, key=key).json()["again"] is False
    assert rater.say(task, key=key).json()["again"] is True
    assert [len(said) for said in stands(place).values()] == [1]


def test_a_key_is_needed_and_does_not_carry_two_requests(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    task, key = rater.task(), uuid.uuid4().hex
    sent = body(task, {"kind": "scale", "grade": 1})
    assert rater.client.post(f"{rater.base}/vote", json=sent).status_code == 422
    assert rater.post("vote", sent, key=f"shown:{task['item_id']}:0").status_code == 422
    assert rater.say(task, 2, key=key).status_code == 200
    assert "another one" in message(rater.say(task, 3, key=key), 409)


@pytest.mark.parametrize(
    "verdict",
    [
        {"kind": "scale"},
        {"kind": "scale", "grade": 0},
        {"kind": "scale", "grade": 8},
        {"kind": "scale", "grade": "2"},
        {"kind": "scale", "grade": True},
        {"kind": "scale", "grade": 2.5},
        {"kind": "scale", "grade": 2, "choice": 0},
        {"kind": "scale", "grade": 2, "extra": 1},
        {"kind": "binary", "choice": 0},
        {"kind": "tie", "grade": 4},
        {"kind": "unparsed"},
        {"kind": "ranking", "ranking": [[0], [0]]},
        {"kind": "rewrite", "rewrite": "a\0b"},
    ],
)
def test_a_verdict_that_does_not_answer_is_refused(app: App, verdict: Verdict) -> None:
    put(app, comparisons(1))
    rater = Rater(app)
    assert message(rater.post("vote", body(rater.task(), verdict)), 422)
    assert stands(app) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"why": {"overall": "a\0b"}},
        {"why": {"other": "b"}},
        {"why": {"overall": "x" * 4001}},
        {"seconds": -1},
        {"seconds": 1e9},
        {"round": -1},
        {"item_id": ""},
        {"item_id": "i" * 65},
        {"unknown": 1},
    ],
)
def test_odd_fields_are_refused(app: App, fields: dict[str, Any]) -> None:
    put(app, comparisons(1))
    rater = Rater(app)
    sent = {**body(rater.task(), {"kind": "scale", "grade": 2}), **fields}
    assert message(rater.post("vote", sent), 422)


@pytest.mark.parametrize("why", ["\ud800", "a\udfffb"])
def test_half_of_a_surrogate_pair_is_refused_in_words(app: App, why: str) -> None:
    put(app, comparisons(1))
    rater = Rater(app)
    sent = body(rater.task(), {"kind": "scale", "grade": 2}, why={"overall": why})
    answer = rater.client.post(
        f"{rater.base}/vote",
        content=json.dumps(sent).encode(),
        headers={"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "application/json"},
    )
    assert 400 <= answer.status_code < 500


def test_an_item_that_was_never_shown_cannot_be_judged_or_read(place: App) -> None:
    put(place, comparisons(2))
    rater, other = Rater(place), Rater(place, "rater2")
    task, theirs = rater.task(), other.task()
    assert task["item_id"] != theirs["item_id"]
    assert "not shown" in message(rater.say(theirs), 409)
    for what in ("item", "markdown"):
        answer = rater.client.get(f"{rater.base}/{what}/{theirs['item_id']}/0")
        assert "not shown" in message(answer, 409)
    assert "not there" in message(rater.post("skip", {"item_id": "nothing"}), 409)


def test_skipping_and_flagging_bring_the_next_item(place: App) -> None:
    put(place, comparisons(3))
    rater = Rater(place)
    first = rater.task()
    assert rater.post("skip", {"item_id": first["item_id"]}).status_code == 200
    second = rater.task()
    flagged = {"item_id": second["item_id"], "why": "the prompt is cut off"}
    assert rater.post("flag", flagged).status_code == 200
    third = rater.task()
    assert len({task["item_id"] for task in (first, second, third)}) == 3
    rater.say(third)
    assert rater.task() is None
    assert {Rater(place, "rater2").task()["item_id"]} <= {first["item_id"], second["item_id"]}


def test_undo_brings_the_item_back_and_a_retry_changes_nothing(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    task, key = rater.task(), uuid.uuid4().hex
    rater.say(task)
    rater.task()  # the next one is before them already
    for _ in range(2):
        back = rater.post("undo", {}, key=key).json()
        assert back["task"] == task
        assert back["said"] is None
    assert stands(place) == {}
    assert rater.say(task, 7).status_code == 200
    assert "not judged anything" in message(Rater(place, "rater2").post("undo", {}), 409)


def test_undo_under_the_key_of_something_else_breaks_nothing(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    key = uuid.uuid4().hex
    rater.post("skip", {"item_id": rater.task()["item_id"]}, key=key)
    assert rater.post("undo", {}, key=key).status_code in (200, 409)


def test_an_earlier_verdict_can_be_changed(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    task = rater.task()
    rater.say(task, 2, why={"overall": "first"})
    (earlier,) = rater.get("history")
    assert earlier["verdicts"] == {"overall": {"kind": "scale", "grade": 2}}
    assert earlier["why"] == {"overall": "first"}
    assert earlier["excerpt"] == task["prompt"][0]["text"]
    assert earlier["changeable"]
    again = rater.get(f"item/{task['item_id']}/0")
    assert again == {"task": task, "said": earlier}
    assert rater.post("revise", body(task, {"kind": "scale", "grade": 7})).status_code == 200
    (changed,) = rater.get("history")
    assert changed["verdicts"] == {"overall": {"kind": "scale", "grade": 7}}


def test_history_has_the_last_fifty_newest_first(app: App) -> None:
    put(app, comparisons(52))
    rater = Rater(app)
    judged = []
    for _ in range(52):
        task = rater.task()
        rater.say(task)
        judged.append(task["item_id"])
    assert [earlier["item_id"] for earlier in rater.get("history")] == judged[:-51:-1]


def test_practice_says_what_was_expected_and_why_then_stays(place: App) -> None:
    gold: dict[str, Verdict] = {"overall": {"kind": "scale", "grade": 1, "why": "It is finer."}}
    practice = of_comparison(compared(9), use="calibration", gold=gold)
    put(place, [practice, *comparisons(1)])
    rater = Rater(place)
    task = rater.task()
    assert task["is_calibration"]
    good_first = task["responses"][0]["turns"][0]["text"].startswith("a fine")
    (feedback,) = rater.say(task, 7 if good_first else 1).json()["feedback"]
    expected = {"kind": "scale", "grade": 1 if good_first else 7}
    assert feedback == {
        "dimension": "overall",
        "right": False,
        "expected": expected,
        "why": "It is finer.",
    }
    assert "has been shown" in message(rater.post("undo", {}), 409)
    assert "has been shown" in message(rater.post("revise", body(task, expected)), 409)
    assert [earlier["changeable"] for earlier in rater.get("history")] == [False]
    assert not rater.task()["is_calibration"]


def test_gold_among_the_others_cannot_be_told(place: App) -> None:
    gold: dict[str, Verdict] = {"overall": {"kind": "scale", "grade": 1}}
    hidden = [of_comparison(compared(n), use="gold", gold=gold) for n in range(100, 105)]
    put(place, [*comparisons(10), *hidden], gold_share=0.5)
    rater = Rater(place)
    shapes = set()
    while (task := rater.task()) is not None:
        assert not task["is_calibration"]
        shapes.add(tuple(sorted(task)))
        saved = rater.say(task).json()
        assert (saved["again"], saved["feedback"]) == (False, [])
    assert len(shapes) == 1


def speaking(prompt: Prompt, generator: str, temperature: float, number: str) -> Said:
    call = ToolCall(id=f"call-{generator}", name="look_up", arguments='{"a": 1}')
    return Said(
        id=f"{generator}-{number}",
        prompt_id=prompt.id,
        messages=(
            Message(role="assistant", content="let me see", tool_calls=(call,), name=generator),
            Message(role="tool", content="42", tool_call_id=f"call-{generator}", name="look_up"),
            assistant(f"it is {number}"),
        ),
        generator=generator,
        sampling=Sampling(temperature=temperature, max_new_tokens=9, seed=1),
    )


def prompt_of(source: str) -> Prompt:
    return make_prompt(user("what is it?"), tags=(source,), source=f"{source}.jsonl")


def test_the_payload_is_the_same_when_the_models_change_places(place: App) -> None:
    def content(one: str, two: str) -> Content:
        prompt = prompt_of(one)
        responses = (speaking(prompt, one, 0.1, "41"), speaking(prompt, two, 0.9, "42"))
        return Content(prompt=prompt, responses=responses)

    first = content("gpt-alpha", "llama-beta")
    shown = Comparison(
        id="gpt-alpha-against-llama-beta", prompt=first.prompt, responses=first.responses
    )
    put(place, [of_comparison(shown)])
    rater = Rater(place)
    before = rater.client.get(f"{rater.base}/next").text
    read = rater.client.get(f"{rater.base}/markdown/{rater.task()['item_id']}/0").text
    swapped = msgspec.json.encode(content("llama-beta", "gpt-alpha")).decode()
    place.database.write(lambda db: db.execute(update(items).values(content=swapped)))
    assert rater.client.get(f"{rater.base}/next").text == before
    assert rater.client.get(f"{rater.base}/markdown/{rater.task()['item_id']}/0").text == read
    page = rater.client.get(rater.base, headers={"Accept": "text/html"}).text
    for told in (before, read, page):
        assert "alpha" not in told
        assert "beta" not in told
        assert "temperature" not in told


def test_multi_turn_tools_and_calls_are_told(app: App) -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    prompt = make_prompt(Message(role="system", content="be kind"), user("hi"), tools=(tool,))
    shown = compared(0, prompt=prompt)
    two = (speaking(prompt, "m", 0.5, "1"), *shown.responses[1:])
    put(app, [of_comparison(replace(shown, responses=two))])
    task = Rater(app).task()
    assert [turn["role"] for turn in task["prompt"]] == ["system", "user"]
    assert '"look_up"' in task["tools"][0]
    (long,) = [r["turns"] for r in task["responses"] if len(r["turns"]) == 3]
    assert long[0]["calls"] == [{"name": "look_up", "arguments": '{"a": 1}'}]
    assert (long[1]["role"], long[1]["tool"]) == ("tool", "look_up")


def test_the_guideline_that_holds_is_told_with_its_version(place: App) -> None:
    put(place, comparisons(2))
    rater = Rater(place)
    assert rater.get("guideline") == {"version": 0, "text": "", "tree": []}
    project = place.cast.project_id
    place.database.write(
        lambda db: publish_guideline(db, project, "be **fair**", base=0, by="lead")
    )
    found = rater.get("guideline")
    assert (found["version"], found["text"]) == (1, "be **fair**")
    assert found["tree"][0]["children"][1]["tag"] == "strong"
    assert rater.task()["guideline"] == 1


def test_a_paused_rater_hears_why(place: App) -> None:
    put(place, comparisons(1))
    project, who = place.cast.project_id, place.cast.ids["rater"]
    place.database.write(lambda db: change_state(db, project, who, "paused", by="lead"))
    rater = Rater(place)
    assert "paused" in message(rater.client.get(f"{rater.base}/next"), 409)


def test_who_does_not_work_here_finds_nothing(app: App) -> None:
    put(app, comparisons(1))
    base = label_url(app.cast.project_id)
    for what in ("", "/next", "/history", "/guideline", "/item/x/0", "/markdown/x/0"):
        assert app.client("outsider").get(base + what).status_code == 404
        assert app.client(None).get(base + what).status_code == 401


def test_many_at_once_never_hold_an_item_beyond_what_is_wanted(place: App) -> None:
    put(place, comparisons(30), raters_per_item=1)
    first, second = Rater(place), Rater(place, "rater2")
    seen: dict[str, set[str]] = {"first": set(), "second": set()}
    for _ in range(15):
        for name, rater in (("first", first), ("second", second)):
            task = rater.task()
            seen[name].add(task["item_id"])
            rater.say(task)
    assert not seen["first"] & seen["second"]
    assert all(len(v) == 1 for v in stands(place).values())


def test_only_what_the_store_showed_counts_as_shown(place: App) -> None:
    put(place, comparisons(3))
    rater = Rater(place)
    task = rater.task()
    rater.get("history")
    rater.get("guideline")
    rater.get(f"markdown/{task['item_id']}/0")
    project, who = place.cast.project_id, place.cast.ids["rater"]
    again = place.database.write(lambda db: next_task(db, project, who))
    assert again is not None
    assert again.item_id == task["item_id"]
