"""Attention of packed rows against the definition, written out in float64."""

import pytest
import torch
from torch import Tensor

from preftune.engine.attention_cpu import cpu_attention
from preftune.engine.layout import Group, Layout, packed
from preftune.engine.segments import Row, Segment, cpu_parts
from preftune.models.tokens import TokenSequence

WIDTH = 16
ROWS = {
    "a pair": (30, (12, 9)),
    "a pair without a prompt": (0, (12, 9)),
    "a response with nothing of its own": (20, (7, 0)),
    "two blocks of queries": (150, (90, 60)),
    "three blocks of queries": (300, (50, 40)),
    "too long for one product": (400, (90, 80)),
    "a group of eight": (10, (12,) * 8),
    "one response": (5, (30,)),
}


def layout_of(shapes: list[tuple[int, tuple[int, ...]]]) -> Layout:
    """A stream whose rows have these prefixes and rests; no two rests begin alike."""
    rows = []
    for prefix, rests in shapes:
        shared = (0,) * prefix
        rows.append(
            [
                TokenSequence(
                    prompt_ids=shared[:1],
                    response_ids=shared[1:] + (1 + number,) * rest,
                    own=(True,) * (max(prefix, 1) + rest - (prefix == 0)),
                )
                for number, rest in enumerate(rests)
            ]
        )
    return packed(rows)


def definition(query: Tensor, key: Tensor, value: Tensor, groups: tuple[Group, ...]) -> Tensor:
    """Softmax over the tokens that each token may see, found token by token."""
    owner, tokens = [], 0  # of each token: its row, and which response (-1: the prefix)
    for number, group in enumerate(groups):
        owner += [(number, -1)] * group.prefix
        owner += [(number, i) for i, rest in enumerate(group.rests) for _ in range(rest)]
        tokens += group.prefix + sum(group.rests)
    sees = torch.tensor(
        [
            [
                k <= q and owner[k][0] == owner[q][0] and owner[k][1] in {-1, owner[q][1]}
                for k in range(tokens)
            ]
            for q in range(tokens)
        ]
    )
    ratio = len(query) // len(key)
    key, value = key.repeat_interleave(ratio, 0), value.repeat_interleave(ratio, 0)
    scores = (query @ key.mT) * WIDTH**-0.5
    found: Tensor = scores.masked_fill(~sees, -torch.inf).softmax(-1) @ value
    return found


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("name", ROWS)
def test_attention_and_its_gradients_equal_the_definition(name: str, ratio: int) -> None:
    torch.manual_seed(0)
    layout = layout_of([ROWS["a pair"], ROWS[name]])
    start = layout.ids.shape[1]
    queries, keys = (2 * ratio, start, WIDTH), (2, start, WIDTH)
    exact = [torch.randn(*shape, dtype=torch.float64) for shape in (queries, keys, keys, queries)]
    given = exact.pop()
    inputs = [tensor.float().transpose(0, 1).contiguous().transpose(0, 1) for tensor in exact]
    for tensor in (*exact, *inputs):
        tensor.requires_grad_()
    wanted = definition(exact[0], exact[1], exact[2], layout.groups)
    found = cpu_attention(inputs[0], inputs[1], inputs[2], layout, WIDTH**-0.5)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    wanted.backward(given)
    found.backward(given.float())
    for tensor, reference in zip(inputs, exact, strict=True):
        assert tensor.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(tensor.grad.double(), reference.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype", "kinds"),
    [
        ("a pair", torch.float32, [Row]),
        ("a pair", torch.bfloat16, [Segment, Segment]),
        ("too long for one product", torch.float32, [Segment, Segment]),
        ("a group of eight", torch.float32, [Segment] * 8),  # siblings would be most of the product
    ],
)
def test_only_short_rows_with_little_waste_are_one_product(
    name: str, dtype: torch.dtype, kinds: list[type]
) -> None:
    prefix, rests = ROWS[name]
    parts = cpu_parts((Group(start=0, prefix=prefix, rests=rests),), dtype)
    assert [type(part) for part in parts] == kinds
