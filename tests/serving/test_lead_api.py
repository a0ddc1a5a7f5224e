"""The lead's pages and routes, over both databases: all a lead decides reaches the store."""

import hashlib
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import update
from tests.serving.conftest import App, make_cast
from tests.serving.lead_world import (
    SECRET_NAMES,
    Click,
    Lead,
    comparison,
    complain,
    crowd,
    fill,
    items_of,
    judge,
    lines,
)

from preftune.datasets import read_pairs
from preftune.records import encode
from preftune.serving.settings import ServerSettings
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, member, project
from preftune.store.schema import events as log
from preftune.store.snapshots import dataset_file
from preftune.types import Judgment, Rater, text_of

TWO_RATERS = ProjectSettings(raters_per_item=2)


@pytest.fixture
def desk(database_url: str) -> Iterator[App]:
    """The application over either database, two raters wanted on each item."""
    with Database(database_url) as database:
        cast = make_cast(database, TWO_RATERS)
        made = App(database=database, cast=cast, settings=ServerSettings())
        with made.clients:
            yield made


@pytest.fixture
def small(app: App) -> App:
    """The application over SQLite, for what does not touch the databases' differences."""
    return app


def populated(app: App, *, items: int = 6) -> Lead:
    """Return a lead of a project that two raters have judged."""
    ids, project_id = app.cast.ids, app.cast.project_id
    fill(app.database, project_id, ids["lead"], items=items)
    crowd(app.database, project_id, [ids["rater"], ids["rater2"]])
    return Lead(app)


PAGES = (
    "",
    "/items",
    "/import",
    "/known",
    "/adjudication",
    "/raters",
    "/guideline",
    "/settings",
    "/datasets",
    "/log",
)


def test_every_page_shows_an_empty_and_a_full_project(desk: App) -> None:
    lead = Lead(desk)
    for tail in PAGES:
        assert "Care desk" in lead.page(tail)
    populated(desk)
    lead.done("/guideline", {"text": "# Be kind", "base": 0})
    seal = lead.done("/datasets", {"name": "first", "policy": "votes"})["next"].rsplit("/", 1)[1]
    (item, *_) = items_of(desk.database, desk.cast.project_id).values()
    more = (
        f"/items/{item.id}",
        f"/adjudication/{item.id}",
        f"/raters/{desk.cast.ids['rater']}",
        f"/raters/{desk.cast.ids['lead']}",
        f"/datasets/{seal}",
        f"/datasets/{seal}/rows/1",
        "/guideline?version=1&beside=0",
    )
    for tail in (*PAGES, *more):
        assert "Care desk" in lead.page(tail)
    now = lead.get("/now").json()
    assert now["items"]["done"] == 6
    assert now["agreement"][0]["items"] == 6


@pytest.mark.parametrize("role", ["rater", "outsider", None])
def test_nobody_but_leads_and_admins_finds_anything(small: App, role: str | None) -> None:
    stranger = Lead(small)
    stranger.client = small.client(role)
    wanted = 401 if role is None else 404
    for tail in (*PAGES, "/now", "/raters.csv"):
        assert stranger.get(tail).status_code == wanted
    assert stranger.post("/guideline", {"text": "x", "base": 0}).status_code == wanted
    assert Lead(small, "admin").get("").status_code == 200


def test_lines_are_imported_once(desk: App) -> None:
    lead = Lead(desk)
    piece = {"name": "a.jsonl", "first_line": 1, "lines": [*lines(0, 3), "", *lines(2, 2)]}
    assert lead.done("/import", piece) == {"new": 4, "known": 1, "prompts": 0, "judgments": 0}
    assert lead.done("/import", piece) == {"new": 0, "known": 5, "prompts": 0, "judgments": 0}
    assert list(items_of(desk.database, desk.cast.project_id)) == ["c0", "c1", "c2", "c3"]


def test_a_bad_line_is_named_and_nothing_of_its_piece_is_imported(small: App) -> None:
    lead = Lead(small)
    bad = '{"type":"comparison","id":"x","prompt":{"id":"p","messages":[]},"responses":[]}'
    piece = {"name": "a.jsonl", "first_line": 41, "lines": [*lines(0, 1), "{", bad]}
    said = lead.refused("/import", piece)
    assert said.startswith("Line 42 of a.jsonl: ")
    assert "\nline 43 of a.jsonl: " in said
    three = comparison(1)
    wide = three.__class__(
        id="wide", prompt=three.prompt, responses=(*three.responses, three.responses[0])
    )
    piece["lines"] = [*lines(0, 1), encode(wide).decode()]
    assert "Line 42 of a.jsonl: item wide: 3 responses; scale shows 2 to 2" in lead.refused(
        "/import", piece
    )
    assert items_of(small.database, small.cast.project_id) == {}


def test_judgments_of_a_file_are_left_out_and_counted(small: App) -> None:
    said = Judgment(id="j", comparison_id="c0", kind="tie", rater=Rater(id="elsewhere"))
    piece = {
        "name": "a.jsonl",
        "first_line": 1,
        "lines": [*lines(0, 1), encode(said).decode()],
    }
    assert Lead(small).done("/import", piece)["judgments"] == 1


def test_responses_to_be_rewritten_come_with_their_prompts(small: App) -> None:
    lead = Lead(small)
    settings = {"kind": "rewrite", "dimensions": ["overall"]}
    lead.done("/settings", {"settings": settings})
    whole = comparison(1)
    response = encode(whole.responses[1]).decode()
    prompt = encode(whole.prompt).decode()
    piece = {"name": "r.jsonl", "first_line": 1, "lines": [response]}
    assert "Line 1 of r.jsonl: prompt" in lead.refused("/import", piece)
    assert lead.done("/import", {**piece, "lines": [prompt, response]})["new"] == 1
    assert lead.done("/import", {**piece, "prompts": [prompt]})["known"] == 1
    assert "takes responses with their prompts" in lead.refused(
        "/import", {**piece, "lines": lines(0, 1)}
    )


def test_names_of_models_are_shown_only_when_asked_for(small: App) -> None:
    lead = populated(small)
    item_id = items_of(small.database, small.cast.project_id)["c0"].id
    seal = lead.done("/datasets", {"name": "d", "policy": "votes"})["next"].rsplit("/", 1)[1]
    places = (f"/items/{item_id}", f"/datasets/{seal}", f"/datasets/{seal}/rows/1")
    for tail in places:
        assert not any(name in lead.page(tail) for name in SECRET_NAMES)
        assert any(name in lead.page(f"{tail}?names=true") for name in SECRET_NAMES)
    for tail in (f"/adjudication/{item_id}", f"/adjudication/{item_id}?names=true", "/items"):
        assert not any(name in lead.page(tail) for name in SECRET_NAMES)


def test_an_item_page_says_who_said_what_in_the_order_of_import(small: App) -> None:
    ids = small.cast.ids
    fill(small.database, small.cast.project_id, ids["lead"], items=1)
    click = Click(who=ids["rater"], good=False, strength=3, why="<b>bad</b> was kinder")
    judge(small.database, small.cast.project_id, click)
    item_id = items_of(small.database, small.cast.project_id)["c0"].id
    text = Lead(small).page(f"/items/{item_id}")
    assert "B much better" in text  # as imported, the bad one is B
    assert "Rater Example" in text
    assert "&lt;b&gt;bad&lt;/b&gt; was kinder" in text


def test_a_lead_settles_blind_and_the_dataset_has_the_last_word(desk: App) -> None:
    ids, project_id = desk.cast.ids, desk.cast.project_id
    fill(desk.database, project_id, ids["lead"], items=1)
    judge(desk.database, project_id, Click(who=ids["rater"], good=True))
    judge(desk.database, project_id, Click(who=ids["rater2"], good=False, why="no"))
    lead = Lead(desk)
    target = lead.client.get(f"{lead.base}/adjudication/next").headers["Location"]
    tail = target.removeprefix(lead.base)
    text = lead.page(tail)
    assert "Rater Example" not in text
    assert "Rater2 Example" not in text
    assert "Rater 2" in text
    good_first = text.index("good answer 0") < text.index("bad answer 0")
    body = {"answers": {"overall": "7" if good_first else "1"}, "why": "policy"}
    key = uuid.uuid4().hex
    first, again = (lead.post(tail, body, key=key).json() for _ in range(2))
    assert first == again == {"message": "Settled.", "next": f"{lead.base}/adjudication/next"}
    assert lead.client.get(first["next"]).headers["Location"] == f"{lead.base}/adjudication"
    made = lead.done("/datasets", {"name": "settled", "policy": "votes"})["next"].rsplit("/", 1)[1]
    (pair,) = read_pairs(dataset_file(desk.database, made))
    assert text_of(pair.chosen) == "bad answer 0"
    assert pair.provenance.raters == (ids["lead"],)
    assert pair.strength == 3
    assert "Rater2 Example" in lead.page(tail.replace("adjudication", "items"))


def test_an_answer_that_is_none_is_refused(small: App) -> None:
    fill(small.database, small.cast.project_id, small.cast.ids["lead"], items=1)
    item_id = items_of(small.database, small.cast.project_id)["c0"].id
    lead = Lead(small)
    for answers in ({}, {"overall": "8"}, {"overall": "x"}, {"charm": "3"}):
        assert lead.refused(f"/adjudication/{item_id}", {"answers": answers})
    assert "is not there" in lead.refused("/adjudication/itm-0", {"answers": {"overall": "1"}})


def test_a_gold_item_is_marked_and_how_raters_did_is_shown(desk: App) -> None:
    ids, project_id = desk.cast.ids, desk.cast.project_id
    fill(desk.database, project_id, ids["lead"], items=2)
    judge(desk.database, project_id, Click(who=ids["rater"], good=False))
    lead = Lead(desk)
    item_id = items_of(desk.database, project_id)["c0"].id
    body = {"use": "calibration", "answers": {"overall": "1"}, "why": "It says what happens next."}
    assert lead.done(f"/items/{item_id}/mark", body)["message"] == "This item is for: calibration."
    text = lead.page("/known")
    assert "overall: A much better" in text
    assert "0 of 1" in text
    assert "It says what happens next." in lead.page(f"/items/{item_id}")
    assert "needs the right answer" in lead.refused(f"/items/{item_id}/mark", {"use": "gold"})
    lead.done(f"/items/{item_id}/mark", {"use": "label"})
    assert "No item has a known answer yet" in lead.page("/known")


def test_a_withdrawn_item_is_shown_to_nobody(small: App) -> None:
    ids, project_id = small.cast.ids, small.cast.project_id
    fill(small.database, project_id, ids["lead"], items=1)
    item_id = items_of(small.database, project_id)["c0"].id
    lead = Lead(small)
    lead.done("/withdraw", {"items": [item_id]})
    assert judge(small.database, project_id, Click(who=ids["rater"], good=True)) is None
    assert "withdrawn" in lead.page(f"/items/{item_id}")


def test_flags_come_with_their_reason_and_go_when_dealt_with(small: App) -> None:
    ids, project_id = small.cast.ids, small.cast.project_id
    fill(small.database, project_id, ids["lead"], items=1)
    item_id = items_of(small.database, project_id)["c0"].id
    complain(small.database, project_id, ids["rater"], item_id, "holds a phone number")
    lead = Lead(small)
    text = lead.page("/adjudication")
    assert "holds a phone number" in text
    assert "1 flag" in lead.page()
    seq = text.partition("/flags/")[2].partition("/")[0]
    lead.done(f"/flags/{seq}/close")
    assert "No flag waits" in lead.page("/adjudication")


def test_two_authors_of_a_guideline_do_not_overwrite_each_other(desk: App) -> None:
    lead = Lead(desk)
    lead.done("/guideline", {"text": "Be kind.", "base": 0})
    said = lead.refused("/guideline", {"text": "Be brief.", "base": 0})
    assert "version 1 came out while you wrote" in said
    fill(desk.database, desk.cast.project_id, desk.cast.ids["lead"], items=1)
    judge(desk.database, desk.cast.project_id, Click(who=desk.cast.ids["rater"], good=True))
    lead.done("/guideline", {"text": "Be kind and brief.", "base": 1})
    text = lead.page("/guideline?version=2&beside=1")
    assert "<ins>and</ins>" in text or "<ins>" in text
    assert "From v1 to v2" in text
    rows = text.partition("<tbody>")[2].split("<tr>")
    assert 'data-label="verdicts">0<' in rows[1]  # version 2
    assert 'data-label="verdicts">1<' in rows[2]  # version 1, under which the verdict was given
    assert "there is no version 9" in lead.get("/guideline?version=9").json()["error"]["message"]


def test_a_preview_is_a_tree_without_html(small: App) -> None:
    text = "# Title\n\n<script>x</script> **bold**"
    answer = Lead(small).post("/guideline/preview", {"text": text}).json()
    title, paragraph = (part for part in answer if not isinstance(part, str))
    assert (title["tag"], title["children"]) == ("h1", ["Title"])
    assert "<script>" in "".join(c for c in paragraph["children"] if isinstance(c, str))


def test_settings_are_checked_and_changed(desk: App) -> None:
    lead = Lead(desk)
    text = lead.page("/settings")
    assert "Verdicts wanted on each item." in text
    settings = {
        "kind": "binary",
        "dimensions": ["helpful", "harmless"],
        "tie": False,
        "reasons": ["wrong", "rude"],
        "raters_per_item": 3,
        "strategy": "disagreement",
        "gold_share": 0.1,
        "repeat_share": 0.05,
        "lease_minutes": 20,
        "break_minutes": 0,
    }
    lead.done("/settings", {"settings": settings})
    with desk.database.read() as db:
        found = project(db, desk.cast.project_id).settings
    assert (found.kind, found.dimensions, found.tie) == ("binary", ("helpful", "harmless"), False)
    assert (found.raters_per_item, found.gold_share) == (3, 0.1)
    assert "gold_share" in lead.refused("/settings", {"settings": {**settings, "gold_share": 0.9}})
    assert "unknown setting 'kinds'" in lead.refused("/settings", {"settings": {"kinds": "scale"}})


def test_a_rater_can_be_paused_excluded_and_let_back(desk: App) -> None:
    lead = populated(desk)
    who = desk.cast.ids["rater2"]
    text = lead.page(f"/raters/{who}")
    assert "Without this rater" in text
    assert "agrees with most others" in text
    for state in ("paused", "excluded", "active"):
        lead.done(f"/raters/{who}/state", {"state": state})
        with desk.database.read() as db:
            found = member(db, desk.cast.project_id, who)
        assert found is not None
        assert found.state == state
    lead.done(f"/raters/{who}/state", {"state": "excluded"})
    assert lead.get("/now").json()["agreement"][0]["items"] == 0  # nobody left to agree with
    made = lead.done("/datasets", {"name": "one", "policy": "votes"})["next"].rsplit("/", 1)[1]
    raters = {p.provenance.raters for p in read_pairs(dataset_file(desk.database, made))}
    assert raters == {(desk.cast.ids["rater"],)}


def test_a_dataset_has_one_hash_however_often_it_is_frozen(desk: App) -> None:
    lead = populated(desk)
    first, again = (
        lead.done("/datasets", {"name": name, "policy": "votes"}) for name in ("May", "June")
    )
    assert first["next"] == again["next"]
    seal = first["next"].rsplit("/", 1)[1]
    answer = lead.get(f"/datasets/{seal}/file")
    assert hashlib.sha256(answer.content).hexdigest() == seal
    assert answer.headers["content-disposition"] == f'attachment; filename="May-{seal[:12]}.jsonl"'
    text = lead.page("/datasets")
    assert "May" in text
    assert "June" not in text
    assert "Policy: 'luck' is not one of" in lead.refused(
        "/datasets", {"name": "x", "policy": "luck"}
    )


def test_a_dataset_of_another_project_is_not_there(small: App) -> None:
    seal = populated(small).done("/datasets", {"name": "d", "policy": "votes"})["next"][-64:]
    stranger = Lead(small, "outsider")
    stranger.base = f"/p/{small.cast.other_id}/lead"
    assert stranger.get("/datasets").status_code == 200
    for tail in ("", "/file", "/rows/1"):
        assert stranger.get(f"/datasets/{seal}{tail}").status_code in (404, 409)


def test_a_row_is_traced_to_seed_generator_rater_and_log(desk: App) -> None:
    lead = populated(desk)
    seal = lead.done("/datasets", {"name": "d", "policy": "votes"})["next"][-64:]
    (pair, *_) = read_pairs(dataset_file(desk.database, seal))
    to = lead.client.get(f"{lead.base}/datasets/{seal}", params={"row": pair.id})
    assert to.headers["Location"] == f"{lead.base}/datasets/{seal}/rows/1"
    text = lead.page(f"/datasets/{seal}/rows/1?names=true")
    number = pair.provenance.comparison_id.removeprefix("c")
    for told in (pair.id, "model-good", f"{1000 + int(number)}", "Rater Example", "desk.jsonl"):
        assert told in text
    assert ">voted<" in text
    assert lead.get(f"/datasets/{seal}/rows/999").status_code == 409


def test_a_change_of_the_log_is_found(desk: App) -> None:
    lead = populated(desk)
    assert lead.done("/log/verify")["whole"] is True
    third = update(log).where(log.c.project_id == desk.cast.project_id, log.c.seq == 3)
    desk.database.write(lambda db: db.execute(third.values(data='{"items":1}')).rowcount)
    said = lead.done("/log/verify")
    assert said["whole"] is False
    assert "event 3 was changed or taken out" in said["message"]
    assert "details" in lead.page("/log?before=5")
