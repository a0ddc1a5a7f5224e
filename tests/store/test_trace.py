"""From a pair of a frozen dataset all the way back to the row of the log, on real parts only."""

from pathlib import Path
from typing import Any

import pytest
import typer
from tests.prompts.logs import desk_rows, prompts_in, responses_in, write_rows
from tests.responses.chat_server import ChatServer, serving
from tests.store.world import World
from typer.testing import CliRunner

from preftune.cli import prompts, trace
from preftune.comparisons.rules import pair_responses
from preftune.errors import DataError, SettingsError
from preftune.records import decode
from preftune.responses.generator import GenerateSettings
from preftune.responses.remote import HttpSettings
from preftune.responses.url_sampling import Asked, sample_url
from preftune.store.database import Database
from preftune.store.items import add_items, of_comparison
from preftune.store.snapshots import dataset_file, freeze
from preftune.store.trace import trace as traced
from preftune.types import Comparison, PreferencePair

ROWS = 40
MAIL = "ana.brown@example.com"


def run(*arguments: object) -> str:
    """Run a command as the command line would, and return what it printed."""
    app = typer.Typer()
    for part in (prompts, trace):
        part.register(app)
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def log_in(folder: Path) -> Path:
    rows = desk_rows(ROWS)
    for number, row in enumerate(rows):
        row |= {"id": f"user{number}@example.com", "time": f"2026-01-01T00:00:{number:02}Z"}
        row["messages"][-2]["content"] += f" {number} , mail {MAIL}"
    return write_rows(folder / "log.jsonl", rows)


def to_label(folder: Path, log: Path) -> Path:
    """Take the log through all four commands."""
    steps = [folder / f"{name}.jsonl" for name in ("raw", "clean", "unique", "label")]
    run("prompts", "import", log, "--out", steps[0])
    run("prompts", "redact", steps[0], "--out", steps[1])
    run("prompts", "dedupe", steps[1], "--out", steps[2], "--near", 0.9)
    run("prompts", "select", steps[2], "--out", steps[3], "--n", 3)
    return steps[3]


def compared(folder: Path, label: Path) -> list[Comparison]:
    """Sample two models behind a URL, and put their responses side by side."""
    asked = prompts_in(label)
    with serving(ChatServer()) as server:
        http = HttpSettings(url=server.url, allow_urls=(server.url,))
        models = [Asked(model="small"), Asked(model="large")]
        draws = [GenerateSettings(max_new_tokens=8)]
        out = folder / "responses.jsonl"
        sample_url(asked, http, models, draws, n=1, seed=0, out=out, tell=lambda _: None)
    found = responses_in(out)
    halves = [[r for r in found if str(r.generator).startswith(m.model)] for m in models]
    # the server answers all alike, and equal responses make no pair
    changed = [r.__class__(**{**fields(r), "messages": asked[0].messages}) for r in halves[1]]
    return pair_responses(asked, halves[0], changed)


def fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    """A log, a store in which one pair of it was judged and frozen, and that pair."""
    log = log_in(tmp_path)
    new = [of_comparison(one) for one in compared(tmp_path, to_label(tmp_path, log))]
    with Database(f"sqlite:///{tmp_path / 'labels.db'}", files=tmp_path / "files") as store:
        world = World(store, raters=("ann",))
        store.write(lambda db: add_items(db, world.project, new, by="lead"))
        world.say("ann", world.next("ann"), grade=1, why={"overall": "kinder"})
        made = freeze(store, world.project, name="first", by="lead")
        rows = dataset_file(store, made.hash)
        (pair,) = [decode(line) for line in rows.read_bytes().splitlines()]
    assert isinstance(pair, PreferencePair)
    return log, tmp_path / "labels.db", rows, pair


def test_a_pair_leads_back_to_rater_generators_and_the_row_of_the_log(desk: Any) -> None:
    log, store, rows, pair = desk
    (row,) = pair.prompt.log_rows
    line = log.read_text().splitlines()[row.line - 1]
    shown = run("trace", pair.id, "--store", store, "--files", rows.parent.parent, "--log", log)
    told = {text.split()[0]: text for text in shown.splitlines()}
    assert told["row"].split() == ["row", "pair", f"{pair.id},", "line", "1"]
    assert "overall by ann (human)" in told["judged"]
    best = "A" if str(pair.provenance.chosen_generator).startswith("small@") else "B"
    assert f" {best} much better, ann, event " in told["verdict"]
    assert told["verdict"].endswith(": kinder")
    assert f"chosen {pair.provenance.chosen_generator}, rejected " in told["generators"]
    assert f"log.jsonl line {row.line}, id hmac:" in told["asked"]
    assert f"at 2026-01-01T00:00:{row.line - 1:02}Z" in told["asked"]
    assert f"line {row.line}, the same file: {line[:60]}" in told["in"]
    assert MAIL in line
    assert MAIL not in rows.read_text()
    assert "@example.com" not in rows.read_text()


def test_the_frozen_file_alone_leads_back_as_well_even_in_a_longer_log(desk: Any) -> None:
    log, _, rows, pair = desk
    (row,) = pair.prompt.log_rows
    log.write_text("{}\n" + log.read_text())
    found = traced(pair.id, data=rows, log=log)
    assert (found.line, found.lineage, found.row) == (1, None, pair)
    assert found.in_log is not None
    assert [(one.line, one.moved) for one in found.in_log] == [(row.line + 1, True)]


def test_what_is_not_there_is_said(desk: Any, tmp_path: Path) -> None:
    _, store, rows, pair = desk
    with pytest.raises(DataError, match="no row has the id 'pair-0'"):
        traced("pair-0", data=rows)
    with Database(f"sqlite:///{store}", files=tmp_path / "files") as database:
        with pytest.raises(DataError, match="no dataset has a row 'pair-0'"):
            traced("pair-0", store=database)
        with pytest.raises(SettingsError, match="give a file or a store"):
            traced(pair.id, data=rows, store=database)
    with pytest.raises(SettingsError, match="give a file or a store"):
        traced(pair.id)


def test_a_prompt_without_a_log_is_said_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"type":"prompt","id":"p\\u001b","messages":[{"role":"user","content":"a"}]}\n'
    )
    shown = run("trace", "p\x1b", "--data", path)
    assert shown.splitlines() == [
        r"row        prompt p\x1b, line 1",
        "asked      origin unknown, no row of a log is kept",
    ]
