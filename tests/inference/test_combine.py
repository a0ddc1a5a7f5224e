"""Settings of a combination: what they do, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.errors import SettingsError
from preftune.inference.combine import CombineSettings, combined, read_combination
from preftune.settings import build

TWO = torch.tensor([[1.0, -7.0, 0.2], [3.0, 1.0, -2.0]], dtype=torch.float64)


def made(**values: Any) -> list[float]:
    how = build(CombineSettings, values)
    found: list[float] = combined(TWO, how).tolist()
    return found


def test_one_model_gives_its_scores_as_they_are() -> None:
    assert torch.equal(combined(TWO[:1], CombineSettings()), TWO[0])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, [2.0, -3.0, -0.9]),
        ({"weights": [1, -0.5]}, [-0.5, -7.5, 1.2]),
        ({"combine": "min"}, [1.0, -7.0, -2.0]),
        ({"combine": "min", "clip_sd": 2}, [1.0, -2.0, -2.0]),
        ({"combine": "uncertainty", "variance_coef": 0.25}, [1.75, -7.0, -1.2025]),
        # the first model constrains; -7 is clipped to -5, then floor -5 + (-5 - 0) = -10
        ({"combine": "constraint", "thresholds": [0], "clip_sd": 5}, [3.0, -10.0, -2.0]),
        ({"combine": "constraint", "thresholds": [2], "clip_sd": 5}, [-6.0, -12.0, -6.8]),
    ],
)
def test_combination_by_hand(values: dict[str, Any], wanted: list[float]) -> None:
    assert made(**values) == pytest.approx(wanted, abs=1e-9)


def test_a_threshold_may_lie_where_scores_are_clipped() -> None:
    assert made(combine="constraint", thresholds=[1], clip_sd=1) == pytest.approx([1, -3, -1.8])


def test_soft_and_takes_a_width_of_one_where_none_is_given() -> None:
    assert made(combine="soft-and") == pytest.approx(
        made(combine="soft-and", thresholds=[0, 0], softness=[1, 1])
    )
    assert made(combine="soft-and")[0] == pytest.approx(
        -math.log1p(math.exp(-1)) - math.log1p(math.exp(-3))
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"combine": "min", "weights": [1, 1]}, "weights changes nothing with combine min"),
        ({"thresholds": [0]}, "thresholds changes nothing with combine weighted"),
        ({"variance_coef": 0.1}, "combine with uncertainty"),
        ({"combine": "uncertainty", "variance_coef": 0}, "variance_coef"),
        ({"combine": "constraint", "thresholds": [0]}, "clip_sd (5 is usual)"),
        ({"combine": "constraint", "clip_sd": 5}, "Give thresholds"),
        ({"combine": "constraint", "thresholds": [0, 6], "clip_sd": 5}, "6.0 is never reached"),
        ({"combine": "constraint", "thresholds": [-5], "clip_sd": 5}, "-5.0 is always reached"),
        ({"weights": [1, 0]}, "a weight of 0 changes nothing"),
        ({"combine": "soft-and", "softness": [1, -1]}, "numbers above 0"),
        ({"weights": [1, math.nan]}, "infinite or NaN"),
        ({"combine": "best"}, "combine"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build(CombineSettings, values)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("values", "models", "says"),
    [
        ({"weights": [1, 2]}, 3, "weights: 2 numbers for 3 models"),
        ({"combine": "min"}, 1, "1 models are too few"),
        ({"combine": "constraint", "thresholds": [0, 0], "clip_sd": 5}, 2, "the constraints first"),
        ({"combine": "soft-and", "thresholds": [0]}, 2, "thresholds: 1 numbers for 2 models"),
    ],
)
def test_settings_for_other_models_are_refused(
    values: dict[str, Any], models: int, says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        build(CombineSettings, values).check_models(models)
    assert says in str(refused.value)


def test_combination_is_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("combine: constraint\nthresholds: [-0.5]\nclip_sd: 5\n")
    found = read_combination(file)
    assert (found.combine, found.thresholds, found.clip_sd) == ("constraint", (-0.5,), 5.0)
    assert read_combination(None) == CombineSettings()
    file.write_text("combine: min\nlambda: 2\n")
    with pytest.raises(SettingsError, match="unknown setting 'lambda'"):
        read_combination(file)
