"""What `validate` takes and what it refuses, each refusal with the place and a way out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import SettingsError
from preftune.graders.specs import (
    MultiGrader,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    leaves,
    read_grader,
    validate,
)

CHECK = {
    "type": "string_check",
    "name": "right",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
ALIKE = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "rouge_l",
}
PYTHON = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item):\n    return 1.0\n",
    "image_tag": "2025-05-08",
}
SCORE = {
    "type": "score_model",
    "name": "quality",
    "model": "grader-1",
    "input": [{"role": "user", "content": "Grade {{ sample.output_text }}"}],
}
LABEL = {**SCORE, "type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}
MULTI = {
    "type": "multi",
    "name": "both",
    "graders": {"right": CHECK, "alike": ALIKE},
    "calculate_output": "0.8 * right + 0.2 * alike",
}


def test_good_graders_become_records() -> None:
    assert isinstance(validate(CHECK), StringCheck)
    assert isinstance(validate(ALIKE), TextSimilarity)
    assert isinstance(validate(PYTHON), PythonGrader)
    score = validate({**SCORE, "sampling_params": None, "range": [0, 10]})
    assert isinstance(score, ScoreModel)
    assert score.range == (0, 10)


@pytest.mark.parametrize("graders", [{"a": CHECK, "b": ALIKE}, [CHECK, ALIKE]])
def test_multi_takes_graders_by_name_and_as_a_list(graders: Any) -> None:
    names = "ab" if isinstance(graders, dict) else ("right", "alike")
    found = validate({**MULTI, "graders": graders, "calculate_output": f"{names[0]} * {names[1]}"})
    assert [*leaves(found)] == [*names]


def test_multi_takes_one_grader_as_an_object() -> None:
    found = validate({**MULTI, "graders": CHECK, "calculate_output": "right ^ 2"})
    assert isinstance(found, MultiGrader)
    assert [*found.graders] == ["right"]


def test_formula_of_a_multi_may_use_the_names_inside_the_graders() -> None:
    found = validate({**MULTI, "graders": {"a": CHECK, "b": ALIKE}})
    assert [*leaves(found)] == ["right", "alike"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ([], "not an object"),
        ({}, "type: None is no grader"),
        ({**CHECK, "type": "exact"}, "'exact' is no grader"),
        ({**CHECK, "operation": "equals"}, r"operation: Invalid enum value 'equals'"),
        ({k: v for k, v in CHECK.items() if k != "reference"}, "reference: is missing"),
        ({**CHECK, "reference": None}, "reference: is missing"),
        ({**CHECK, "reference": 18}, "reference: Expected `str`, got `int`"),
        ({**CHECK, "refrence": "x"}, "unknown field 'refrence'. Did you mean 'reference'"),
        ({**CHECK, "name": ""}, "name: Expected"),
        ({**CHECK, "input": "{{ sample.text }}"}, "input: unknown variable 'sample.text'"),
        ({**ALIKE, "evaluation_metric": "cosine"}, "cosine needs an embedding model"),
        ({**ALIKE, "evaluation_metric": "rouge_9"}, "'rouge_9' is unknown"),
        ({**PYTHON, "source": "def score(s, i): pass"}, "no function grade"),
        ({**PYTHON, "source": "def grade(:"}, "does not parse"),
        ({**PYTHON, "source": "x = 1\x00"}, "does not parse"),
        ({**PYTHON, "source": "# " + "x" * 2**18}, "longer than"),
        ({**SCORE, "range": [1, 1]}, "is empty"),
        ({**SCORE, "range": [0, True]}, "range"),
        ({**SCORE, "input": []}, "input"),
        ({**SCORE, "input": [{"role": "user", "content": "{{ x }}"}]}, r"input\[0\].content"),
        (
            {**SCORE, "input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "no text",
        ),
        ({**SCORE, "sampling_params": {"reasoning_effort": "low"}}, "reasoning_effort"),
        ({**SCORE, "sampling_params": {"temperature": 3}}, "sampling_params.temperature"),
        ({**LABEL, "passing_labels": ["fine"]}, "'fine' is none of the labels"),
        ({**MULTI, "graders": {"m": MULTI}}, "They do not nest"),
        ({**MULTI, "graders": {}}, "no graders"),
        ({**MULTI, "graders": [CHECK, CHECK]}, "given twice"),
        ({**MULTI, "calculate_output": "right + style"}, "unknown name 'style'"),
        ({**MULTI, "calculate_output": "print(right)"}, "print of 1 numbers"),
        ({**MULTI, "calculate_output": "right +"}, "cannot be read"),
        ({**MULTI, "graders": {"a": {**CHECK, "operation": 1}}}, r"graders.a.operation"),
    ],
)
def test_bad_grader_is_refused_with_its_place(spec: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        validate(spec)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([CHECK, ALIKE, PYTHON, SCORE, LABEL, MULTI]), st.data(), JSON)
def test_any_json_in_any_field_is_taken_or_refused_and_never_a_crash(
    spec: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    field = data.draw(st.sampled_from([*spec, "extra"]))
    try:
        validate({**spec, field: value})
    except SettingsError as error:
        assert str(error)


def test_json_file_is_read_as_json(tmp_path: Path) -> None:
    file = tmp_path / "grader.json"
    alike = {**ALIKE, "reference": "ok 😀", "pass_threshold": 1e-05}
    file.write_text(json.dumps(alike, indent="\t"))
    found = read_grader(file)
    assert isinstance(found, TextSimilarity)
    assert (found.reference, found.pass_threshold) == ("ok 😀", 1e-05)
    (tmp_path / "grader").write_bytes(file.read_bytes())
    assert read_grader(tmp_path / "grader") == found


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("g.json", '{"type": "multi",\n "graders": {"a": 1, "a": 2}}', "field 'a' is given twice"),
        ("g.json", '{"type": "multi"', "broken JSON: .* line 1 column"),
        ("g.json", "type: multi", "broken JSON"),
        ("g.yaml", '{"type": "multi",\n "graders": {"a": 1, "a": 2}}', "field 'a' is given twice"),
        ("g.yaml", "type: multi\ngraders:\n  a: 1\n  a: 2\n", "name 'a' is given twice.*line 4"),
        ("g.yaml", "{type: multi, type: python}", "name 'type' is given twice"),
    ],
)
def test_a_name_given_twice_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_grader(tmp_path / name)


def test_yaml_may_still_stand_in_braces_and_take_over_what_another_says(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("{type: string_check, name: a, input: x, reference: y}")
    with pytest.raises(SettingsError, match="operation: is missing"):
        read_grader(tmp_path / "g.yaml")
    part = "{type: string_check, name: a, input: x, reference: y, operation: eq}"
    (tmp_path / "g.yaml").write_text(
        f"type: multi\nname: m\ncalculate_output: a + b + c\ngraders:\n  a: &a {part}\n"
        "  b: {<<: *a, name: b, reference: x}\n  c: {<<: *a, name: c}\n"
    )
    found = read_grader(tmp_path / "g.yaml")
    assert isinstance(found, MultiGrader)
    assert [leaf.name for leaf in found.graders.values()] == ["a", "b", "c"]
