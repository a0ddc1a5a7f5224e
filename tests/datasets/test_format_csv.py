"""CSV cells: what a spreadsheet would run is kept from it, and comes back as it was."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets import read_pairs, write_records
from preftune.datasets.formats.csv_table import escape, unescape
from preftune.types import PreferencePair, assistant, make_prompt, user


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-x", "'-x"),
        ("@a", "'@a"),
        ("\tb", "'\tb"),
        ("\rc", "'\rc"),
        ("'=d", "''=d"),
        ("'tis", "'tis"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_formulas_get_an_apostrophe(text: str, cell: str) -> None:
    assert escape(text) == cell
    assert unescape(cell) == text


@given(st.text(st.sampled_from("'=+-@\t\r\nab,\"")))
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not escape(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_file_keeps_formulas_quotes_and_line_ends(tmp_path: Path) -> None:
    pair = PreferencePair(
        id="=id",
        prompt=make_prompt(user('=SUM(A1)\r\n"x", \r y')),
        chosen=(assistant("-1"),),
        rejected=(assistant("'=2\n"),),
        chosen_score=-1.5,
    )
    path = tmp_path / "a.csv"
    assert write_records(path, [pair, pair], format="csv").counts == {}
    assert b"'=SUM" in path.read_bytes()
    assert read_pairs(path) == [pair, pair]
