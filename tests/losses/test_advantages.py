import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.advantages import (
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    reinforce_plus_plus_baseline_advantages,
    rewards_to_go,
    rloo_advantages,
    shaped_rewards,
    whiten,
    whiten_keeping_mean,
)

GROUP_ADVANTAGES = (rloo_advantages, grpo_advantages, dr_grpo_advantages)
A = [0.46575, 0.385, 0.3]


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mask(*values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


ALL = mask([1, 1, 1])


def test_shaped_rewards_meet_published_vector() -> None:
    got = shaped_rewards(scores=rows([1.5])[0], kl=rows([0.1, -0.2, 0.3]), mask=ALL, kl_coef=0.05)
    assert got[0].tolist() == pytest.approx([-0.005, 0.01, 1.485])


def test_score_lies_on_the_last_own_token_and_foreign_ones_get_nothing() -> None:
    got = shaped_rewards(
        scores=rows([2.0, -1.0])[0],
        kl=rows([1.0, math.nan, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0]),
        mask=mask([1, 0, 1, 0], [1, 1, 1, 1]),
        kl_coef=0.1,
    )
    assert got.tolist() == [
        pytest.approx([-0.1, 0, 1.9, 0]),
        pytest.approx([-0.1, -0.1, -0.1, -1.1]),
    ]


drawn_rows = st.lists(
    st.tuples(st.booleans(), st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8
)


@given(drawn_rows, st.floats(-10, 10), st.floats(0, 2))
@settings(max_examples=30)
def test_shaped_rewards_sum_to_score_less_the_price_of_the_kl(
    drawn: list[tuple[bool, float, float]], score: float, kl_coef: float
) -> None:
    own = mask([1, *(int(is_own) for is_own, _, _ in drawn)])
    kl = rows([0.5, *(value for _, value, _ in drawn)])
    got = shaped_rewards(scores=rows([score])[0], kl=kl, mask=own, kl_coef=kl_coef)
    assert got.sum().item() == pytest.approx(score - kl_coef * kl[own].sum().item(), abs=1e-9)


def test_a_row_without_own_tokens_gets_no_reward() -> None:
    got = shaped_rewards(
        scores=rows([1.0, math.nan])[0],
        kl=rows([0.5, 0.5], [0.5, math.nan]),
        mask=mask([1, 0], [0, 0]),
        kl_coef=0.1,
    )
    assert got.tolist() == [[0.95, 0], [0, 0]]


@pytest.mark.parametrize("kl_coef", [-0.1, math.nan])
def test_a_reward_for_leaving_the_reference_is_refused(kl_coef: float) -> None:
    with pytest.raises(ValueError, match="kl_coef"):
        shaped_rewards(scores=rows([1.0])[0], kl=rows([0.0]), mask=mask([1]), kl_coef=kl_coef)


def gae_of(
    own: Tensor = ALL, *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[list[float], list[float]]:
    advantages, returns = gae(
        rewards=rows([0, 0, 1]),
        values=rows([0.5, 0.6, 0.7]),
        mask=own,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    return advantages[0].tolist(), returns[0].tolist()


@pytest.mark.parametrize(
    ("gamma", "gae_lambda", "expected"),
    [
        (1.0, 0.95, A),
        (1.0, 1.0, [0.5, 0.4, 0.3]),
        (1.0, 0.0, [0.1, 0.1, 0.3]),
        (0.99, 0.95, [0.446829, 0.37515, 0.3]),
    ],
)
def test_gae_meets_published_vectors(
    gamma: float, gae_lambda: float, expected: list[float]
) -> None:
    advantages, returns = gae_of(gamma=gamma, gae_lambda=gae_lambda)
    assert advantages == pytest.approx(expected, abs=1e-6)
    assert returns == pytest.approx(
        [a + v for a, v in zip(expected, (0.5, 0.6, 0.7), strict=True)], abs=1e-6
    )


def test_gae_carries_forward_over_foreign_turns() -> None:
    # naive 0.46575, with the foreign value zeroed 0.43575: neither is ours
    advantages, returns = gae_of(mask([1, 0, 1]))
    assert advantages == pytest.approx([0.485, 0, 0.3])
    assert returns == pytest.approx([0.985, 0, 1.0])


@given(drawn_rows, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30)
def test_gae_equals_gae_of_the_own_tokens_alone(
    drawn: list[tuple[bool, float, float]], gamma: float, gae_lambda: float
) -> None:
    own = mask([int(is_own) for is_own, _, _ in drawn])
    reward = rows([r if is_own else math.nan for is_own, r, _ in drawn])
    value = rows([v if is_own else math.inf for is_own, _, v in drawn])
    holed = gae(rewards=reward, values=value, mask=own, gamma=gamma, gae_lambda=gae_lambda)
    count = int(own.sum())
    if count == 0:
        assert all((part == 0).all() for part in holed)
        return
    alone = gae(
        rewards=reward[own][None],
        values=value[own][None],
        mask=torch.ones(1, count, dtype=torch.bool),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    for part, expected in zip(holed, alone, strict=True):
        assert part[own].equal(expected[0])
        assert (part[~own] == 0).all()


@given(drawn_rows, st.floats(0, 1))
@settings(max_examples=30)
def test_gae_equals_its_definition_as_a_sum(
    drawn: list[tuple[bool, float, float]], gae_lambda: float
) -> None:
    reward = [r for _, r, _ in drawn]
    value = [v for _, _, v in drawn] + [0.0]
    deltas = [r + 0.9 * value[t + 1] - value[t] for t, r in enumerate(reward)]
    by_hand = [
        sum((0.9 * gae_lambda) ** (s - t) * deltas[s] for s in range(t, len(deltas)))
        for t in range(len(deltas))
    ]
    got, _ = gae(
        rewards=rows(reward),
        values=rows(value[:-1]),
        mask=torch.ones(1, len(reward), dtype=torch.bool),
        gamma=0.9,
        gae_lambda=gae_lambda,
    )
    assert got[0].tolist() == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.01, 0.95), (1.0, -0.1), (math.nan, 0.95)])
def test_gae_outside_its_ranges_is_refused(gamma: float, gae_lambda: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        gae_of(gamma=gamma, gae_lambda=gae_lambda)


def test_whiten_meets_published_vectors() -> None:
    white = [0.991344, 0.017092, -1.008436]
    level = [1.374927, 0.400675, -0.624852]
    assert whiten(values=rows(A), mask=ALL)[0].tolist() == pytest.approx(white, abs=1e-6)
    kept = whiten_keeping_mean(values=rows(A), mask=ALL)
    assert kept[0].tolist() == pytest.approx(level, abs=1e-6)


def test_whiten_reads_own_tokens_of_all_rows_and_no_others() -> None:
    spread = rows([A[0], math.nan, A[1]], [math.inf, A[2], -1e9])
    own = mask([1, 0, 1], [0, 1, 0])
    got = whiten(values=spread, mask=own)
    assert got[own].tolist() == pytest.approx([0.991344, 0.017092, -1.008436], abs=1e-6)
    assert (got[~own] == 0).all()
    assert (whiten_keeping_mean(values=spread, mask=own)[~own] == 0).all()


def test_whiten_of_a_lone_token_and_of_none_is_zero() -> None:
    values = rows([7.0, 3.0])
    assert whiten(values=values, mask=mask([0, 1])).tolist() == [[0, 0]]
    assert whiten(values=values, mask=mask([0, 0])).tolist() == [[0, 0]]
    assert whiten_keeping_mean(values=values, mask=mask([0, 1])).tolist() == [[0, 3.0]]


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=12).filter(lambda x: max(x) - min(x) > 1)
)
def test_whitened_values_have_mean_zero_and_variance_one(values: list[float]) -> None:
    own = torch.ones(1, len(values), dtype=torch.bool)
    white = whiten(values=rows(values), mask=own)
    assert white.mean().item() == pytest.approx(0, abs=1e-9)
    assert white.var().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "rloo", "grpo", "dr_grpo"),
    [
        (
            [1, 0, 0, 1],
            [2 / 3, -2 / 3, -2 / 3, 2 / 3],
            [0.865875, -0.865875, -0.865875, 0.865875],
            [0.5, -0.5, -0.5, 0.5],
        ),
        (
            [1, 0.5, -1],
            [1.25, 0.5, -1.75],
            [0.800564, 0.320226, -1.120789],
            [0.833333, 0.333333, -1.166667],
        ),
    ],
)
def test_group_advantages_meet_published_vectors(
    rewards: list[float], rloo: list[float], grpo: list[float], dr_grpo: list[float]
) -> None:
    everyone = torch.ones(1, len(rewards), dtype=torch.bool)
    for function, expected in zip(GROUP_ADVANTAGES, (rloo, grpo, dr_grpo), strict=True):
        got = function(rewards=rows(rewards), scored=everyone)
        assert got[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("eps", "expected"), [(1e-6, 0.866024), (1e-9, 0.866025)])
def test_grpo_eps_meets_published_vectors(eps: float, expected: float) -> None:
    got = grpo_advantages(rewards=rows([1, 0, 0, 1]), scored=mask([1] * 4), eps=eps)
    assert got[0, 0].item() == pytest.approx(expected, abs=1e-6)


group = st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=2, max_size=8)


@given(group, st.floats(-100, 100))
@settings(max_examples=30)
def test_group_advantages_ignore_a_shift_of_the_group(
    drawn: list[tuple[float, bool]], shift: float
) -> None:
    who = mask([int(s) for _, s in drawn])
    plain, moved = rows([r for r, _ in drawn]), rows([r + shift for r, _ in drawn])
    for function in (rloo_advantages, dr_grpo_advantages):
        got = function(rewards=moved, scored=who) - function(rewards=plain, scored=who)
        assert got.abs().max().item() < 1e-9
    whole = mask([1] * len(drawn))
    if plain.std() > 0.1:  # below, the rounding of the shift itself shows
        got = grpo_advantages(rewards=moved, scored=whole)
        expected = grpo_advantages(rewards=plain, scored=whole)
        assert (got - expected).abs().max().item() < 1e-9


@given(group)
@settings(max_examples=30)
def test_unscored_responses_get_zero_and_change_nothing_for_the_others(
    drawn: list[tuple[float, bool]],
) -> None:
    who = mask([int(s) for _, s in drawn])
    rewards = rows([r if s else math.nan for r, s in drawn])
    count = int(who.sum())
    for function in GROUP_ADVANTAGES:
        got = function(rewards=rewards, scored=who)
        assert (got[~who] == 0).all()
        if count < 2:
            assert (got == 0).all()
        else:
            alone = function(rewards=rewards[who][None], scored=who[who][None])
            assert got[who].tolist() == pytest.approx(alone[0].tolist(), abs=1e-9)


def test_rloo_is_each_reward_less_the_mean_of_the_others() -> None:
    rewards = [3.0, -1.0, 0.5, 7.0]
    by_hand = [r - (sum(rewards) - r) / 3 for r in rewards]
    got = rloo_advantages(rewards=rows(rewards), scored=mask([1] * 4))
    assert got[0].tolist() == pytest.approx(by_hand)


def test_rloo_is_unbiased() -> None:
    # all 9 pairs of draws of a policy (0.5, 0.3, 0.2) with rewards (1, 0, 4): the mean of
    # advantage * d log p / d logit is the exact gradient p (reward - mean reward)
    p, reward = rows([0.5, 0.3, 0.2])[0], rows([1, 0, 4])[0]
    estimate = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            drawn = torch.tensor([i, j])
            advantages = rloo_advantages(rewards=reward[drawn][None], scored=mask([1, 1]))[0]
            scores = torch.nn.functional.one_hot(drawn, 3) - p
            estimate += p[i] * p[j] * (advantages[:, None] * scores).mean(0)
    assert estimate.tolist() == pytest.approx((p * (reward - (p * reward).sum())).tolist())


@pytest.mark.parametrize("level", [0.1, 1000.1, -3e5])
def test_equal_rewards_of_any_size_give_exactly_zero(level: float) -> None:
    rewards = torch.full((2, 3), level)  # fp32, as in training
    for function in GROUP_ADVANTAGES:
        assert (function(rewards=rewards, scored=torch.ones(2, 3, dtype=torch.bool)) == 0).all()


def test_groups_of_one_are_refused() -> None:
    for function in GROUP_ADVANTAGES:
        with pytest.raises(ValueError, match="groups of one"):
            function(rewards=rows([1.0], [2.0]), scored=mask([1], [1]))


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
def test_grpo_without_eps_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="eps"):
        grpo_advantages(rewards=rows([1.0, 2.0]), scored=mask([1, 1]), eps=eps)


def test_reinforce_plus_plus_before_whitening_meets_published_vector() -> None:
    kl = rows([0.1, -0.2, 0.3])
    rewards = shaped_rewards(scores=rows([1.0])[0], kl=kl, mask=ALL, kl_coef=0.05)
    got = rewards_to_go(rewards=rewards, mask=ALL)
    assert got[0].tolist() == pytest.approx([0.99, 0.995, 0.985])
    white = reinforce_plus_plus_advantages(scores=rows([1.0])[0], kl=kl, mask=ALL, kl_coef=0.05)
    # deviations (0, 5, -5) / 1000 have variance 25e-6; 1e-8 is added to it
    size = 5e-3 / math.sqrt(25e-6 + 1e-8)
    assert white[0].tolist() == pytest.approx([0, size, -size], abs=1e-9)


def test_reinforce_plus_plus_meets_published_vector() -> None:
    got = reinforce_plus_plus_advantages(
        scores=rows([1.0, 0.0])[0],
        kl=rows([0, 0, 5], [0, 0, 0]),
        mask=mask([1, 1, 0], [1, 1, 1]),
        kl_coef=0.05,
    )
    high, low = 1.095445, -0.730297
    assert got.tolist() == [
        pytest.approx([high, high, 0], abs=1e-6),
        pytest.approx([low, low, low], abs=1e-6),
    ]


def test_rewards_to_go_skip_foreign_turns() -> None:
    got = rewards_to_go(rewards=rows([1, math.nan, 2, 4]), mask=mask([1, 0, 1, 1]))
    assert got.tolist() == [[7, 0, 6, 4]]


def test_reinforce_plus_plus_baseline_meets_published_vector() -> None:
    got = reinforce_plus_plus_baseline_advantages(
        rewards=rows([1, 0, 0, 1]),
        scored=mask([1] * 4),
        lengths=torch.ones(1, 4, dtype=torch.long),
    )
    assert got[0].tolist() == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-6)


def test_reinforce_plus_plus_baseline_counts_every_token_of_scored_responses() -> None:
    rewards = rows([3, 1, math.nan], [5, 5, 5])
    lengths = torch.tensor([[2, 3, 4], [1, 2, 1]])
    who = mask([1, 1, 0], [1, 1, 1])
    got = reinforce_plus_plus_baseline_advantages(rewards=rewards, scored=who, lengths=lengths)
    per_token = rows([1, 1, -1, -1, -1, 0, 0, 0, 0])  # reward - mean of the group, token by token
    white = whiten(values=per_token, mask=torch.ones(1, 9, dtype=torch.bool))[0]
    assert got[0].tolist() == pytest.approx([white[0].item(), white[2].item(), 0])
    assert got[1].tolist() == pytest.approx([white[5].item()] * 3)


@given(st.permutations(range(4)), st.permutations(range(3)))
@settings(max_examples=30)
def test_order_of_prompts_and_of_responses_changes_nothing(
    prompts: list[int], responses: list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    who = mask([1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1])
    lengths = torch.arange(1, 13).reshape(4, 3)

    def mixed(table: Tensor) -> Tensor:
        return table[prompts][:, responses]

    for function in GROUP_ADVANTAGES:
        got = function(rewards=mixed(rewards), scored=mixed(who))
        assert (got - mixed(function(rewards=rewards, scored=who))).abs().max() < 1e-12
    plain = reinforce_plus_plus_baseline_advantages(rewards=rewards, scored=who, lengths=lengths)
    got = reinforce_plus_plus_baseline_advantages(
        rewards=mixed(rewards), scored=mixed(who), lengths=mixed(lengths)
    )
    assert (got - mixed(plain)).abs().max() < 1e-12
