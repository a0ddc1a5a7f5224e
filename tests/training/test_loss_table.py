"""What a server without torch knows of losses is what training does with them."""

import ast
from pathlib import Path
from typing import Any

import pytest

from preftune.errors import SettingsError
from preftune.jobs.extras import check_extras
from preftune.settings import build
from preftune.training.loss_sum import LossSum
from preftune.training.loss_table import LOSSES, OPTIONS, check_beta
from preftune.training.objectives import OBJECTIVES, Options
from preftune.training.settings import DirectSettings

API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_loss_of_the_table_has_a_formula() -> None:
    assert [*LOSSES] == [*OBJECTIVES]
    assert {*OPTIONS} == {*Options.__slots__}
    for name, objective in OBJECTIVES.items():
        assert LOSSES[name].has_reference == (objective.init is not None)


def product_says(extras: dict[str, Any], beta: float | None) -> str | None:
    flat = {"model": "m", "data": Path("rows.jsonl"), "out": Path("run"), "lora_rank": 16}
    try:
        LossSum.of(build(DirectSettings, {**flat, **extras, "beta": beta}))
    except SettingsError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("extras", "beta"),
    [
        ({"loss": "ipo", "tau": 0.2}, None),
        ({"loss": "ipo", "label": "soft"}, None),
        ({"loss": "ipo", "ld_alpha": 0.5}, None),
        ({"loss": "0.5*sigmoid + 0.5*hinge", "label": "offset"}, 0.1),
        ({"label": "soft"}, 0.1),
        ({"loss": "aot", "weighting": "wpo"}, None),
        ({"loss": "cpo", "ref_every": 2}, None),
        ({"loss": "cpo + hinge", "ref_every": 2}, None),
        ({"loss": "sigmoid + sigmoid"}, None),
        ({"loss": "-1*sigmoid"}, None),
        ({"loss": "x*sigmoid"}, None),
    ],
)
def test_what_training_refuses_is_refused_in_its_words(
    extras: dict[str, Any], beta: float | None
) -> None:
    expected = product_says(extras, beta)
    if expected is None:
        check_extras("dpo", extras, beta=beta)
        return
    with pytest.raises(SettingsError) as raised:
        check_extras("dpo", extras, beta=beta)
    assert str(raised.value) == f"method.preftune: {expected}"


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"loss": "r_dpo"}, "length_alpha of r_dpo has no usual value"),
        ({"loss": "sigmoid + dpop"}, "beta of sigmoid, dpop has another default in each"),
    ],
)
def test_a_setting_that_nobody_can_guess_is_asked_for(extras: dict[str, Any], said: str) -> None:
    assert said in (product_says(extras, None) or "")
    with pytest.raises(SettingsError, match=said):
        check_extras("dpo", extras)


def test_beta_is_refused_where_the_loss_has_none() -> None:
    with pytest.raises(SettingsError) as raised:
        check_beta("ipo", 0.1)
    assert str(raised.value) == product_says({"loss": "ipo"}, 0.1)
    check_beta("ipo", None)
    check_beta("ipo + hinge", 0.1)


def test_the_example_of_the_page_can_be_trained() -> None:
    text = API_PAGE.read_text().partition("## Ours: `method.preftune`")[2]
    (call,) = ast.parse(text.partition("```python\n")[2].partition("```")[0]).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    (method,) = (one.value for one in call.value.keywords if one.arg == "method")
    sent = ast.literal_eval(method)
    beta = sent["dpo"]["hyperparameters"]["beta"]
    check_extras("dpo", sent["preftune"], beta=beta)
    check_beta(sent["preftune"]["loss"], beta)
    assert product_says(sent["preftune"], beta) is None
    assert "label" not in sent["preftune"]  # pairs of OpenAI's form have no probability
