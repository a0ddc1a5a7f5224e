"""Whole files: ids follow the new content, counts add up, no original value is left anywhere."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.prompts.logs import desk_rows, prompts_in, responses_in, write_rows

from preftune.errors import RowError, SettingsError
from preftune.files import read_json
from preftune.prompts.import_log import import_log
from preftune.prompts.recognise import Span
from preftune.prompts.redact_file import recogniser_named, redact_file
from preftune.records import encode
from preftune.types import Response, assistant, make_prompt

SECRETS = ("ana.brown@example.com", "020 7946 0958", "4111 1111 1111 1111", "Ana Brown", "10.1.2.3")


def planets(text: str, /) -> list[Span]:
    """A recogniser to plug in."""
    found = re.finditer("teddy bear", text)
    return [Span(start=m.start(), end=m.end(), kind="TOY") for m in found]


def imported(folder: Path, rows: list[dict[str, Any]]) -> tuple[Path, Path]:
    log = write_rows(folder / "log.jsonl", rows)
    import_log(log, folder / "p.jsonl", responses=folder / "r.jsonl")
    return folder / "p.jsonl", folder / "r.jsonl"


def rows_with_secrets() -> list[dict[str, Any]]:
    rows = desk_rows(60)
    for row, secret in zip(rows[::7], SECRETS, strict=False):
        row["messages"][-2]["content"] += f" my name is {secret} , bye"
        row["messages"][-1]["content"] = f"Dear {secret}, we note {secret}."
    return rows


def test_no_original_value_is_left_in_any_file(tmp_path: Path) -> None:
    prompts, responses = imported(tmp_path, rows_with_secrets())
    before = prompts.read_text() + responses.read_text()
    assert all(secret in before for secret in SECRETS)
    made = tmp_path / "made"
    report = redact_file(
        prompts, made / "p.jsonl", responses=responses, responses_out=made / "r.jsonl"
    )
    after = "".join(path.read_text() for path in made.iterdir())
    assert not [secret for secret in SECRETS if secret in after]
    assert sorted(p.name for p in made.iterdir()) == ["p.jsonl", "p.report.json", "r.jsonl"]
    assert (report.touched, report.responses_touched) == (5, 5)
    assert report.replaced == {"CARD": 3, "EMAIL": 3, "IP": 3, "NAME": 3, "PHONE": 3}
    assert read_json(made / "p.report.json")["replaced"] == report.replaced


def test_responses_follow_their_prompts_and_untouched_ones_keep_their_words(tmp_path: Path) -> None:
    prompts, responses = imported(tmp_path, rows_with_secrets())
    out, responses_out = tmp_path / "clean.jsonl", tmp_path / "clean-r.jsonl"
    redact_file(prompts, out, responses=responses, responses_out=responses_out)
    old, new = responses_in(responses), responses_in(responses_out)
    assert len(old) == len(new)
    place = {p.id: n for n, p in enumerate(prompts_in(prompts))}
    clean = {p.id: n for n, p in enumerate(prompts_in(out))}
    assert [place[r.prompt_id] for r in old] == [clean[r.prompt_id] for r in new]
    assert all(p.id == make_prompt(*p.messages, tools=p.tools).id for p in prompts_in(out))
    same = [(a, b) for a, b in zip(old, new, strict=True) if a.messages == b.messages]
    assert len(same) == len(old) - 5
    assert len({r.id for r in new}) == len(new)
    named = next(p for p in prompts_in(out) if "[NAME_1]" in p.messages[-1].content)
    (answer,) = [r for r in new if r.prompt_id == named.id]
    assert answer.messages[0].content == "Dear [NAME_1], we note [NAME_1]."


def test_redacting_the_output_changes_not_a_byte(tmp_path: Path) -> None:
    prompts, responses = imported(tmp_path, rows_with_secrets())
    once, twice = tmp_path / "once", tmp_path / "twice"
    redact_file(prompts, once / "p.jsonl", responses=responses, responses_out=once / "r.jsonl")
    report = redact_file(
        once / "p.jsonl",
        twice / "p.jsonl",
        responses=once / "r.jsonl",
        responses_out=twice / "r.jsonl",
    )
    assert report.replaced == {}
    assert all((once / n).read_bytes() == (twice / n).read_bytes() for n in ("p.jsonl", "r.jsonl"))


def test_prompts_that_become_equal_are_one_seen_as_often_as_all(tmp_path: Path) -> None:
    def row(who: str) -> dict[str, Any]:
        asked = {"role": "user", "content": f"mail {who}@x.de"}
        return {"messages": [asked, {"role": "assistant", "content": "done"}]}

    prompts, responses = imported(tmp_path, [row("a"), row("b"), row("a")])
    out = tmp_path / "clean.jsonl"
    report = redact_file(prompts, out, responses=responses, responses_out=tmp_path / "c.jsonl")
    (prompt,) = prompts_in(out)
    assert (prompt.messages[0].content, prompt.tags) == ("mail [EMAIL_1]", ("seen:3",))
    assert (report.prompts, report.written, report.merged) == (2, 1, 1)
    # equal responses to what are now equal prompts stay two, each with an id of its own
    found = responses_in(tmp_path / "c.jsonl")
    assert [r.prompt_id for r in found] == [prompt.id, prompt.id]
    assert found[0].id != found[1].id
    assert replace(found[0], id=found[1].id) == found[1]


def test_name_that_only_the_reply_announces_is_replaced_in_the_prompt(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Zoe here , is my order 1009 in ?"}
    reply = {"role": "assistant", "content": "Dear Zoe, it is."}
    prompts, responses = imported(tmp_path, [{"messages": [asked, reply]}])
    out, responses_out = tmp_path / "clean.jsonl", tmp_path / "clean-r.jsonl"
    redact_file(prompts, out, responses=responses, responses_out=responses_out)
    (prompt,), (answer,) = prompts_in(out), responses_in(responses_out)
    assert prompt.messages[0].content == "[NAME_1] here , is my order 1009 in ?"
    assert answer.messages[0].content == "Dear [NAME_1], it is."


def test_response_to_no_prompt_is_an_error(tmp_path: Path) -> None:
    prompts, responses = imported(tmp_path, desk_rows(3))
    stray = Response(id="r-1", prompt_id="p-\x1b[0m", messages=(assistant("hi"),))
    responses.write_bytes(responses.read_bytes() + encode(stray))
    with pytest.raises(RowError, match=r"r\.jsonl:4: belongs to prompt p-\\x1b\[0m"):
        redact_file(
            prompts, tmp_path / "c.jsonl", responses=responses, responses_out=tmp_path / "d.jsonl"
        )
    assert not (tmp_path / "c.jsonl").exists()
    assert not (tmp_path / "d.jsonl").exists()


def test_responses_in_the_place_of_prompts_are_named(tmp_path: Path) -> None:
    _, responses = imported(tmp_path, desk_rows(3))
    with pytest.raises(RowError, match="is a response, not a prompt"):
        redact_file(responses, tmp_path / "c.jsonl")


def test_recogniser_by_name_takes_the_place_of_ours(tmp_path: Path) -> None:
    prompts, _ = imported(tmp_path, desk_rows(200))
    report = redact_file(prompts, tmp_path / "c.jsonl", recogniser=f"{__name__}:planets")
    assert report.replaced["TOY"] > 0
    assert report.name_recogniser.endswith(":planets")
    assert "teddy bear" not in (tmp_path / "c.jsonl").read_text().replace("item:teddy bear", "")


@pytest.mark.parametrize("place", ["json", "no_such_module:x", "json:no_such", "sys:path"])
def test_recogniser_that_is_not_there_is_an_error(place: str) -> None:
    assert callable(recogniser_named("json:loads"))
    with pytest.raises(SettingsError, match=f"--recogniser '{place}'"):
        recogniser_named(place)
    assert "no_such_module" not in sys.modules


def test_command_prints_kinds_and_no_values(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    prompts, responses = imported(tmp_path, rows_with_secrets())
    out = tmp_path / "c.jsonl"
    done = run_cli("prompts", "redact", prompts, "--out", out, "--region", "GB")
    assert done.code == 0, done.err
    assert not [secret for secret in SECRETS if secret in done.out]
    assert "replaced  1 PHONE" in done.out.splitlines()
    half = run_cli("prompts", "redact", prompts, "--out", out, "--responses", responses)
    assert half.code == 2
    assert half.err == "error: responses: give --responses and --responses-out together.\n"
    wrong = run_cli("prompts", "redact", prompts, "--out", out, "--region", "UK")
    assert (wrong.code, wrong.err[:21]) == (2, "error: --region 'UK'.")
