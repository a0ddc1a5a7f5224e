"""The pages of jobs, models, files and keys: who sees them, and what they hear of a job."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serving.conftest import App, Cast
from tests.serving.job_world import STEPS, Hand, add_job, add_rows, figures, make_server

from preftune.serving.settings import ServerSettings
from preftune.store.api_keys import key_of, keys_of
from preftune.store.database import Database
from preftune.store.job_leases import beat
from preftune.wire.job import Beat, Event

HTML = {"Accept": "text/html"}


@dataclass(kw_only=True)
class Jobs(App):
    """The whole server in this process, with its store."""

    def __post_init__(self) -> None:
        self.asgi = make_server(self.database)

    @property
    def base(self) -> str:
        return f"/p/{self.cast.project_id}"

    def get(self, tail: str, **how: Any) -> Any:
        answer = self.lead.get(self.base + tail, **how)
        assert answer.status_code == 200, answer.text
        return answer.json() if not how else answer.text

    def post(self, tail: str, body: Any = None, *, status: int = 200) -> Any:
        answer = self.lead.post(self.base + tail, json=body or {})
        assert answer.status_code == status, answer.text
        return answer.json()

    @cached_property
    def lead(self) -> TestClient:
        return self.client("lead")


@pytest.fixture
def at(seeded: tuple[Path, Cast], tmp_path: Path) -> Iterator[Jobs]:
    shutil.copy(seeded[0], tmp_path / "labels.db")
    with Database(tmp_path / "labels.db") as database:
        made = Jobs(database=database, cast=seeded[1], settings=ServerSettings())
        with made.clients:
            yield made


@pytest.fixture
def hand(at: Jobs) -> Hand:
    """A job that trains."""
    file = add_rows(at.database, at.cast.project_id, "pairs.jsonl")
    add_job(at.database, at.cast.project_id, file.id, metadata={"team": "care"})
    return Hand.take(at.database)


def tails(hand: Hand, model: str) -> list[str]:
    job = hand.job.id
    return [
        *("/jobs", "/jobs/now", f"/jobs/{job}", f"/jobs/{job}/now", "/runs", "/runs/curves"),
        *("/models", f"/models/{model}", "/models/tiny", "/files", "/keys"),
        f"/files/{hand.job.training_file}/content",
    ]


@pytest.mark.parametrize("role", ["rater", "outsider"])
def test_raters_and_strangers_see_none_of_it(at: Jobs, hand: Hand, role: str) -> None:
    client = at.client(role)
    for tail in tails(hand, hand.checkpoint(10)):
        assert client.get(at.base + tail).status_code == 404, tail
    for tail in (f"/jobs/{hand.job.id}/cancel", "/keys", "/models/try", "/files/x/delete"):
        assert client.post(at.base + tail, json={}).status_code == 404, tail
    assert at.client(None).get(f"{at.base}/jobs").status_code == 401


def test_leads_and_admins_see_every_page(at: Jobs, hand: Hand) -> None:
    model = hand.checkpoint(10)
    for tail in tails(hand, model):
        assert at.lead.get(at.base + tail, headers=HTML).status_code == 200, tail
    assert at.client("admin").get(f"{at.base}/models/{model}").status_code == 200


def test_what_is_another_projects_is_not_there(at: Jobs, hand: Hand) -> None:
    model = hand.checkpoint(10)
    other = at.client("outsider")
    base = f"/p/{at.cast.other_id}"
    job = hand.job
    for tail in (
        f"/jobs/{job.id}",
        f"/jobs/{job.id}/now",
        f"/runs?job={job.id}",
        f"/runs/curves?job={job.id}",
        f"/models/{model}",
        f"/files/{job.training_file}/content",
    ):
        assert other.get(base + tail).status_code == 404, tail
    assert other.post(f"{base}/jobs/{job.id}/cancel", json={}).status_code == 404
    tried = other.post(f"{base}/models/try", json={"model": model, "prompt": "hello"})
    assert tried.status_code == 404
    assert job.id not in other.get(f"{base}/jobs").text


def test_the_page_hears_each_event_and_figure_once(at: Jobs, hand: Hand) -> None:
    hand.step(1, 3)
    first = at.get(f"/jobs/{hand.job.id}/now")
    assert [line["message"] for line in first["events"]][-1] == "Fine-tuning job started"
    (loss,) = [chart for chart in first["charts"] if chart["title"] == "Loss"]
    assert loss["series"][0]["steps"] == [1, 2, 3]
    assert loss["series"][0]["values"][0] == pytest.approx(0.6931, abs=1e-4)
    assert first["progress"]["how_far"] == f"step 3 of {STEPS}"
    assert first["used"] == {"n_epochs": "2", "batch_size": "8", "beta": "0.1"}
    hand.step(4)
    second = at.get(f"/jobs/{hand.job.id}/now?seq={first['seq']}")
    (loss,) = [chart for chart in second["charts"] if chart["title"] == "Loss"]
    assert (loss["series"][0]["steps"], second["events"], second["more"]) == ([4], [], False)
    third = at.get(f"/jobs/{hand.job.id}/now?seq={second['seq']}")
    assert (third["charts"], third["events"], third["seq"]) == ([], [], second["seq"])


def test_a_long_job_comes_in_pieces_and_not_every_point(at: Jobs, hand: Hand) -> None:
    count = 5000
    many = [
        Event(
            key=f"step-{n}", message="", type="metrics", data={"step": n, "train_loss": 1 / n},
            created_s=0.0,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip
    hand.tell(*many)
    seq, steps, answers = 0, [], 0
    while True:
        now = at.get(f"/jobs/{hand.job.id}/now?seq={seq}")
        answers += 1
        steps += [step for chart in now["charts"] for step in chart["series"][0]["steps"]]
        seq = now["seq"]
        if not now["more"]:
            break
    assert answers == 2
    assert steps[-1] == count
    assert 400 < len(steps) < 1500
    compared = at.get(f"/runs/curves?job={hand.job.id}")
    assert len(compared["charts"][0]["series"][0]["steps"]) < 1500


def test_a_checkpoint_is_shown_with_its_figures(at: Jobs, hand: Hand) -> None:
    name = hand.checkpoint(10)
    (found,) = at.get(f"/jobs/{hand.job.id}/now")["checkpoints"]
    assert (found["name"], found["step"]) == (name, 10)
    assert f"train loss {figures(10)['train_loss']:.4g}" in found["figures"]


def test_a_failed_job_says_why_and_what_to_do(at: Jobs, hand: Hand) -> None:
    what = {"code": "invalid_training_file", "message": "Example 3, message 1: no content."}
    hand.finish(0, "failed", problem=what)
    now = at.get(f"/jobs/{hand.job.id}/now")
    assert now["error"]["message"] == what["message"]
    assert "upload the file again" in now["error"]["advice"]
    assert (now["progress"]["words"], now["progress"]["may"]) == ("failed", [])
    assert now["progress"]["lives"] is False


def test_the_verdict_of_the_gate_is_shown_rule_by_rule(at: Jobs, hand: Hand) -> None:
    rule = {"name": "not worse", "outcome": "can't tell", "sentence": "Too few to tell."}
    measure = {"name": "length_tokens", "value": 34.0, "low": 30.25, "high": 38.0, "unit": "tokens"}
    verdict = {"suite": "s", "verdict": "can't tell", "results": [rule], "measures": [measure]}
    hand.finish(STEPS, verdict=verdict)
    now = at.get(f"/jobs/{hand.job.id}/now")
    assert now["verdict"]["verdict"] == "can't tell"
    assert now["verdict"]["rules"] == [{**rule, "tone": "warn"}]
    assert now["verdict"]["measures"] == ["length_tokens 34 (30.25 to 38) tokens"]
    assert now["model"].startswith("ft:tiny:preftune:kind:")
    assert now["progress"]["done"] == now["progress"]["total"] == STEPS


def test_a_job_is_cancelled_while_it_is_about_to_pause(at: Jobs, hand: Hand) -> None:
    job = f"/jobs/{hand.job.id}"
    assert at.post(f"{job}/pause")["message"] == "The job pauses after its next checkpoint."
    assert at.post(f"{job}/cancel")["message"] == "The job is cancelled."
    gone = at.get(f"{job}/now")["progress"]
    assert (gone["words"], gone["may"]) == ("cancelled", [])


def test_buttons_do_what_they_say(at: Jobs, hand: Hand) -> None:
    job = f"/jobs/{hand.job.id}"
    assert at.get(f"{job}/now")["progress"]["may"] == ["pause", "cancel"]
    at.post(f"{job}/pause")
    waiting = at.get(f"{job}/now")["progress"]
    assert (waiting["words"], waiting["may"]) == ("pausing after a checkpoint", ["cancel"])
    hand.finish(10, "paused")
    assert at.get(f"{job}/now")["progress"]["may"] == ["resume", "cancel"]
    at.post(f"{job}/resume")
    assert at.get(f"{job}/now")["progress"]["words"] == "queued"
    at.post(f"{job}/cancel")
    assert at.get(f"{job}/now")["progress"]["words"] == "cancelled"
    refused = at.post(f"{job}/resume", status=409)
    assert "cancelled" in refused["error"]["message"]
    at.post(f"{job}/delete", status=422)


def test_a_request_from_elsewhere_pauses_nothing(at: Jobs, hand: Hand) -> None:
    path = f"{at.base}/jobs/{hand.job.id}/pause"
    for headers in ({"X-CSRF-Token": "no"}, {"Origin": "http://evil.example"}):
        assert at.lead.post(path, json={}, headers=headers).status_code == 403
    assert at.get(f"/jobs/{hand.job.id}/now")["progress"]["words"] == "running"


def test_the_time_left_is_told_while_it_runs(at: Jobs, hand: Hand) -> None:
    ends = Beat(
        fence=hand.job.fence, step=4, total_steps=STEPS, estimated_finish_s=time.time() + 605
    )
    at.database.write(lambda db: beat(db, hand.job.id, ends, lease_s=60.0))
    assert at.get(f"/jobs/{hand.job.id}/now")["progress"]["left"] == "about 10 min left"
    assert at.get("/jobs/now")[hand.job.id]["left"] == "about 10 min left"


def test_the_list_goes_on_behind_its_last_job(at: Jobs) -> None:
    file = add_rows(at.database, at.cast.project_id, "pairs.jsonl")
    made = [add_job(at.database, at.cast.project_id, file.id).id for _ in range(25)]
    first = at.get("/jobs", headers=HTML)
    links = [f'href="{at.base}/jobs/{job}"' for job in made]
    assert [link in first for link in links] == [False] * 5 + [True] * 20
    rest = at.get(f"/jobs?after={made[5]}", headers=HTML)
    assert [link in rest for link in links] == [True] * 5 + [False] * 20


def test_a_key_is_made_shown_once_and_revoked(at: Jobs) -> None:
    body = {"name": "nightly", "scopes": {"files:write": True, "all": False}, "days": 30}
    secret = at.post("/keys", {**body, "per_minute": 60})["secret"]
    with at.database.read() as db:
        found = key_of(db, secret, now_s=0.0)
    assert found is not None
    assert (found.project_id, found.scopes) == (at.cast.project_id, ("files:write",))
    assert found.made_by == at.cast.ids["lead"]
    shown = at.get("/keys", headers=HTML)
    assert secret not in shown
    assert found.shown in shown
    at.post(f"/keys/{found.id}/revoke")
    with at.database.read() as db:
        assert keys_of(db, at.cast.project_id) == []
    none = {"name": "x", "scopes": {"all": False}, "days": 0, "per_minute": 60}
    assert "scopes" in at.post("/keys", none, status=409)["error"]["message"]


def test_a_file_comes_back_to_be_saved_and_never_as_a_page(at: Jobs) -> None:
    text = "<script>alert(1)</script>\n"
    file = add_rows(at.database, at.cast.project_id, 'a"\r\nX: y<b>.html', text)
    answer = at.lead.get(f"{at.base}/files/{file.id}/content")
    assert answer.text == text
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "x" not in answer.headers
    at.post(f"/files/{file.id}/delete")
    assert at.lead.get(f"{at.base}/files/{file.id}/content").status_code == 404


def test_a_model_says_where_it_comes_from_or_what_is_wrong(at: Jobs, hand: Hand) -> None:
    name = hand.checkpoint(10)
    shown = at.get(f"/models/{name}", headers=HTML)
    assert "pairs.jsonl" in shown
    assert "model.safetensors" in shown
    (manifest,) = (at.database.files / "jobs").rglob("MANIFEST.json")
    manifest.write_text('{"files": {}}')
    assert "was changed since" in at.get(f"/models/{name}", headers=HTML)
    manifest.unlink()
    assert "not on this disk" in at.get(f"/models/{name}", headers=HTML)
    assert at.lead.get(f"{at.base}/models/none").status_code == 404


def test_a_prompt_is_tried_on_a_model_and_on_its_base(at: Jobs, hand: Hand) -> None:
    for name in (hand.checkpoint(10), "tiny"):
        said = at.post("/models/try", {"model": name, "prompt": "hello", "temperature": 0.5})
        assert said == {"text": "hello", "told": "3 tokens, 0.2 s"}
    gone = at.post("/models/try", {"model": "none", "prompt": "hello"}, status=404)
    assert "none" in gone["error"]["message"]
