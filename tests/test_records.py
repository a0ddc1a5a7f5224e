import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.records import TAGS, decode, encode
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    RankedList,
    Rater,
    Record,
    Response,
    Sampling,
    ToolCall,
    UnpairedRow,
    assistant,
    user,
)

PROMPT = Prompt(
    id="p",
    messages=(Message(role="system", content="be brief"), user("hi \u2028 \n \x00 😀")),
    tools=({"name": "clock", "parameters": {"zone": [1, None, 2.5]}},),
    tags=("a", "b"),
)
CALL = Message(
    role="assistant", content="", tool_calls=(ToolCall(id="1", name="f", arguments="{"),)
)
RESPONSE = Response(
    id="r",
    prompt_id="p",
    messages=(CALL, assistant("done")),
    sampling=Sampling(temperature=0.7, max_new_tokens=5, seed=2**52 - 1),
    finished=False,
)
RECORDS: list[Record] = [
    PROMPT,
    RESPONSE,
    PreferencePair(
        id="a", prompt=PROMPT, chosen=(assistant("x"),), rejected=(CALL,), probability=0.1 + 0.2
    ),
    RankedList(
        id="l", prompt=PROMPT, responses=((assistant("x"),), (assistant("y"),)), ranks=(1, 1)
    ),
    UnpairedRow(id="u", prompt=PROMPT, response=(assistant("x"),), desirable=False),
    Demonstration(id="d", prompt=PROMPT, response=(assistant("x"),), weight=0.5),
    Comparison(id="c", prompt=PROMPT, responses=(RESPONSE, RESPONSE)),
    Judgment(
        id="j",
        comparison_id="c",
        kind="ranking",
        rater=Rater(id="ann", kind="human"),
        ranking=((1,), (0,)),
        scores=(1e-300, 0.1),
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_comes_back_equal_from_its_one_line(record: Record) -> None:
    line = encode(record)
    assert decode(line) == record
    assert line.count(b"\n") == 1
    assert line.startswith(b'{"type":"')


def test_every_kind_of_record_has_a_tag_and_a_case_here() -> None:
    assert {type(record) for record in RECORDS} == set(TAGS.values())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_equal(text: str) -> None:
    record = Demonstration(id=text, prompt=PROMPT, response=(assistant(text),))
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "truncated"),
        (b'{"type":"prompt"', "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"id":"x"}', "missing required field `type`"),
        (b'{"type":"poem"}', "unknown type 'poem'. Use one of: pair, ranked"),
        (b'{"type":"prompt","id":1,"messages":[]}', r"Expected `str`, got `int` - at `\$.id`"),
        (b'{"type":"prompt","id":"\xff","messages":[]}', "not UTF-8"),
        (
            encode(RECORDS[2]).replace(b'"probability":0.30000000000000004', b'"probability":7'),
            "^pair a: probability 7.0. Use a number in 0..1.$",
        ),
    ],
)
def test_line_that_holds_no_record_says_why(line: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(line)


@given(st.integers(0, 400), st.binary(max_size=4))
def test_damaged_line_raises_data_error_and_nothing_else(place: int, junk: bytes) -> None:
    line = encode(RESPONSE)
    try:
        decode(line[:place] + junk + line[place + len(junk) :])
    except DataError:
        return
