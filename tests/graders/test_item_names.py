"""Names that a grader asks of items: what is missing everywhere is told, what some have is fine."""

from typing import Any

from preftune.graders.item_names import missing_names, names_problem
from preftune.graders.specs import validate

CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "c",
    "operation": "eq",
    "input": "{{ sample.output_text }} {{item.steps[1].result}}",
    "reference": "{{ item.answer }}{{ item['odd name'] }}",
}
JUDGE: dict[str, Any] = {
    "type": "score_model",
    "name": "j",
    "model": "m",
    "input": [{"role": "user", "content": "Is it {{ item.anser }}?"}],
}
BOTH = {"type": "multi", "name": "b", "graders": [CHECK, JUDGE], "calculate_output": "c + j"}
ITEM = {"answer": "1", "odd name": 2, "steps": [{}, {"result": 3}]}


def test_names_that_no_item_has_are_found_in_every_part() -> None:
    assert missing_names(validate(CHECK), [ITEM]) == []
    assert missing_names(validate(BOTH), [ITEM]) == ["item.anser"]
    assert missing_names(validate(CHECK), [{"answer": 1, "steps": [{"result": 3}]}]) == [
        "item.steps[1].result",
        "item['odd name']",
    ]


def test_a_name_that_one_item_has_is_no_mistake() -> None:
    assert missing_names(validate(CHECK), [{}, {"answer": ""}, ITEM]) == []


def test_a_python_grader_is_not_read_for_names() -> None:
    source = "def grade(sample, item):\n    return float(item['x'])"
    grader = {"type": "python", "name": "p", "source": source}
    assert missing_names(validate(grader), [{}]) == []


def test_the_message_says_which_names_there_are() -> None:
    said = names_problem(validate(BOTH), [ITEM, {"more\x1b": 1}], "rows.jsonl")
    assert said.startswith("The grader asks for {{ item.anser }}, which no row of rows.jsonl has.")
    assert said.endswith("they have: answer, more\\x1b, odd name, steps.")
    assert names_problem(validate(CHECK), [ITEM], "rows.jsonl") == ""
    assert names_problem(validate(CHECK), [{}], "rows.jsonl").endswith("they have: nothing.")
