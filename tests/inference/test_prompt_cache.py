import math

import pytest
import torch

from preftune.inference.prompt_cache import WASTE, buckets


def spans(lengths: list[int], most_padding: int) -> list[slice]:
    found = buckets(
        lengths, [1] * len(lengths), dtype=torch.float32, token_bytes=WASTE // most_padding
    )
    return [bucket.rows for bucket in found]


def test_a_bucket_holds_at_most_so_much_padding() -> None:
    # 100 - 90 = 10 fits; 10 + (100 - 60) = 50 fits just; one more token does not
    assert spans([100, 90, 60], 50) == [slice(0, 3)]
    assert spans([100, 90, 59], 50) == [slice(0, 2), slice(2, 3)]
    # the second bucket counts from its own longest
    assert spans([100, 40, 30, 20], 50) == [slice(0, 1), slice(1, 4)]


def test_columns_behind_a_prompt_are_hidden_and_equal_lengths_need_no_bias() -> None:
    [bucket] = buckets([3, 2], [1, 2], dtype=torch.float32, token_bytes=1)
    assert bucket.bias is not None
    assert bucket.bias[:, 0, 0].tolist() == [[0, 0, 0], [0, 0, -torch.inf]]
    assert bucket.owner.tolist() == [0, 1, 1]
    [even] = buckets([3, 3], [2, 2], dtype=torch.float32, token_bytes=1)
    assert even.bias is None


@pytest.mark.parametrize("counts", [(1, 3, 2), (2, 2, 2)])
def test_rows_come_back_from_their_prompts_in_order(counts: tuple[int, ...]) -> None:
    [bucket] = buckets([3, 2, 2], counts, dtype=torch.float32, token_bytes=1)
    rows = torch.arange(6 * 2 * 2 * 5, dtype=torch.float32).view(6, 2, 2, 5)
    stacked = bucket.stacked(rows)
    assert stacked.shape == (3, 2, max(counts) * 2, 5)  # as many places for each prompt
    nothing = torch.full((6, 2, 2), -torch.inf)  # all the mass is in the prompts
    back = bucket.joined(torch.zeros_like(rows), nothing, stacked, torch.zeros(stacked.shape[:3]))
    assert torch.equal(back, rows)
    first = counts[0]
    assert torch.equal(stacked[1, 0, :2], rows[first, 0])
    assert not stacked[0, :, 2 * first :].any()  # its other places are empty


def test_two_parts_are_joined_by_their_masses() -> None:
    [bucket] = buckets([2, 2], [1, 1], dtype=torch.float32, token_bytes=1)
    own, found = torch.tensor([[[[1.0]]], [[[1.0]]]]), torch.tensor([[[[5.0]]], [[[9.0]]]])
    own_mass, mass = torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[[0.0]], [[1 + math.log(3)]]])
    joined = bucket.joined(own, own_mass, found, mass)
    assert joined.flatten().tolist() == pytest.approx([3.0, 7.0])  # shares 1/2 and 3/4


def test_a_prompt_leaves_with_its_last_row() -> None:
    [bucket] = buckets([3, 2, 2], [1, 3, 2], dtype=torch.float32, token_bytes=1)
    assert bucket.keep(torch.tensor([1, 3, 4])).tolist() == [1, 2]
    assert bucket.owner.tolist() == [0, 0, 1]
    assert bucket.lengths.tolist() == [2, 2]
    assert bucket.most == 2
    assert bucket.places is not None
    assert bucket.places.tolist() == [0, 1, 2]
    assert bucket.keep(torch.tensor([], dtype=torch.long)).tolist() == []
