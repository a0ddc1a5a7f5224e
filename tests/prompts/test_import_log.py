"""A log becomes prompts, each once with its count, and replies, each once; nothing is lost."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompts.logs import desk_rows, prompts_in, responses_in, write_rows

from preftune.errors import DataError, PreftuneError, RowError, SettingsError
from preftune.files import read_json
from preftune.prompts.import_log import columns_named, import_log
from preftune.types import Message, ToolCall, assistant, make_prompt, user

SYSTEM = {"role": "system", "content": "be kind"}
HELLO = {"role": "user", "content": "hello"}
HI = {"role": "assistant", "content": "hi there"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "x"}'}}

Ran = Callable[..., Any]


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def test_chat_splits_before_the_last_assistant_turn_and_keeps_system_tools_and_model(
    tmp_path: Path,
) -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    told = {"role": "tool", "content": "rain", "tool_call_id": "c1"}
    row = chat(SYSTEM, HELLO, asked, told, HI, tools=[WEATHER], model="m-1", tags=["kind:a"])
    log = write_rows(tmp_path / "log.jsonl", [row])
    import_log(log, tmp_path / "p.jsonl", responses=tmp_path / "r.jsonl")
    call = ToolCall(id="c1", name="weather", arguments='{"at": "x"}')
    expected = make_prompt(
        Message(role="system", content="be kind"),
        user("hello"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="rain", tool_call_id="c1"),
        tools=(WEATHER,),
        tags=("kind:a", "seen:1"),
        source="log.jsonl",
        origin="log",
    )
    (prompt,), (response,) = prompts_in(tmp_path / "p.jsonl"), responses_in(tmp_path / "r.jsonl")
    assert replace(prompt, log_rows=()) == expected
    assert (response.prompt_id, response.messages) == (prompt.id, (assistant("hi there"),))
    assert (response.generator, response.origin, response.finished) == ("m-1", "logged", True)


def test_equal_prompts_are_one_with_their_count_and_all_their_tags(tmp_path: Path) -> None:
    rows = [
        chat(HELLO, HI, model="m", tags=["a"], feedback="up"),
        chat({"role": "user", "content": "bye"}, HI, model="m"),
        chat(HELLO, HI, model="m", tags=["b"], feedback="down"),
        chat(HELLO, {"role": "assistant", "content": "yes?"}, model="m"),
        chat(HELLO, HI, model="other"),
    ]
    out, responses = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    report = import_log(write_rows(tmp_path / "log.jsonl", rows), out, responses=responses)
    assert [(p.messages[0].content, p.tags) for p in prompts_in(out)] == [
        ("hello", ("a", "feedback:up", "b", "feedback:down", "seen:4")),
        ("bye", ("seen:1",)),
    ]
    # the same words to the same prompt by the same model are one response
    assert [r.messages[0].content for r in responses_in(responses)] == [
        "hi there", "hi there", "yes?", "hi there",
    ]  # fmt: skip
    counts = (report.rows, report.prompts, report.repeats, report.replies, report.responses)
    assert counts == (5, 2, 3, 5, 4)
    assert read_json(tmp_path / "p.report.json")["repeats"] == 3


REQUEST = {"messages": [SYSTEM, HELLO], "model": "asked-for", "temperature": 0.5}
ANSWER = {"choices": [{"message": HI, "finish_reason": "stop"}], "model": "m-2024"}


@pytest.mark.parametrize(
    ("row", "model"),
    [
        ({"request": REQUEST, "response": ANSWER}, "m-2024"),
        ({"request": {"body": REQUEST}, "response": {"status": 200, "body": ANSWER}}, "m-2024"),
        ({"body": REQUEST, "response": {"body": ANSWER}, "custom_id": "7"}, "m-2024"),
        ({**REQUEST, **ANSWER, "object": "chat.completion"}, "m-2024"),
        ({"input": REQUEST["messages"], **ANSWER, "metadata": {"a": "b"}}, "m-2024"),
        ({"request": REQUEST, "response": "hi there"}, "asked-for"),
        ({**REQUEST, "messages": [SYSTEM, HELLO, HI]}, "asked-for"),
    ],
    ids=["request", "bodies", "batch", "stored", "stored-input", "text", "with-reply"],
)
def test_every_shape_of_request_log_gives_the_same(
    tmp_path: Path, row: dict[str, Any], model: str
) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row])
    report = import_log(log, tmp_path / "p.jsonl", responses=tmp_path / "r.jsonl")
    (prompt,), (response,) = prompts_in(tmp_path / "p.jsonl"), responses_in(tmp_path / "r.jsonl")
    assert report.format == "openai"
    assert [m.content for m in prompt.messages] == ["be kind", "hello"]
    assert (response.messages, response.generator) == ((assistant("hi there"),), model)


def test_request_body_alone_is_a_prompt_without_a_reply(tmp_path: Path) -> None:
    # an API request that goes on after an answer: its last user turn is what was asked
    row = {**REQUEST, "messages": [HELLO, HI, {"role": "user", "content": "and now?"}]}
    report = import_log(write_rows(tmp_path / "log.jsonl", [row]), tmp_path / "p.jsonl")
    (prompt,) = prompts_in(tmp_path / "p.jsonl")
    assert [m.content for m in prompt.messages] == ["hello", "hi there", "and now?"]
    assert (report.unanswered, report.replies) == (1, 0)


def test_every_choice_is_a_response_and_one_cut_short_is_not_finished(tmp_path: Path) -> None:
    long = {"message": {"role": "assistant", "content": "well"}, "finish_reason": "length"}
    refusal = {"message": {"role": "assistant", "content": None, "refusal": "I can't"}}
    empty = {"message": {"role": "assistant", "content": " "}}
    answer = {"choices": [*ANSWER["choices"], long, refusal, empty]}
    rows = [{"request": REQUEST, "response": answer}]
    log = write_rows(tmp_path / "log.jsonl", rows)
    report = import_log(log, tmp_path / "p.jsonl", responses=tmp_path / "r.jsonl")
    found = [(r.messages[0].content, r.finished) for r in responses_in(tmp_path / "r.jsonl")]
    assert found == [("hi there", True), ("well", False), ("I can't", True)]
    assert report.odd["empty replies, left out"] == 1


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    thanks = {"role": "user", "content": "thanks"}
    rows = [
        chat({"role": "developer", "content": "be brief"}, HELLO, HI, thanks, id=1, user="a"),
        chat({**HELLO, "weight": 0}, HI, id=[2], custom_id=2, feedback={"stars": 5}, user=None),
    ]
    report = import_log(write_rows(tmp_path / "log.jsonl", rows), tmp_path / "p.jsonl")
    assert report.odd == {
        "feedback that is not a short word, left out": 1,
        "field 'id', left out": 1,
        "field 'user', left out": 1,
        "field 'weight', left out": 1,
        "role developer, read as system": 1,
        "turns after the last reply, left out": 1,
    }
    assert prompts_in(tmp_path / "p.jsonl")[0].messages[0].role == "system"


def test_failed_requests_are_prompts_without_replies(tmp_path: Path) -> None:
    rows = [{"request": REQUEST, "response": {"error": {"code": 500}}}]
    report = import_log(write_rows(tmp_path / "log.jsonl", rows), tmp_path / "p.jsonl")
    assert (report.prompts, report.unanswered, report.odd["requests that failed"]) == (1, 1, 1)


def test_fields_and_metadata_become_tags_when_asked_for(tmp_path: Path) -> None:
    row = {"request": {**REQUEST, "metadata": {"team": "a"}}, "response": ANSWER, "channel": "web"}
    log = write_rows(tmp_path / "log.jsonl", [row])
    report = import_log(log, tmp_path / "p.jsonl", tags=["team", "channel"])
    assert prompts_in(tmp_path / "p.jsonl")[0].tags == ("team:a", "channel:web", "seen:1")
    assert report.odd == {"field 'temperature', left out": 1}


def test_csv_columns_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "question,answer,system,who,channel,tags\n"
        'hello,"hi, you\nthere",be kind,m-1,web,a; b\n'
        "hello,,be kind,m-1,mail,\n"
    )
    columns = columns_named(["prompt=question", "response=answer", "model=who"])
    out, responses = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    report = import_log(log, out, responses=responses, columns=columns, tags=["channel"])
    (prompt,), (response,) = prompts_in(out), responses_in(responses)
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "be kind"), ("user", "hello"),
    ]  # fmt: skip
    assert prompt.tags == ("a", "b", "channel:web", "channel:mail", "seen:2")
    assert (response.messages[0].content, response.generator) == ("hi, you\nthere", "m-1")
    assert (report.format, report.unanswered) == ("csv", 1)


def test_csv_without_the_named_column_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("prompt,response\na,b\n")
    with pytest.raises(RowError, match="no column 'answer'"):
        import_log(log, tmp_path / "p.jsonl", columns={"response": "answer"})


BAD = [
    ("{", "broken_json", "broken JSON"),
    ('{"messages": [], "messages": []}', "duplicate_key", "given twice"),
    ('{"messages": [{"role": "user", "content": NaN}]}', "not_finite", "NaN"),
    ("[1]", "wrong_type", "not a JSON object"),
    ('{"text": "hello"}', "missing_field", "field 'messages' is missing"),
    (chat(), "no_messages", "messages has no messages"),
    (chat(HI), "no_user_turn", "nobody asks anything"),
    (chat({"role": "user", "content": " \n"}, HI), "no_user_turn", "nobody asks anything"),
    (
        chat({"role": "user", "content": 5}, HI),
        "wrong_type",
        "messages[0].content is a number, not text",
    ),
    (chat({"role": "\x1b[31mking", "content": "x"}), "unknown_role", r"\x1b[31mking"),
    (chat({"role": "user", "content": [{"type": "image_url"}]}, HI), "not_text", "not text"),
    (chat(HELLO, HI, tags=["seen:5"]), "reserved_tag", "holds the count"),
    (chat(HELLO, HI, tags="a"), "wrong_type", "tags: Expected `array`"),
    (chat(HELLO, HI, model=5), "wrong_type", "model is not text"),
]


@pytest.mark.parametrize(
    ("bad", "kind", "said"), BAD, ids=[f"{b[1]}-{n}" for n, b in enumerate(BAD)]
)
def test_bad_row_stops_and_names_line_and_reason_or_is_put_aside(
    tmp_path: Path, bad: Any, kind: str, said: str
) -> None:
    log = write_rows(tmp_path / "log.jsonl", [chat(HELLO, HI), bad, chat(HELLO, HI)])
    out = tmp_path / "made" / "p.jsonl"
    with pytest.raises(RowError) as stopped:
        import_log(log, out, responses=tmp_path / "made" / "r.jsonl", format="chat")
    assert str(stopped.value).startswith(f"{log}:2: ")
    assert said in str(stopped.value)
    assert str(stopped.value).endswith("Or leave bad rows out: --skip-bad.")
    assert str(stopped.value).isprintable()
    assert list((tmp_path / "made").iterdir()) == []

    report = import_log(log, out, format="chat", on_bad="skip")
    assert (report.refused, report.rows, report.repeats) == ({kind: [2]}, 3, 1)
    (refused,) = (tmp_path / "made" / "p.refused.jsonl").read_text().splitlines()
    row = json.loads(refused)
    assert (row["line"], row["problems"][0]["kind"]) == (2, kind)
    assert row["row"] == (bad if isinstance(bad, str) else json.dumps(bad))

    import_log(write_rows(log, [chat(HELLO, HI)]), out, on_bad="skip")
    assert not (tmp_path / "made" / "p.refused.jsonl").exists()


def test_log_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", [chat(HI), chat(HI)])
    with pytest.raises(DataError, match="none of 2 rows can be used"):
        import_log(log, tmp_path / "p.jsonl", on_bad="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "xml"}, "Use one of: auto, chat, csv, openai"),
        ({"format": "csv", "columns": {"answer": "x"}}, "'answer' is not known"),
        ({"columns": {"prompt": "x"}}, "--column is for tables"),
    ],
)
def test_settings_that_make_no_sense_are_errors(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    log = write_rows(tmp_path / "log.jsonl", [chat(HELLO, HI)])
    with pytest.raises(SettingsError, match=said):
        import_log(log, tmp_path / "p.jsonl", **change)


def test_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", [chat(HELLO, HI)])
    before = log.read_bytes()
    with pytest.raises(DataError, match="is an input, or written twice"):
        import_log(log, tmp_path / "p.jsonl", responses=tmp_path / "." / "log.jsonl")
    assert log.read_bytes() == before


def test_array_file_says_how_to_make_lines_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text(json.dumps([chat(HELLO, HI)]))
    with pytest.raises(DataError, match="jq -c"):
        import_log(log, tmp_path / "p.jsonl")


def test_packed_log_gives_the_same_prompts_but_for_its_name(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", desk_rows(50))
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    import_log(log, tmp_path / "a.jsonl")
    import_log(packed, tmp_path / "b.jsonl")
    ids = [[p.id for p in prompts_in(tmp_path / f"{name}.jsonl")] for name in "ab"]
    assert ids[0] == ids[1]


def test_care_desk_log_comes_in_whole(tmp_path: Path) -> None:
    rows = desk_rows(400)
    log = write_rows(tmp_path / "log.jsonl", rows)
    report = import_log(log, tmp_path / "p.jsonl", responses=tmp_path / "r.jsonl")
    asked = Counter(json.dumps(row["messages"][:-1]) for row in rows)
    found = prompts_in(tmp_path / "p.jsonl")
    assert [p.tags[-1] for p in found] == [f"seen:{n}" for n in asked.values()]
    replies = {(json.dumps(row["messages"])) for row in rows}
    assert (report.prompts, report.responses, report.replies) == (len(asked), len(replies), 400)
    assert {r.prompt_id for r in responses_in(tmp_path / "r.jsonl")} == {p.id for p in found}


FIELDS = (
    "messages", "role", "content", "request", "response", "choices", "message", "body", "tools",
    "tags", "model", "feedback", "user", "tool_calls", "function", "input",
)  # fmt: skip


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.dictionaries(
                st.sampled_from(FIELDS),
                inside,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["auto", "chat", "openai"]),
)
def test_any_row_is_imported_or_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, row: Any, format: str
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    rows = [chat(HELLO, HI), {"request": chat(HELLO)}, row]
    log = write_rows(folder / "log.jsonl", rows)
    try:
        report = import_log(log, folder / "p.jsonl", format=format, on_bad="skip")
    except PreftuneError as error:
        raise AssertionError from error  # one row of each format is good
    assert report.rows == 3
    assert report.prompts + report.repeats + sum(map(len, report.refused.values())) == 3


def test_command_prints_counts_and_refused_lines(tmp_path: Path, run_cli: Ran) -> None:
    log = write_rows(tmp_path / "log.jsonl", [chat(HELLO, HI, id=1), chat(HI), chat(HELLO, HI)])
    out = tmp_path / "p.jsonl"
    stopped = run_cli("prompts", "import", log, "--out", out)
    assert stopped.code == 2
    assert stopped.err.startswith(f"error: {log}:2: nobody asks anything")
    done = run_cli("prompts", "import", log, "--out", out, "--skip-bad")
    assert done.code == 0
    assert done.out.splitlines() == [
        "format    chat",
        "rows      3",
        "prompts   1 different; 1 rows repeat one of them",
        "replies   2 in the log; 0 rows have none",
        "refused   1 no_user_turn: line 2",
        f"written   1 prompts to {out}",
    ]
