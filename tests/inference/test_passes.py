from hypothesis import given
from hypothesis import strategies as st

from preftune.inference.passes import together

PROMPT = st.integers(1, 6).map(lambda length: (length,) * length)


def batches(prompts: list[tuple[int, ...]], size: int, tokens: int = 1000) -> list[list[int]]:
    return list(together(prompts, new_tokens=4, batch_size=size, batch_tokens=tokens))


def test_replies_to_one_prompt_stay_together() -> None:
    a, b, c = (1, 1, 1), (2, 2, 2), (3,)
    # three of a, two of b, one of c in batches of 4: b does not fit behind a
    assert batches([a, b, c, a, b, a], 4) == [[0, 3, 5], [1, 4, 2]]
    assert batches([a, a, a, b], 2) == [[0, 1], [2, 3]]
    assert batches([], 4) == []


def test_batches_hold_at_most_so_many_tokens() -> None:
    # 3 + 4 new ones: two rows take 14 tokens
    assert batches([(1, 1, 1), (2, 2, 2), (3,)], 9, tokens=14) == [[0, 1], [2]]
    assert batches([(1, 1, 1), (3,)], 9, tokens=5) == [[0], [1]]


@given(st.lists(PROMPT, max_size=30), st.integers(1, 8), st.integers(1, 60))
def test_every_row_is_in_one_batch_that_is_not_too_large(
    prompts: list[tuple[int, ...]], size: int, tokens: int
) -> None:
    found = batches(prompts, size, tokens)
    assert sorted(row for batch in found for row in batch) == list(range(len(prompts)))
    for batch in found:
        lengths = [len(prompts[row]) for row in batch]
        assert lengths == sorted(lengths, reverse=True)
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * (lengths[0] + 4) <= tokens
