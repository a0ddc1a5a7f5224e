"""Bad input gives one line that says where, what and what to do; nothing is half-written."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from preftune.datasets import import_file, read_pairs, read_records, scan
from preftune.datasets.scanned import RefusedError
from preftune.errors import DataError, RowError
from preftune.lines import MAX_LINE_BYTES
from preftune.types import PreferencePair

GOOD = b'{"prompt": "Q", "chosen": "yes", "rejected": "no", "weight": 0.5, "tools": [{"a": [1]}]}'
DEEP = b'{"prompt":"Q","chosen":"a","rejected":"b","x":' + b"[" * 40 + b"]" * 40 + b"}"
BAD: dict[str, tuple[bytes, str]] = {
    "broken_json": (b'{"prompt": "Q", "chosen', "broken JSON: .*column"),
    "blank_line": (b"  ", "the line is blank"),
    "not_an_object": (b"[1]", "not a JSON object"),
    "wrong_type": (b'{"prompt":"Q","chosen":5,"rejected":"b"}', "chosen is a number, not text"),
    "missing_field": (b'{"prompt":"Q","chosen":"a"}', "field 'rejected' is missing"),
    "equal": (
        b'{"prompt":"Q","chosen":"a","rejected":"a"}',
        "chosen equals rejected. Record a tie",
    ),
    "empty": (
        b'{"prompt":"Q","chosen":" \\n","rejected":"b"}',
        "chosen has an empty assistant turn",
    ),
    "not_utf8": (b'{"prompt":"\xff","chosen":"a","rejected":"b"}', "byte 11 is not UTF-8"),
    "nan": (b'{"prompt":"Q","chosen":"a","rejected":"b","weight":NaN}', "NaN is not finite"),
    "infinity": (b'{"prompt":"Q","chosen":"a","rejected":"b","weight":-Infinity}', "not finite"),
    "overflow": (
        b'{"prompt":"Q","chosen":"a","rejected":"b","weight":1e999}',
        "1e999 is not finite",
    ),
    "huge_number": (b'{"prompt":' + b"1" * 5000 + b"}", "broken JSON: Exceeds the limit"),
    "duplicate": (
        b'{"prompt":"Q","chosen":"a","chosen":"b","rejected":"c"}',
        "'chosen' is given twice",
    ),
    "surrogate": (b'{"prompt":"\\ud800","chosen":"a","rejected":"b"}', r"surrogate pair, \\ud800"),
    "deep": (DEEP, "nested deeper than 32"),
    "very_deep": (b"[" * 200_000, "nested deeper than 32"),
    "probability": (
        b'{"prompt":"Q","chosen":"a","rejected":"b","probability":1.5}',
        "probability 1.5",
    ),
    "strength": (b'{"prompt":"Q","chosen":"a","rejected":"b","strength":"2"}', "strength is text"),
    "role": (
        b'{"prompt":[{"role":"boss","content":"Q"}],"chosen":"a","rejected":"b"}',
        "role 'boss'",
    ),
    "no_answer": (
        b'{"prompt":"Q","chosen":[{"role":"user","content":"a"}],"rejected":"b"}',
        "chosen does not end in an assistant turn",
    ),
    "no_messages": (b'{"prompt":[],"chosen":"a","rejected":"b"}', "prompt has no messages"),
    "image": (
        b'{"prompt":[{"role":"user","content":[{"type":"image"}]}],"chosen":"a","rejected":"b"}',
        "part that is not text",
    ),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=list(BAD))
def test_bad_row_is_named_and_nothing_written(line: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, line, GOOD]) + b"\n")
    with pytest.raises(RowError, match=rf"rows\.jsonl:2: .*{words}"):
        read_records(path, format="trl")
    with pytest.raises(RowError) as caught:
        import_file(path, tmp_path / "out.jsonl", format="trl")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=list(BAD))
def test_skipped_rows_go_to_a_file_with_their_reasons(
    line: bytes, words: str, tmp_path: Path
) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b"\n".join([GOOD, line, GOOD.replace(b"yes", b"yep")]))
    done = import_file(path, out, on_bad="skip")
    assert (done.rows, done.lost.written, done.refused_rows) == (3, 2, 1)
    assert [pair.chosen[0].content for pair in read_pairs(out)] == ["yes", "yep"]
    assert done.refused_path == tmp_path / "out.refused.jsonl"
    row = json.loads(done.refused_path.read_text(encoding="utf-8"))
    assert (row["line"], row["row"]) == (2, line.decode(errors="replace"))
    assert row["problems"][0]["fix"]
    import_file(out, out)  # a clean run takes the old reasons away
    assert not done.refused_path.exists()


def test_a_refused_row_of_a_table_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,chosen,rejected\nQ,a,a\nQ,\xe9,b\nQ,a,b\n")
    import_file(path, tmp_path / "out.jsonl", on_bad="skip")
    kept = (tmp_path / "out.refused.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in kept] == [
        '{"prompt":"Q","chosen":"a","rejected":"a"}',
        "Q,\ufffd,b",
    ]


def test_a_refused_row_still_gives_its_record(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(BAD["empty"][0])
    (row,) = scan(path).rows
    assert isinstance(row.record, PreferencePair)
    assert not row.usable


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "is empty"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("array.jsonl", b'\n [{"prompt": "Q"}]', "one JSON array"),
        ("packed.jsonl", gzip.compress(GOOD, mtime=0), "is packed with gzip"),
        ("plain.jsonl.gz", GOOD, "damaged or cut short"),
        ("cut.jsonl.gz", gzip.compress(GOOD * 10_000, mtime=0)[:-20], "damaged or cut short"),
        ("header.csv", b"prompt,chosen,rejected\n", "has no rows"),
        ("lacking.csv", b"prompt,chosen\nQ,a\n", "no column 'rejected'"),
        (
            "twice.csv",
            b"prompt,chosen,rejected,chosen\nQ,a,b,c\n",
            "two columns have the same name",
        ),
        ("short.csv", b"prompt,chosen,rejected\nQ,a\n", ":2: 2 cells under 3 columns"),
        ("latin.csv", b"prompt,chosen,rejected\nQ,\xe9,b\n", ":2: a cell is not UTF-8"),
        ("quote.csv", b'prompt,chosen,rejected\nQ,"a"b,c\n', ":2: broken CSV"),
        ("nan.csv", b"prompt,chosen,rejected,weight\nQ,a,b,nan\n", ":2: weight is nan"),
        ("word.csv", b"prompt,chosen,rejected,strength\nQ,a,b,much\n", ":2: strength is 'much'"),
        ("open.csv", b'prompt,chosen,rejected\nQ,"a\nb', ":2: broken CSV: unexpected end of data"),
        ("bad.parquet", b"PAR1 and then nothing", "not a readable Parquet file"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_records(path)
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder\. Give one file"):
        read_records(tmp_path)


def test_unknown_format_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(DataError, match=r"format 'hhh': not known\. Use one of: preftune, hh"):
        read_records(path, format="hhh")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_records(path, format="parquet")


def test_a_line_of_100_mb_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"prompt": "')
        for _ in range(100):
            file.write(b"x" * 10**6)
        file.write(b'"}\n' + GOOD + b"\n")
    tracemalloc.start()
    rows = list(scan(path).rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.usable for row in rows] == [True, False, True]
    assert rows[1].problems[0].what == "the line is longer than 16 MiB"
    assert rows[1].line == 2
    assert peak < 3 * MAX_LINE_BYTES


@pytest.mark.parametrize("length", [99, 100, 101])
def test_the_limit_is_on_the_bytes_of_a_line(length: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD.ljust(length) + b"\n" + GOOD + b"\n")
    usable = [row.usable for row in scan(path, max_line_bytes=100, format="trl").rows]
    assert usable == [length <= 100, True]


def test_mutated_lines_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    seeds = [
        GOOD,
        b'{"chosen":"\\n\\nHuman: a\\n\\nAssistant: b",'
        b'"rejected":"\\n\\nHuman: a\\n\\nAssistant: c"}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":'
        b'[{"id":"x","function":{"name":"f","arguments":{"a":1}}}],"weight":1}],"tools":"[]"}',
        b'{"type":"pair","id":"a","prompt":{"id":"p","messages":[]},"chosen":[],"rejected":[]}',
        b'{"prompt":"Q","responses":["a","b"],"ranks":[1,2],"scores":[1.0,2]}',
        b'{"input":{"messages":[{"role":"user","content":"a"}]},"preferred_output":'
        b'[{"role":"assistant","content":"b"}],"non_preferred_output":[]}',
        b'prompt,chosen,rejected,strength\n"Q, R",a,\'=b,2',
    ]
    pieces = [*rb'" { } [ ] null 1e999 , : \u true'.split(), b"\xff", b"\n"]
    rng = random.Random(7)
    path, out = tmp_path / "rows", tmp_path / "out.jsonl"
    outcomes: set[type] = set()
    for _ in range(1_000):
        line = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at, end = sorted((rng.randrange(len(line)), rng.randrange(len(line))))
            line[at : min(end, at + rng.randint(0, 9))] = rng.choice([b"", rng.choice(pieces)])
            line = line or bytearray(b" ")
        path.write_bytes(bytes(line))
        try:
            import_file(path, out)
        except DataError as error:
            outcomes.add(type(error))
            assert not isinstance(error, RefusedError)  # it lacks file and line
            assert sorted(p.name for p in tmp_path.iterdir()) == ["rows"]
        else:
            outcomes.add(type(None))
            assert read_records(out).records
            out.unlink()
    assert outcomes == {RowError, DataError, type(None)}
