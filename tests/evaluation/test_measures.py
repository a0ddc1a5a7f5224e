import math

import pytest

from preftune.errors import DataError
from preftune.evaluation.measures import Measure, mean_measure
from preftune.stats.intervals import clustered_se


def test_mean_measure_has_mean_interval_and_number_of_prompts() -> None:
    values = [0.0, 1.0, 2.0, 3.0] * 40
    prompts = [f"p{place // 4}" for place in range(160)]
    found = mean_measure("kl_per_reply", values, prompts, unit="nats")
    assert (found.value, found.n, found.unit) == (1.5, 40, "nats")
    # every prompt has the same four values, so drawing prompts again changes nothing
    assert (found.low, found.high) == (1.5, 1.5)


def test_interval_of_a_mean_is_about_two_clustered_errors() -> None:
    values = [math.sin(place) for place in range(300)]
    prompts = [place // 2 for place in range(300)]
    found = mean_measure("m", values, prompts)
    assert found.low is not None
    half = 1.96 * clustered_se(values, prompts)
    assert found.value - found.low == pytest.approx(half, rel=0.12)


def test_one_prompt_has_no_interval() -> None:
    found = mean_measure("m", [1.0, 2.0], ["p", "p"])
    assert (found.low, found.high, found.n) == (None, None, 1)


def test_measure_refuses_what_is_no_number_or_no_interval() -> None:
    with pytest.raises(DataError, match="finite"):
        Measure(name="m", value=math.nan, n=3)
    with pytest.raises(DataError, match="half an interval"):
        Measure(name="m", value=1.0, low=0.0, n=3)
    with pytest.raises(DataError, match="low 2"):
        Measure(name="m", value=1.0, low=2.0, high=0.0, n=3)
    with pytest.raises(DataError, match="Give a name"):
        Measure(name="", value=1.0, n=3)
    with pytest.raises(DataError, match="not finite"):
        mean_measure("m", [1.0, math.inf], ["a", "b"])
    with pytest.raises(DataError, match="2 values, 1 prompts"):
        mean_measure("m", [1.0, 2.0], ["a"])
