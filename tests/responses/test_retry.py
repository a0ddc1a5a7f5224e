from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.responses.retry import Breaker, retry_after_s, wait_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@given(st.integers(0, 50), st.integers(), st.none() | st.floats(0, 100))
def test_wait_is_what_was_asked_and_a_jitter_below_the_doubled_bound(
    attempt: int, seed: int, asked_s: float | None
) -> None:
    found = wait_s(attempt, first_s=0.5, most_s=60, asked_s=asked_s, random=Random(seed))
    assert 0 <= found - (asked_s or 0) <= min(60, 0.5 * 2**attempt) + 1e-9


def test_jitter_is_uniform_from_nought() -> None:
    random = Random(1)
    drawn = [wait_s(3, first_s=0.5, most_s=60, asked_s=None, random=random) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(2.0, abs=0.03)  # half of 0.5 * 2^3; sd .008
    assert min(drawn) < 0.01
    assert max(drawn) > 3.99


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),  # past
        ("soon", None),
        ("-5", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3)
    for _ in range(5):
        breaker.failed("a")
        breaker.failed("b")
        breaker.succeeded()
    assert breaker.reason == ""
    for reason in "xyz":
        assert breaker.reason == ""
        breaker.failed(reason)
    assert breaker.reason == "3 failures in a row, the last: z"
    breaker.succeeded()
    breaker.open("later")
    assert breaker.reason == "3 failures in a row, the last: z"
