"""Published statistics of the real sets, recomputed from their records alone.

The expected values come from other implementations (evalica, scikit-learn, statsmodels) run on the
files themselves. A verdict that was recorded counts even where the row's texts cannot be used.
"""

import math
from collections import Counter, defaultdict

import pytest
from scipy.stats import binomtest
from tests.examples.verdicts import (
    TIE,
    Load,
    all_of,
    comparisons,
    lengths,
    near,
    outcome,
    said_by,
    share,
)

from preftune.comparisons.rater_summary import REAL_SETS
from preftune.comparisons.votes import signed_votes
from preftune.stats.agreement import Level, cohen_kappa, fleiss_kappa, krippendorff_alpha
from preftune.stats.paired import paired_difference
from preftune.types import PreferencePair, RankedList, text_of


def test_pandalm_agreement(imported: Load) -> None:
    by_rater: dict[str, list[int | str]] = defaultdict(list)
    for judgment in said_by(imported("pandalm"), "human"):
        by_rater[judgment.rater.id].append(outcome(judgment))
    a, b, c = ([str(vote) for vote in votes] for votes in by_rater.values())
    kappas = [cohen_kappa(a, b), cohen_kappa(a, c), cohen_kappa(b, c)]
    assert kappas == near([0.842760, 0.879060, 0.862218])
    counts = [[votes.count(x) for x in ("0", "1", TIE)] for votes in zip(a, b, c, strict=True)]
    assert fleiss_kappa(counts) == near(0.861341)
    alpha = krippendorff_alpha(signed_votes(said_by(imported("pandalm"), "human")))
    assert alpha == near(0.861412)
    majority = [Counter(votes).most_common(1)[0][0] for votes in zip(a, b, c, strict=True)]
    assert Counter(majority) == {TIE: 74, "0": 286, "1": 291}
    judges = said_by(imported("pandalm"), "judge")
    gpt = [j for j in judges if j.rater.id == "gpt-3.5-turbo"]
    right = share(
        j.kind != "unparsed" and str(outcome(j)) == m for j, m in zip(gpt, majority, strict=True)
    )
    assert right == (near(0.689708), 651)


@pytest.mark.parametrize(
    ("level", "llmfao", "tulu"),
    [
        ("nominal", 0.304490, 0.359359),
        ("ordinal", 0.291894, 0.472784),
        ("interval", 0.292259, 0.459416),
    ],
)
def test_alpha_of_llmfao_and_tulu(imported: Load, level: Level, llmfao: float, tulu: float) -> None:
    for name, expected in (("llmfao", llmfao), ("tulu1-human", tulu)):
        votes = signed_votes(said_by(imported(name), "human"))
        assert krippendorff_alpha(votes, level=level) == near(expected)


def test_tulu_alpha_with_every_row_counted(imported: Load) -> None:
    """Not the rule for repeats (the last vote counts), but what others publish."""
    said = said_by(imported("tulu1-human"), "human")
    signed = list(signed_votes(said))
    rows = [(unit, row, value) for row, (unit, _, value) in enumerate(signed)]
    levels: tuple[Level, ...] = ("ordinal", "interval", "nominal")
    assert [krippendorff_alpha(rows, level=level) for level in levels] == near(
        [0.431320, 0.401013, 0.344513]
    )


def test_the_list_of_real_sets_holds_what_the_files_hold(imported: Load) -> None:
    """`preftune raters` prints it beside the agreement of a file."""
    found = {}
    for name, _, _ in REAL_SETS:
        said = [j for j in said_by(imported(name), "human") if j.dimension == "overall"]
        if name == "crag25":  # as published: the two orders are two units
            votes = [(j.comparison_id, j.rater.id, outcome(j)) for j in said]
            found[name] = krippendorff_alpha(votes)
        else:
            found[name] = krippendorff_alpha(signed_votes(said))
    assert found == near({name: alpha for name, alpha, _ in REAL_SETS}, abs=5e-4)


def test_llmfao_the_shorter_answer_wins_and_one_judge_prefers_the_left(imported: Load) -> None:
    shown = comparisons(imported("llmfao"))
    decided = [j for j in said_by(imported("llmfao"), "human") if j.choice is not None]
    longer = share(
        lengths(shown[j.comparison_id])[j.choice or 0]
        > lengths(shown[j.comparison_id])[1 - (j.choice or 0)]
        for j in decided
    )
    assert longer == (near(0.408, abs=5e-4), 3495)
    judge = [j for j in said_by(imported("llmfao"), "judge") if "3.5" in j.rater.id]
    assert Counter(map(outcome, judge)) == {0: 978, 1: 402, TIE: 133}


def test_tulu_win_rates_and_sides(imported: Load) -> None:
    shown = comparisons(imported("tulu1-human"))
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for unit, _, value in signed_votes(said_by(imported("tulu1-human"), "human")):
        pair = shown.get(unit) or shown[f"{unit}~swapped"].swap()
        names = (pair.responses[0].generator or "", pair.responses[1].generator or "")
        scores[names].append((1 + (value > 0) - (value < 0)) / 2)
    wins = {names: (sum(found) / len(found), len(found)) for names, found in scores.items()}
    assert wins == {
        ("chatgpt", "tulu_65B"): (near(0.601124), 267),
        ("tulu_65B", "tulu_7B"): (near(0.596591), 264),
        ("tulu_65B", "tulu_human_only_65B"): (near(0.623348), 227),
    }
    decided = [j for j in said_by(imported("tulu1-human"), "human") if j.strength]
    first = [(j.grade or 0) < 4 for j in decided]
    assert share(first) == (near(0.534791), 503)
    sides = [lengths(shown[j.comparison_id]) for j in decided]
    longer = share((a > b) == won for (a, b), won in zip(sides, first, strict=True) if a != b)
    assert longer == (near(0.668675), 498)


def test_crag_agreement_by_dimension_and_between_the_two_orders(imported: Load) -> None:
    said = said_by(imported("crag25"), "human")
    dimensions = list(dict.fromkeys(judgment.dimension for judgment in said))
    votes = {
        d: [(j.comparison_id, j.rater.id, outcome(j)) for j in said if j.dimension == d]
        for d in dimensions
    }
    alphas = [krippendorff_alpha(votes[dimension]) for dimension in dimensions]
    expected = [0.134728, 0.139557, 0.063003, 0.186064, 0.178317, 0.086207, 0.166488]
    assert alphas == near(expected)
    for_first: Counter[str] = Counter()
    for shown, _, vote in votes["overall"]:
        for_first[shown] += vote == 0
    both = [shown for shown in for_first if f"{shown}~swapped" in for_first]
    same = share((for_first[s] > 2.5) != (for_first[f"{s}~swapped"] > 2.5) for s in both)
    assert same == (near(0.655022), 229)


def test_ukp_agreement_and_majority_against_gold(imported: Load) -> None:
    said = said_by(imported("ukp-convarg"), "human")
    assert krippendorff_alpha(signed_votes(said)) == near(0.284175)
    votes: dict[str, Counter[int | str]] = defaultdict(Counter)
    for judgment in said:
        votes[judgment.comparison_id][outcome(judgment)] += 1
    unanimous = share(len(found) == 1 for found in votes.values())
    assert unanimous == (near(0.215056), 12_234)
    gold = {j.comparison_id: outcome(j) for j in said_by(imported("ukp-convarg"), "rule")}
    top = {
        unit: [vote for vote, times in votes[unit].items() if times == max(votes[unit].values())]
        for unit in gold
    }
    first_met = share(votes[unit].most_common(1)[0][0] == gold[unit] for unit in gold)
    assert first_met == (near(0.896152), 11_642)
    shared = sum((gold[unit] in top[unit]) / len(top[unit]) for unit in gold) / len(gold)
    assert shared == near(0.896452)
    clear = [unit for unit in gold if len(top[unit]) == 1]
    left_out = share(top[unit][0] == gold[unit] for unit in clear)
    assert left_out == (near(0.951763), 10_241)
    wrong = share(top[unit] == [gold[unit]] for unit in gold)
    assert wrong == (near(0.837227), 11_642)


def test_oasst_prefers_the_longer_reply(imported: Load) -> None:
    longer: dict[str, list[bool]] = defaultdict(list)
    for ranked in all_of(imported("oasst-rank")):
        if isinstance(ranked, RankedList):
            sizes = [len(text_of(messages)) for messages in ranked.responses]
            language = ranked.prompt.tags[0]
            if sizes[0] != sizes[-1]:
                longer[language].append(sizes[0] > sizes[-1])
            longer[f"{language} pairs"] += [
                a > b for i, a in enumerate(sizes) for b in sizes[i + 1 :] if a != b
            ]
    assert share(longer["lang=en"]) == (near(0.758621), 145)
    assert share(longer["lang=zh"]) == (near(0.781676), 513)
    assert share(longer["lang=en pairs"]) == (near(0.668582), 522)


def test_hh_prefers_the_shorter_and_hhh_the_longer_answer(imported: Load) -> None:
    sizes = {
        name: [
            (len(r.chosen[-1].content), len(r.rejected[-1].content))
            for r in all_of(imported(name))
            if isinstance(r, PreferencePair)
        ]
        for name in ("hh-harmless", "hhh")
    }
    hh, hhh = sizes["hh-harmless"], sizes["hhh"]
    assert share(c > r for c, r in hh if c != r) == (near(0.443580), 1542)
    assert share(c < r for c, r in hh) == (near(0.554264), 1548)
    assert share(c > r for c, r in hhh if c != r) == (near(0.666667), 135)


LLMBAR = {  # order 12, order 21, self, right in both, score, first place
    "GPT-4/Vanilla_NoRules": (0.773077, 0.780769, 0.923077, 0.738462, 0.776923, 0.5038),
    "GPT-4/Vanilla": (0.850000, 0.876923, 0.919231, 0.823077, 0.863462, 0.5096),
    "GPT-4/CoT": (0.826923, 0.811538, 0.876923, 0.757692, 0.819231, 0.5231),
    "GPT-4/Metrics_Reference": (0.888462, 0.896154, 0.923077, 0.853846, 0.892308, 0.5192),
    "PaLM2/Vanilla": (0.676923, 0.703846, 0.726923, 0.557692, 0.694231, 0.5601),
    "ChatGPT/Vanilla": (0.411538, 0.392308, 0.634615, 0.219231, 0.401923, 0.6596),
    "Falcon/Vanilla": (0.569231, 0.569231, 0.407692, 0.273077, 0.569231, 0.7885),
}


@pytest.mark.parametrize("judge", LLMBAR)
def test_llmbar_replay(imported: Load, judge: str) -> None:
    gold = {j.comparison_id: j.choice for j in said_by(imported("llmbar"), "human")}
    orders: dict[str, list[int | None]] = defaultdict(list)
    first = []
    for j in said_by(imported("llmbar"), "judge"):
        if j.rater.id == judge:
            swapped = j.comparison_id.endswith("~swapped")
            turned = 1 - j.choice if swapped and j.choice is not None else j.choice
            orders[j.comparison_id.removesuffix("~swapped")].append(turned)
            first += [j.choice == 0] if j.choice is not None else []
    runs = [(gold[item], *verdicts) for item, verdicts in orders.items()]
    both = [a == b == g for g, a, b in runs]
    same = [a == b and a is not None for _, a, b in runs]
    score = sum(1.0 if r else 0.0 if s else 0.5 for r, s in zip(both, same, strict=True)) / len(
        runs
    )
    expected = LLMBAR[judge]
    assert len(runs) == 260
    assert share(a == g for g, a, _ in runs)[0] == near(expected[0])
    assert share(b == g for g, _, b in runs)[0] == near(expected[1])
    assert share(same)[0] == near(expected[2])
    assert share(both)[0] == near(expected[3])
    assert score == near(expected[4])
    assert share(first)[0] == near(expected[5], abs=5e-5)


def test_llmbar_the_shorter_output_is_right(imported: Load) -> None:
    shown = comparisons(imported("llmbar"))
    gold = said_by(imported("llmbar"), "human")
    sizes = [(lengths(shown[j.comparison_id]), j.choice or 0) for j in gold]
    shorter = share(found[right] < found[1 - right] for found, right in sizes)
    assert shorter == (near(0.742308), 260)


def test_gsm8k_systems(imported: Load) -> None:
    rows = [j.scores for j in said_by(imported("gsm8k-solutions"), "rule")]
    marks = list(zip(*rows, strict=True))  # 6b-ft, 6b-ver, 175b-ft, 175b-ver
    shares = [sum(column) / len(column) for column in marks]
    assert shares == near([0.213592, 0.390507, 0.345200, 0.558792])
    gained = sum(a > b for a, b in zip(marks[1], marks[2], strict=True))
    lost = sum(a < b for a, b in zip(marks[1], marks[2], strict=True))
    assert (gained, lost) == (149, 107)
    assert binomtest(lost, gained + lost).pvalue == near(0.010253)
    paired = paired_difference(gained=gained, lost=lost, n=len(rows))
    assert paired.difference == near(0.045307)
    assert paired.difference / paired.se == near(2.635, abs=5e-4)
    alone = sum(p * (1 - p) / len(rows) for p in (shares[1], shares[2]))
    assert paired.difference / math.sqrt(alone) == near(2.025, abs=5e-4)  # pairing forgotten


def test_tau_rewards(imported: Load) -> None:
    right = [int(sum(j.scores)) for j in said_by(imported("tau-airline"), "rule")]
    hat = [sum(math.comb(c, k) / math.comb(4, k) for c in right) / 39 for k in range(1, 5)]
    at = [sum(1 - math.comb(4 - c, k) / math.comb(4, k) for c in right) / 39 for k in range(1, 5)]
    assert sum(right) / 156 == near(0.391026)
    assert hat == near([0.391026, 0.235043, 0.179487, 0.153846])
    assert at == near([0.391026, 0.547009, 0.647436, 0.717949])
