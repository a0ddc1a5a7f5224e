"""Strengths, sides and lengths in the real sets: published figures, alarms, other code."""

import evalica
import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it has no stubs here
import pytest
from crowdkit.aggregation import DawidSkene
from scipy.stats import spearmanr
from statsmodels.stats import inter_rater
from tests.examples.verdicts import (
    TIE,
    Load,
    all_of,
    battles,
    comparisons,
    near,
    outcome,
    rate,
    said_by,
    share,
)

from preftune.comparisons.bias import length_bias, length_bias_of_lists, position_bias
from preftune.comparisons.confusion import fit_confusion
from preftune.comparisons.vote_table import vote_table
from preftune.comparisons.votes import signed_votes
from preftune.stats.agreement import fleiss_kappa, krippendorff_alpha
from preftune.stats.rater_ratings import rater_ratings
from preftune.stats.ratings import elo, strength_intervals
from preftune.types import Judgment, RankedList


def test_alpha_of_llmfao_equals_evalica(imported: Load) -> None:
    signed = list(signed_votes(said_by(imported("llmfao"), "human")))
    table = pd.DataFrame(signed, columns=["unit", "rater", "vote"])
    dense = table.drop_duplicates(["unit", "rater"], keep="last").pivot(
        index="rater", columns="unit", values="vote"
    )
    for level in ("nominal", "ordinal", "interval"):
        theirs = evalica.alpha(dense, distance=level).alpha
        assert krippendorff_alpha(signed, level=level) == near(theirs, abs=1e-9)


def test_length_alarms_have_the_right_sign(imported: Load) -> None:
    scanned = imported("llmfao")
    shown = list(comparisons(scanned).values())
    (people,) = length_bias(said_by(scanned, "human"), shown, by="kind")
    assert (people.alarm, people.sign, people.share.n) == (True, -1, 3495)
    assert people.share.value == near(0.408011)
    lists = [r for r in all_of(imported("oasst-rank")) if isinstance(r, RankedList)]
    lean = length_bias_of_lists(lists)
    assert lean is not None
    assert (lean.alarm, lean.sign) == (True, 1)


def test_position_alarms_of_the_arena(imported: Load) -> None:
    scanned = imported("arena-verdicts")
    said = [r for r in all_of(scanned) if isinstance(r, Judgment)]
    leans = {lean.who: lean for lean in position_bias(vote_table(said))}
    assert {who: lean.sign for who, lean in leans.items()} == {
        "arena-visitor": 0,
        "gpt-4-0125-preview": 1,
        "claude-3-opus-20240229": -1,
        "gpt-3.5-turbo": 1,
    }
    second = [1 - lean.share.value for lean in leans.values()]
    assert second == near([0.4962, 0.4436, 0.6044, 0.1357], abs=5e-5)


def test_arena_sides_stay_when_the_models_strengths_are_taken_out(imported: Load) -> None:
    score = {0: 1.0, 1: 0.0, TIE: 0.5}
    games = [
        (rater, a, b, score[o])
        for rater, played in battles(imported("arena-verdicts")).items()
        for a, b, o in played
    ]
    fit = rater_ratings(games)
    z = {rater: side / fit.side_error[rater] for rater, side in fit.side.items()}
    assert abs(z["arena-visitor"]) < 2
    assert z["gpt-3.5-turbo"] > 50
    assert z["claude-3-opus-20240229"] < -15
    assert fit.side["gpt-3.5-turbo"] > 1.5
    assert fit.skill["gpt-4-0125-preview"] > fit.skill["arena-visitor"] > fit.skill["gpt-3.5-turbo"]


def test_arena_ratings_equal_evalica(imported: Load) -> None:
    games = battles(imported("arena-verdicts"))["arena-visitor"]
    winner = {0: evalica.Winner.X, 1: evalica.Winner.Y, TIE: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [a for a, _, _ in games],
        [b for _, b, _ in games],
        [winner[o] for *_, o in games],
        tolerance=1e-12,
        limit=10_000,
    ).scores
    ours = rate(games)
    logs = np.log(theirs.loc[list(ours.names)].to_numpy())
    assert ours.strength == near(logs - logs.mean(), abs=1e-4)


def test_arena_intervals_over_battles(imported: Load) -> None:
    games = battles(imported("arena-verdicts"))["arena-visitor"]
    played = [(a, b, 0.5 if o == TIE else 1.0 - float(o)) for a, b, o in games]
    found = strength_intervals(played, range(len(played)), rounds=200)
    ours = rate(games)
    for name, strength, error in zip(ours.names, ours.strength, ours.standard_error, strict=True):
        assert found[name].low < strength < found[name].high
        width = (found[name].high - found[name].low) / (2 * 1.96)
        assert 0.6 * error < width < 1.2 * error  # ties half: Fisher's error is a little wide


def test_arena_ratings(imported: Load) -> None:
    points = elo(rate(battles(imported("arena-verdicts"))["arena-visitor"]))
    published = """gpt-4 1231.77, claude-v1 1190.56, claude-instant-v1 1163.96,
    gpt-3.5-turbo 1139.12, guanaco-33b 1092.44, vicuna-13b 1059.44, palm-2 1049.07,
    wizardlm-13b 1045.01, vicuna-7b 1032.32, koala-13b 1003.14, mpt-7b-chat 952.15,
    gpt4all-13b-snoozy 950.62, RWKV-4-Raven-14B 944.09, oasst-pythia-12b 926.20, alpaca-13b 916.70,
    fastchat-t5-3b 903.93, chatglm-6b 889.29, stablelm-tuned-alpha-7b 848.54, dolly-v2-12b 848.09,
    llama-13b 813.56"""
    expected = {name: float(value) for name, value in map(str.split, published.split(","))}
    assert list(points) == list(expected)
    assert points == near(expected, abs=0.01)


def test_arena_judges_and_sides(imported: Load) -> None:
    found = battles(imported("arena-verdicts"))
    people = found.pop("arena-visitor")
    human, agree, correlation = rate(people), [], []
    everyone = (people, *found.values())
    second = [share(o == 1 for _, _, o in games if o != TIE)[0] for games in everyone]
    for games in found.values():
        both = [(h[2], j[2]) for h, j in zip(people, games, strict=True) if TIE not in (h[2], j[2])]
        agree.append(share(h == j for h, j in both))
        correlation.append(spearmanr(human.strength, rate(games).strength).statistic)
    assert second == near([0.4962, 0.4436, 0.6044, 0.1357], abs=5e-5)
    assert [count for _, count in agree] == [9566, 9209, 12_589]
    assert [part for part, _ in agree] == near([0.8316, 0.7242, 0.5686], abs=5e-5)
    assert correlation == near([0.980, 0.994, 0.919], abs=5e-4)


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # crowd-kit's use of pandas
def test_dawid_skene_of_pandalm_and_its_fleiss_equal_other_code(imported: Load) -> None:
    said = said_by(imported("pandalm"), "human")
    votes = [(j.comparison_id, j.rater.id, str(outcome(j))) for j in said]
    fit = fit_confusion(votes, labels=("0", "1", TIE))
    frame = pd.DataFrame(votes, columns=["task", "worker", "label"])
    theirs = DawidSkene(n_iter=1000, tol=1e-9).fit(frame)
    table = theirs.probas_.loc[list(fit.items), ["0", "1", TIE]].to_numpy()
    assert np.mean(table.argmax(1) == fit.probability.argmax(1)) > 0.98
    counts = frame.pivot_table(index="task", columns="label", aggfunc="size", fill_value=0)
    assert fleiss_kappa(counts.to_numpy()) == near(
        inter_rater.fleiss_kappa(counts.to_numpy()), abs=1e-12
    )
