"""Every objective by name: published values, its start, and a run from settings to model."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from preftune.datasets import read_pairs, write_records
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.reference import reference_logprobs
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import HealthError, SettingsError
from preftune.losses.batchwise import MarginAverage
from preftune.models.chat import load_chat
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.models.tokens import TokenSequence
from preftune.training import direct
from preftune.training.logs import read_rows
from preftune.training.loss_sum import LossSum, resolved
from preftune.training.loss_table import parse_terms
from preftune.training.objectives import OBJECTIVES
from preftune.training.pair_inputs import PairInputs, Side, StepState, turn_numbers
from preftune.training.pair_step import backward, check_step_0
from preftune.training.running import remember, state_of
from preftune.training.settings import (
    DirectSettings,
    MovingSettings,
    RunSettings,
    VariantSettings,
)
from preftune.training.tokenise import pair_rows
from preftune.types import Message, PreferencePair, assistant, content_id, make_prompt, user

CHOSEN = ([-1.0, -2, -1, -3, -3], [-1.5, -2, -1.5, -3.5, -3.5])  # policy, reference: c = 2, n 5
REJECTED = (
    [-1.0, -2, -1.5, -2.5, -1, -2, -2, -2],
    [-1.0, -1.5, -1.5, -2.5, -1, -2, -1.5, -2],
)  # r = -1, n 8

# Published values of the pair above (formulas, test vector A), by loss and settings.
KNOWN: dict[str, tuple[dict[str, float], float]] = {
    "sigmoid": ({"beta": 0.1}, 0.554355),
    "cdpo": ({"beta": 0.1, "flip_rate": 0.1}, 0.584355),
    "robust": ({"beta": 0.1, "flip_rate": 0.1}, 0.516855),
    "ipo": ({"tau": 0.1}, 20.025625),
    "ipo_sum": ({"tau": 0.1}, 4.0),
    "hinge": ({"beta": 0.1}, 0.7),
    "sigmoid_norm": ({"beta": 0.1}, 0.667242),
    "r_dpo": ({"beta": 0.1, "length_alpha": 0.05}, 0.620957),
    "dpop": ({"beta": 0.1, "dpop_penalty": 5.0}, 0.554355),
    "exo": ({"beta": 0.1, "flip_rate": 1e-3}, 2.258199),
    "nca": ({"beta": 0.1}, 1.319407),
    "bco_pair": ({"beta": 0.1}, 1.242536),
    "sppo_hard": ({"beta": 0.1}, 25.0),
    "apo_zero": ({"beta": 0.1}, 0.925187),
    "apo_down": ({"beta": 0.1}, 0.975391),
    "discopop": ({"beta": 0.1, "tau": 0.05}, 0.740357),
    "forward_kl": ({"beta": 0.1}, 0.572316),
    "js": ({"beta": 0.1}, 0.635589),
    "alpha_divergence": ({"beta": 0.1, "divergence_alpha": 0.5}, 0.573243),
    "ld_dpo": ({"beta": 0.1, "ld_alpha": 0.5}, 0.565071),
    "simpo": ({"beta": 2.0, "simpo_gamma": 0.5}, 1.313262),
    "cpo": ({"beta": 0.1}, 0.513015),
    "orpo": ({"odds_weight": 0.25}, 0.25 * 0.851757),
    "slic": ({"slic_delta": 1.0}, 0.0),  # chosen is 4 nats likelier than rejected
    "dmpo": ({"beta": 0.1, "turn_gamma": 0.7}, 0.554355),  # one turn is DPO
    "turn_mean": ({"beta": 0.1}, 0.554355),
}
ALONE = {"sampo", "aot", "aot_unpaired", "beta_dpo"}  # draws, or whole steps: tests of their own

# Closed forms where policy == reference, at the defaults of the table.
STARTS = {
    **dict.fromkeys(("sigmoid", "cdpo", "robust", "sigmoid_norm", "dpop", "ld_dpo"), math.log(2)),
    **dict.fromkeys(("forward_kl", "js", "alpha_divergence", "sampo", "dmpo"), math.log(2)),
    **dict.fromkeys(("turn_mean", "aot", "aot_unpaired", "beta_dpo"), math.log(2)),
    "ipo": 25.0,
    "ipo_sum": 25.0,
    "hinge": 1.0,
    "exo": 2.761231,
    "nca": 2 * math.log(2),
    "bco_pair": 2 * math.log(2),
    "sppo_hard": 500_000.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": (1 + math.log(2)) / 2,
}


def settings(loss: str, **changes: object) -> DirectSettings:
    """Return settings of a loss; single options go into their group."""
    names = {
        "beta",
        "nll_weight",
        "label",
        "moving",
        "lora",
        "optimizer",
        "engine",
        "data",
        "model",
    }
    values: dict[str, object] = {
        "model": "nowhere",
        "data": Path("nowhere"),
        "run": RunSettings(out=Path("nowhere")),
        "loss": loss,
        "variant": VariantSettings(**{k: v for k, v in changes.items() if k not in names}),  # type: ignore[arg-type]  # checked by the class
        **{k: v for k, v in changes.items() if k in names},
    }
    return DirectSettings(**values)  # type: ignore[arg-type]  # checked by the class


def side(policy: list[list[float]], reference: list[list[float]]) -> Side:
    width = max(map(len, policy))

    def padded(rows: list[list[float]]) -> Tensor:
        return torch.tensor([r + [0.0] * (width - len(r)) for r in rows], dtype=torch.float64)

    own = torch.tensor([[t < len(r) for t in range(width)] for r in policy])
    return Side(
        logprobs=padded(policy),
        reference=padded(reference),
        own=own,
        turn_of_token=torch.zeros(own.shape, dtype=torch.long),
    )


def pairs_of(chosen: Side, rejected: Side, state: StepState | None = None) -> PairInputs:
    ones = torch.ones(len(chosen.own), dtype=torch.float64)
    return PairInputs(
        chosen=chosen,
        rejected=rejected,
        weights=ones,
        probability=ones,
        strength=ones,
        seeds=tuple(range(len(ones))),
        state=state or StepState(),
    )


def pair_a() -> PairInputs:
    return pairs_of(side([CHOSEN[0]], [CHOSEN[1]]), side([REJECTED[0]], [REJECTED[1]]))


def test_every_objective_has_a_known_value() -> None:
    assert KNOWN.keys() | ALONE == OBJECTIVES.keys()


@pytest.mark.parametrize("name", list(KNOWN))
def test_objective_gives_its_published_value(name: str) -> None:
    options, expected = KNOWN[name]
    found = LossSum.of(settings(name, **options)).losses(pair_a())
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_sampo_gives_one_of_its_three_margins_and_their_mean_over_draws() -> None:
    loss = LossSum.of(settings("sampo"))
    found = [loss.losses(replace(pair_a(), seeds=(seed,))).item() for seed in range(400)]
    possible = [math.log1p(math.exp(-0.1 * m)) for m in (2.0, 2.5, 3.0)]
    assert all(min(abs(f - p) for p in possible) < 1e-6 for f in found)
    assert sum(found) / len(found) == pytest.approx(0.570609, abs=0.003)


def step_of_three() -> PairInputs:
    """Three one-token pairs: the AOT batch of the formulas."""
    return pairs_of(
        side([[-10.0], [-12], [-8]], [[-11.0], [-11], [-9]]),
        side([[-11.0], [-9], [-14]], [[-12.5], [-10], [-9]]),
    )


@pytest.mark.parametrize(
    ("name", "flip_rate", "expected"),
    [("aot", 0.0, 0.645261), ("aot", 0.1, 0.656928), ("aot_unpaired", 0.0, 0.641541)],
    ids=["paired", "smoothed", "unpaired"],
)
def test_aot_gives_its_published_mean(name: str, flip_rate: float, expected: float) -> None:
    loss = LossSum.of(settings(name, flip_rate=flip_rate))
    assert loss.losses(step_of_three()).mean().item() == pytest.approx(expected, abs=1e-6)


def test_beta_dpo_without_filter_gives_its_published_mean() -> None:
    # margins 3, -1, 1.5; the running mean before them is set so that after them it is 1
    mean = (3 - 1 + 1.5) / 3
    state = StepState(average=MarginAverage(centre=(1 - 0.1 * mean) / 0.9, spread=2.0))
    p = pairs_of(side([[3.0], [-1], [1.5]], [[0.0]] * 3), side([[0.0]] * 3, [[0.0]] * 3), state)
    loss = LossSum.of(settings("beta_dpo", keep_frac=1.0))
    assert loss.losses(p).mean().item() == pytest.approx(0.635135, abs=1e-6)


def test_beta_dpo_keeps_the_weighted_mean_of_the_kept_pairs() -> None:
    p = pairs_of(side([[0.0]] * 4, [[0.0]] * 4), side([[0.0]] * 4, [[0.0]] * 4))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    losses = LossSum.of(settings("beta_dpo", keep_frac=0.5)).losses(replace(p, weights=weights))
    assert (losses == 0).sum() == 2
    assert ((weights * losses).sum() / weights.sum()).item() == pytest.approx(math.log(2))


def test_bco_pair_uses_the_mean_reward_so_far() -> None:
    # vector A with delta = the pair's own mean reward, (.2 - .1) / 2
    p = replace(pair_a(), state=StepState(delta=0.05))
    found = LossSum.of(settings("bco_pair")).losses(p)
    assert found.item() == pytest.approx(1.241914, abs=1e-6)


def test_dmpo_weighs_the_turns_of_a_response() -> None:
    # two own tokens, one per turn: gamma .5 weighs them 1 and (.5 - .25) / .75 = 1/3
    chosen = replace(side([[-1.0, -1.0]], [[-3.0, -4.0]]), turn_of_token=torch.tensor([[0, 1]]))
    rejected = side([[-1.0]], [[-1.0]])
    found = LossSum.of(settings("dmpo", beta=1.0, turn_gamma=0.5)).losses(
        pairs_of(chosen, rejected)
    )
    assert found.item() == pytest.approx(math.log1p(math.exp(-(2.0 + 3.0 / 3))), abs=1e-6)
    mean = LossSum.of(settings("turn_mean", beta=1.0)).losses(pairs_of(chosen, rejected))
    assert mean.item() == pytest.approx(math.log1p(math.exp(-2.5)), abs=1e-6)


def test_turn_numbers_count_runs_of_own_tokens() -> None:
    own = (False, True, True, False, False, True, False, True)
    sequence = TokenSequence(prompt_ids=(1,), response_ids=(2, 3, 4, 5, 6, 7, 8), own=own)
    first = TokenSequence(prompt_ids=(), response_ids=(1, 2), own=(True, True))
    assert turn_numbers([sequence, first], width=4).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def equal_step() -> PairInputs:
    """Six pairs of other lengths, the policy exactly where the reference is."""
    chosen = [[-0.5 * (t + 1) for t in range(n)] for n in (1, 2, 3, 4, 5, 6)]
    rejected = [[-0.25 * (t + 1) for t in range(n)] for n in (6, 4, 5, 1, 2, 3)]
    return pairs_of(side(chosen, chosen), side(rejected, rejected))


@pytest.mark.parametrize("name", list(STARTS))
def test_objective_starts_where_its_closed_form_says(name: str) -> None:
    loss, p = LossSum.of(settings(name)), equal_step()
    start = loss.start(p)
    assert start is not None
    assert start.mean().item() == pytest.approx(STARTS[name], rel=1e-6)
    assert loss.losses(p).mean().item() == pytest.approx(STARTS[name], rel=1e-6)


def test_r_dpo_starts_at_what_length_gives() -> None:
    loss, p = LossSum.of(settings("r_dpo", length_alpha=0.05)), equal_step()
    expected = [math.log1p(math.exp(-0.05 * d)) for d in (-5, -2, -2, 3, 3, 3)]
    start = loss.start(p)
    assert start is not None
    assert start.tolist() == pytest.approx(expected)
    assert loss.losses(p).tolist() == pytest.approx(expected)


def test_offset_labels_start_at_log_of_1_plus_e_to_the_offset() -> None:
    loss = LossSum.of(settings("sigmoid", label="offset"))
    p = replace(equal_step(), strength=torch.tensor([0.0, 1, 2, 3, 0, 1], dtype=torch.float64))
    start = loss.start(p)
    assert start is not None
    expected = [math.log1p(math.exp(0.2 * k)) for k in (0, 1, 2, 3, 0, 1)]
    assert start.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo", "slic"])
def test_an_objective_without_reference_has_no_known_start(name: str) -> None:
    loss = LossSum.of(settings(name))
    assert not loss.has_reference
    assert loss.start(equal_step()) is None


def test_mpo_starts_at_the_weighted_sum_of_both_starts() -> None:
    start = LossSum.of(settings("0.8*sigmoid + 0.2*bco_pair")).start(equal_step())
    assert start is not None
    assert start.tolist() == pytest.approx([0.831777] * 6, abs=1e-6)


def test_a_sum_is_the_weighted_sum_of_its_terms() -> None:
    both = LossSum.of(settings("2*hinge+0.5*nca")).losses(pair_a())
    assert both.item() == pytest.approx(2 * 0.7 + 0.5 * 1.319407, abs=1e-6)


def test_soft_and_offset_labels_change_any_logit() -> None:
    p = replace(pair_a(), probability=torch.tensor([0.8], dtype=torch.float64))
    soft = LossSum.of(settings("sigmoid", label="soft")).losses(p)
    # p = .8 is cdpo with eps .2: .554355 + .2 * .3
    assert soft.item() == pytest.approx(0.614355, abs=1e-6)
    offset = LossSum.of(settings("sigmoid", label="offset")).losses(p)  # strength 1: .2
    assert offset.item() == pytest.approx(0.644397, abs=1e-6)


def test_wpo_multiplies_by_how_on_policy_both_responses_are() -> None:
    # p = (.5, .3, .2): tokens .5, .2 weigh .832178; .3, .3, .5 weigh .936025; product .778940
    collision = math.log(0.25 + 0.09 + 0.04)
    chosen = side([[math.log(0.5), math.log(0.2)]], [[0.0, 0.0]])
    rejected = side([[math.log(0.3), math.log(0.3), math.log(0.5)]], [[0.0] * 3])
    p = pairs_of(
        replace(chosen, log_collisions=torch.full((1, 2), collision, dtype=torch.float64)),
        replace(rejected, log_collisions=torch.full((1, 3), collision, dtype=torch.float64)),
    )
    plain = LossSum.of(settings("sigmoid")).losses(p)
    weighed = LossSum.of(settings("sigmoid", weighting="wpo")).losses(p)
    assert (weighed / plain).item() == pytest.approx(0.832178 * 0.936025, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "chosen", "rejected"),
    [
        ("sigmoid", 0.2, -0.1),  # beta .1 of c = 2, r = -1
        ("sigmoid_norm", 5 * 2 / 5, 5 * -1 / 8),
        ("ipo", 2 / 5, -1 / 8),
        ("simpo", 2 * -10 / 5, 2 * -14 / 8),
        ("cpo", 0.1 * -10, 0.1 * -14),
    ],
)
def test_rewards_are_beta_times_the_log_ratio(name: str, chosen: float, rejected: float) -> None:
    loss, p = LossSum.of(settings(name)), pair_a()
    if not loss.has_reference:
        p = pairs_of(
            replace(p.chosen, reference=torch.zeros_like(p.chosen.reference)),
            replace(p.rejected, reference=torch.zeros_like(p.rejected.reference)),
        )
    found = loss.rewards(p)
    assert [f.item() for f in found] == pytest.approx([chosen, rejected])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sigmod", "'sigmod' unknown, nearest 'sigmoid'"),
        ("0.8*sigmoid + 0.2*bco_pairs", "'bco_pairs' unknown, nearest 'bco_pair'"),
        ("x*sigmoid", "the weight of sigmoid is 'x'"),
        ("-1*sigmoid", "the weight of sigmoid is '-1'"),
        ("sigmoid + sigmoid", "sigmoid stands in the sum twice"),
        ("sigmoid +", "'' unknown"),
    ],
)
def test_a_bad_loss_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said.replace("*", r"\*")):
        parse_terms(text)


@pytest.mark.parametrize(
    ("loss", "nll"),
    [
        ("sigmoid", 0.2),
        ("cpo", 1.0),
        ("orpo", 1.0),
        ("simpo", 0.0),
        ("0.8*sigmoid + 0.2*bco_pair", 0.0),
        ("0.5*cpo + 0.5*slic", 0.5),
    ],
)
def test_the_usual_nll_weight_is_resolved(loss: str, nll: float) -> None:
    assert resolved(settings(loss)).nll_weight == pytest.approx(nll)


def world_pairs() -> list[PreferencePair]:
    """Return 16 pairs whose chosen reply has two turns in every other one."""
    found = []
    for n in range(16):
        chosen: tuple[Message, ...] = (assistant(f"a kind answer to {n} ."),)
        if n % 2:
            chosen = (*chosen, user("and then ?"), assistant(f"then wash {n} ."))
        found.append(
            PreferencePair(
                id=content_id("pair", n),
                prompt=make_prompt(user(f"question {n} ?")),
                chosen=chosen,
                rejected=(assistant(f"no {n} ."),),
                strength=n % 4,
                probability=0.8,
            )
        )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    rows = world_pairs()
    texts = [m.content for r in rows for m in (*r.prompt.messages, *r.chosen, *r.rejected)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=70, seed=0, tokenizer="words")
    write_records(folder / "pairs.jsonl", rows, format="preftune")
    return folder


def run_settings(folder: Path, out: Path, loss: str, **changes: object) -> DirectSettings:
    values: dict[str, object] = {
        "model": str(folder / "base"),
        "data": folder / "pairs.jsonl",
        "optimizer": OptimizerSettings(lr=1e-3, batch_size=8, epochs=2.0),
    }
    s = settings(loss, **(values | changes))
    return replace(s, run=RunSettings(out=out, threads=1, save_every=1))


def metrics(out: Path) -> list[dict[str, float]]:
    return read_rows(out / "metrics.jsonl")


def few_steps(folder: Path, s: DirectSettings) -> list[dict[str, float]]:
    """Return the metrics of 4 steps, made as `direct.train` makes them but without a run folder."""
    chat, policy = load_chat(s.model), load_policy(s.model).eval()
    rows = list(pair_rows(read_pairs(s.data), chat))
    core, loss = Core.of(policy, s.engine), LossSum.of(s)
    order = Order.of([row.sequences for row in rows], s.optimizer, seed=0)
    start = reference_logprobs(core, rows, order.micro_batches(0))
    learner = Learner.of(policy, order, s.optimizer)
    found = []
    for step, numbers in enumerate(order.batches()):
        state = state_of(learner.extra, step=step, seed=0)
        reference = start.of if loss.has_reference else None
        figures = backward(core, rows, numbers, reference, loss, state, s.engine)
        remember(learner.extra, figures.pairs, loss, state)
        found.append(figures.metrics() | learner.update(step))
    return found


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains_from_its_start(folder: Path, name: str) -> None:
    given = {"length_alpha": 0.02} if name == "r_dpo" else {}
    rows = few_steps(folder, run_settings(folder, folder / "run", name, **given))
    assert len(rows) == 4
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["grad_norm"] > 0
    if name in STARTS:
        assert rows[0]["preference_loss"] == pytest.approx(STARTS[name], rel=1e-5)
        assert rows[0]["chosen_logratio"] == rows[0]["rejected_logratio"] == 0.0
        assert rows[0]["accuracy"] == 0.0
    else:
        assert ("chosen_logratio" in rows[0]) == (name == "r_dpo")


@pytest.mark.parametrize("loss", ["0.8*sigmoid + 0.2*bco_pair", "simpo", "aot"])
def test_a_run_with_any_kind_of_loss_ends_with_a_model(
    folder: Path, tmp_path: Path, loss: str
) -> None:
    s = replace(run_settings(folder, tmp_path / "run", loss), held_out=folder / "pairs.jsonl")
    final = direct.train(s)
    rows = metrics(tmp_path / "run")
    assert len(rows) == 4
    assert (final / "model.safetensors").exists()
    assert (tmp_path / "run" / "held_out.json").exists()
    assert rows[-1]["margin"] > rows[0]["margin"]
    if loss.startswith("0.8"):
        assert rows[0]["preference_loss"] == pytest.approx(0.831777, abs=1e-6)


STATEFUL: dict[str, dict[str, object]] = {
    "beta_dpo": {"loss": "beta_dpo"},
    "bco_pair": {"loss": "0.5*sigmoid + 0.5*bco_pair"},
    "sampo": {"loss": "sampo"},
    "moving": {"loss": "sigmoid", "moving": MovingSettings(ref_every=2)},
    "moving with an adapter": {
        "loss": "sigmoid",
        "moving": MovingSettings(ref_every=1, ref_mix=1.0),
        "lora": LoraSettings(lora_rank=2, lora_dropout=0.1),
    },
}


@pytest.mark.parametrize("name", list(STATEFUL))
def test_a_run_with_state_resumes_to_the_same_bytes(
    folder: Path, tmp_path: Path, name: str
) -> None:
    changes = dict(STATEFUL[name])
    loss = str(changes.pop("loss"))
    direct.train(run_settings(folder, tmp_path / "whole", loss, **changes))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for gone in ("final", "checkpoints/step-000004"):
        shutil.rmtree(tmp_path / "cut" / gone)
    resumed = run_settings(folder, tmp_path / "cut", loss, **changes)
    direct.train(resumed)  # from the checkpoint after step 3
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()
    for file in (tmp_path / "whole" / "final").glob("*.safetensors"):
        assert (tmp_path / "cut" / "final" / file.name).read_bytes() == file.read_bytes()


def test_a_moved_reference_brings_the_log_ratios_back_to_0(folder: Path, tmp_path: Path) -> None:
    moving = MovingSettings(ref_every=2, ref_mix=1.0)
    direct.train(run_settings(folder, tmp_path / "run", "sigmoid", moving=moving))
    rows = metrics(tmp_path / "run")
    assert rows[1]["margin"] != 0
    assert rows[2]["margin"] == pytest.approx(0, abs=1e-5)  # just moved onto the policy
    assert abs(rows[2]["chosen_from_start"]) > 1e-3  # yet far from where it began
    assert rows[3]["margin"] != 0


def test_a_frozen_reference_and_a_mix_of_nearly_0_train_alike(folder: Path, tmp_path: Path) -> None:
    frozen = run_settings(folder, tmp_path / "frozen", "sigmoid")
    slow = MovingSettings(ref_every=1, ref_mix=1e-9)
    direct.train(frozen)
    direct.train(run_settings(folder, tmp_path / "slow", "sigmoid", moving=slow))
    for a, b in zip(metrics(tmp_path / "frozen"), metrics(tmp_path / "slow"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "beta_dpo"])
def test_a_loss_over_the_whole_step_refuses_micro_batches(
    folder: Path, tmp_path: Path, name: str
) -> None:
    engine = EngineSettings(micro_tokens=60)
    with pytest.raises(SettingsError, match=r"compares all pairs of a step.*micro_tokens 60"):
        direct.train(run_settings(folder, tmp_path / "run", name, engine=engine))


def test_a_loss_over_the_whole_step_refuses_a_step_of_one_pair(
    folder: Path, tmp_path: Path
) -> None:
    lone = OptimizerSettings(batch_size=5)  # 16 pairs: the last step has one
    with pytest.raises(SettingsError, match="at least 2"):
        direct.train(run_settings(folder, tmp_path / "run", "aot", optimizer=lone))


def test_a_wrong_start_stops_the_run() -> None:
    p = equal_step()
    loss = LossSum.of(settings("sigmoid"))
    check_step_0(p, loss.losses(p), loss)
    with pytest.raises(HealthError, match=r"is 0\.793147, not the 0\.693147"):
        check_step_0(p, loss.losses(p) + 0.1, loss)
    moved = replace(p, chosen=replace(p.chosen, reference=p.chosen.reference + 1e-3))
    with pytest.raises(HealthError, match="policy and reference differ by"):
        check_step_0(moved, loss.losses(moved), loss)
