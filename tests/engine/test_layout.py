import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from preftune.engine.layout import common_prefix, micro_batches, packed, stream_length
from preftune.models.tokens import TokenSequence


def sequence(prompt: tuple[int, ...], response: tuple[int, ...]) -> TokenSequence:
    own = (False,) * len(prompt) + (True,) * len(response)
    return TokenSequence(prompt_ids=prompt, response_ids=response, own=own)


def test_a_pair_is_its_prompt_once_and_both_responses() -> None:
    layout = packed([[sequence((7, 8), (1, 2)), sequence((7, 8), (3,))]])
    assert layout.ids.tolist() == [[7, 8, 1, 2, 3]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 2]]
    # 1 is predicted at 8, 2 at 1; 3 is predicted at 8 as well, the last token of the prompt
    assert layout.scored.tolist() == [1, 2, 1]
    assert layout.targets.tolist() == [1, 2, 3]
    assert layout.own.tolist() == [[True, True], [True, False]]
    assert layout.last.tolist() == [3, 4]


def test_responses_that_begin_alike_share_their_beginning() -> None:
    layout = packed([[sequence((7,), (1, 2, 3)), sequence((7,), (1, 2, 4))]])
    assert layout.ids.tolist() == [[7, 1, 2, 3, 4]]
    assert layout.scored.tolist() == [0, 1, 2, 0, 1, 2]
    assert layout.targets.tolist() == [1, 2, 3, 1, 2, 4]


def test_the_first_token_of_all_is_never_scored() -> None:
    layout = packed([[TokenSequence(prompt_ids=(), response_ids=(5, 6), own=(True, True))]])
    assert layout.targets.tolist() == [6]


def test_common_prefix_by_hand() -> None:
    arrays = [np.array(ids, dtype=np.int64) for ids in ([1, 2, 3], [1, 2], [1, 5, 3])]
    assert common_prefix(arrays) == 1
    assert common_prefix(arrays[:2]) == 2
    assert common_prefix(arrays[:1]) == 3


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(0, 40))
def test_micro_batches_hold_every_row_once_and_keep_the_budget(
    lengths: list[int], budget: int
) -> None:
    parts = list(micro_batches(lengths, budget))
    assert [row for part in parts for row in part] == list(range(len(lengths)))
    for part in parts:
        assert not budget or len(part) == 1 or sum(lengths[row] for row in part) <= budget


def test_stream_length_counts_the_prompt_once() -> None:
    assert stream_length([sequence((1, 2, 3), (4,)), sequence((1, 2, 3), (5, 6))]) == 6
