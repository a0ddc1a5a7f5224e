from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import RowError, SettingsError
from preftune.responses.chat_client import ChatRequest
from preftune.responses.journal import Journal
from preftune.responses.spending import Estimate, Ledger, Prices, estimate
from preftune.types import Message, ToolCall, user

PRICES = Prices(usd_in=2.0, usd_out=10.0)


def test_cost_is_per_million_tokens() -> None:
    assert PRICES.cost_usd(1_000_000, 1_000_000) == 12.0
    assert PRICES.cost_usd(500, 30) == pytest.approx(0.001 + 0.0003)


def test_estimate_matches_hand_calculation() -> None:
    # 31 bytes: 11 tokens; two messages: 16; "ü" is two bytes of the 31
    first = ChatRequest(key="a", messages=(user("x" * 20), user("ü" + "y" * 9)), max_tokens=100)
    # 2 bytes, 39 of [{"id":"","name":"f","arguments":"{}"}] and 7 of {"a":1}: 16; one message: 8
    call = ToolCall(name="f", arguments="{}")
    second = ChatRequest(
        key="b",
        messages=(Message(role="assistant", content="ab", tool_calls=(call,)),),
        tools=({"a": 1},),
        max_tokens=50,
    )
    assert estimate([first]) == Estimate(
        requests=1, prompt_tokens=27, completion_tokens=100, cost_usd=0.0
    )
    assert estimate([second]).prompt_tokens == 24
    both = estimate([first], PRICES) + estimate([second], PRICES)
    assert (both.requests, both.prompt_tokens, both.completion_tokens) == (2, 51, 150)
    assert both.cost_usd == pytest.approx((51 * 2 + 150 * 10) / 1e6)


def test_ledger_counts_what_was_paid_and_what_may_have_been(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Journal(path) as journal:
        ledger = Ledger(journal)
        one, two, three = (ledger.book(key, 0.5) for key in "abc")
        assert ledger.spent_usd == 1.5
        assert one is not None
        assert two is not None
        ledger.settle(one, 0.25, prompt_tokens=3, completion_tokens=4)
        ledger.settle(two, 0.0)
        assert ledger.spent_usd == 0.75
    assert three == 3
    with Journal(path) as journal:  # the third never came back: booked in full
        again = Ledger(journal)
        assert again.spent_usd == 0.75
        assert again.book("d", 0.125) == 4
        assert again.spent_usd == 0.875


def test_cap_counts_earlier_runs_and_what_is_under_way(tmp_path: Path) -> None:
    with Journal(tmp_path / "ledger") as journal:
        ledger = Ledger(journal)
        booking = ledger.book("a", 0.6)
        assert booking is not None
    with Journal(tmp_path / "ledger") as journal:
        ledger = Ledger(journal, cap_usd=1.0)
        ledger.refuse_above_cap(0.4)
        with pytest.raises(SettingsError, match=r"cap 1.0 USD: 0.6000 spent .* 0.4100 to come"):
            ledger.refuse_above_cap(0.41)
        assert ledger.book("b", 0.41) is None
        second = ledger.book("b", 0.4)
        assert second == 2
        assert ledger.book("c", 0.01) is None
        ledger.settle(second, 0.1)
        assert ledger.book("c", 0.3) == 3


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), max_size=30), st.floats(0, 10))
def test_spending_never_passes_the_cap_when_estimates_hold(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[float, float]], cap: float
) -> None:
    with Journal(tmp_path_factory.mktemp("cap") / "ledger") as journal:
        ledger = Ledger(journal, cap_usd=cap)
        for guessed, share in calls:
            booking = ledger.book("k", guessed)
            assert (booking is None) == (ledger.spent_usd + guessed > cap + 1e-9) or booking
            if booking is not None:
                ledger.settle(booking, guessed * share)
            assert ledger.spent_usd <= cap + 1e-6


def test_damaged_ledger_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b'{"n":1,"usd":1.0,"state":"sent"}\n{"n":2,"usd":"x"}\n')
    with Journal(path) as journal, pytest.raises(RowError, match=r"ledger:2: damaged line"):
        Ledger(journal)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_prices_and_caps_out_of_range_are_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(SettingsError, match="USD per million"):
        Prices(usd_in=bad, usd_out=1.0)
    with Journal(tmp_path / "l") as journal, pytest.raises(SettingsError, match="cost cap"):
        Ledger(journal, cap_usd=bad)
