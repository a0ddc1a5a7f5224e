"""Every setting changes the loss of every objective, or is refused by name."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from preftune.errors import SettingsError
from preftune.settings import options
from preftune.training.facts import facts_of
from preftune.training.loss_sum import LossSum, resolved
from preftune.training.loss_table import LOSSES
from preftune.training.objectives import OBJECTIVES, Options
from preftune.training.pair_inputs import PairInputs, Side, StepState
from preftune.training.settings import (
    DirectSettings,
    MovingSettings,
    RunSettings,
    VariantSettings,
)
from preftune.types import PreferencePair, assistant, make_prompt, user

B, W = 8, 6
NAMES = list(OBJECTIVES)

# Two legal values of every setting that a loss may read, neither of them a default.
TWO_VALUES: dict[str, tuple[object, object]] = {
    "beta": (0.2, 0.7),
    "flip_rate": (0.05, 0.3),
    "tau": (0.2, 0.6),
    "length_alpha": (0.03, -0.2),
    "ld_alpha": (0.2, 0.9),
    "divergence_alpha": (0.25, -1.0),
    "dpop_penalty": (5.0, 9.0),
    "simpo_gamma": (0.1, 1.5),
    "odds_weight": (0.2, 0.4),
    "slic_delta": (0.25, 3.0),
    "turn_gamma": (0.3, 0.95),
    "beta_scale": (0.2, 0.9),
    "keep_frac": (0.5, 1.0),
    "margin_decay": (0.1, 0.6),
    "nll_weight": (0.1, 0.5),
    "label": ("soft", "offset"),
    "weighting": ("none", "wpo"),
}
DIRECT = {"beta", "nll_weight", "label", "moving"}  # the others stand in VariantSettings


def settings(loss: str, **changes: object) -> DirectSettings:
    variant = {name: value for name, value in changes.items() if name not in DIRECT}
    if "r_dpo" in loss:
        variant = {"length_alpha": 0.05} | variant
    return DirectSettings(
        model="nowhere",
        data=Path("nowhere"),
        run=RunSettings(out=Path("nowhere")),
        loss=loss,
        variant=VariantSettings(**variant),  # type: ignore[arg-type]  # checked by the class
        **{name: value for name, value in changes.items() if name in DIRECT},  # type: ignore[arg-type]  # checked by the class
    )


def side(generator: torch.Generator, lengths: Tensor) -> Side:
    own = torch.arange(W) < lengths[:, None]
    policy = -torch.rand(B, W, generator=generator, dtype=torch.float64)
    reference = -torch.rand(B, W, generator=generator, dtype=torch.float64)
    return Side(
        logprobs=(policy * own).requires_grad_(),
        reference=reference * own,
        own=own,
        turn_of_token=(torch.arange(W) // 2).expand(B, W) * own,
        log_collisions=-torch.rand(B, W, generator=generator, dtype=torch.float64) * own,
    )


def random_pairs() -> PairInputs:
    """Return pairs with all that any loss may look at: unequal lengths, several turns, raters."""
    generator = torch.Generator().manual_seed(7)
    return PairInputs(
        chosen=side(generator, torch.tensor([1, 2, 3, 4, 5, 6, 3, 6])),
        rejected=side(generator, torch.tensor([6, 4, 3, 1, 2, 5, 6, 2])),
        weights=torch.ones(B, dtype=torch.float64),
        probability=0.5 + 0.5 * torch.rand(B, generator=generator, dtype=torch.float64),
        strength=torch.arange(B, dtype=torch.float64) % 4,
        seeds=tuple(range(B)),
        state=StepState(step=3, seed=1, delta=0.2),
    )


def outcome(s: DirectSettings) -> tuple[float, Tensor]:
    """Return the loss of a step with its NLL, and the gradient on every log-prob."""
    p, loss = random_pairs(), LossSum.of(s)
    nll = -p.chosen.logps.sum() / p.chosen.lengths.sum()
    total = loss.losses(p).mean() + loss.nll_weight * nll
    gradient = torch.autograd.grad(total, [p.chosen.logprobs, p.rejected.logprobs])
    assert torch.isfinite(total)
    return total.item(), torch.cat(gradient)


def changes_or_is_refused(loss: str, option: str) -> bool:
    """Return whether the option is read; it must be refused by its name if it is not."""
    first, second = TWO_VALUES[option]
    try:
        a = outcome(settings(loss, **{option: first}))
        b = outcome(settings(loss, **{option: second}))
    except SettingsError as error:
        assert option in str(error)
        return False
    assert a[0] != pytest.approx(b[0], abs=1e-12) or not torch.allclose(a[1], b[1])
    return True


def test_every_setting_of_a_loss_is_covered_here() -> None:
    variant = {field.name for field in fields(VariantSettings)} - {"offset_per_strength"}
    assert set(TWO_VALUES) == variant | {"beta", "nll_weight", "label"}
    assert {field.name for field in fields(Options)} == set(TWO_VALUES) - {
        "nll_weight",
        "label",
        "weighting",
    }


@pytest.mark.parametrize("option", list(TWO_VALUES))
@pytest.mark.parametrize("loss", NAMES)
def test_every_option_changes_the_loss_or_is_refused(loss: str, option: str) -> None:
    read = changes_or_is_refused(loss, option)
    known = LOSSES[loss]
    if option == "nll_weight":
        assert read
    elif option == "label":
        assert read == (known.gives == "logit")
    elif option == "weighting":
        assert read == (known.scope != "sorted step")
    else:
        assert read == (option in known.reads)


@pytest.mark.parametrize("option", list(TWO_VALUES))
def test_every_option_changes_a_weighted_sum_or_is_refused(option: str) -> None:
    loss = "0.8*sigmoid + 0.2*bco_pair"
    assert changes_or_is_refused(loss, option) == (option in {"beta", "nll_weight", "weighting"})


def test_the_weights_of_a_sum_change_it() -> None:
    first = outcome(settings("0.8*sigmoid + 0.2*bco_pair"))
    assert first[0] != pytest.approx(outcome(settings("0.7*sigmoid + 0.3*bco_pair"))[0])


@pytest.mark.parametrize("label", ["soft", "offset"])
@pytest.mark.parametrize("loss", [name for name in NAMES if LOSSES[name].gives == "logit"])
def test_labels_of_raters_reach_every_logit(loss: str, label: str) -> None:
    hard, other = outcome(settings(loss)), outcome(settings(loss, label=label))
    assert hard[0] != pytest.approx(other[0])


def test_offset_per_strength_changes_the_loss_or_is_refused() -> None:
    small = outcome(settings("sigmoid", label="offset", offset_per_strength=0.1))
    large = outcome(settings("sigmoid", label="offset", offset_per_strength=0.4))
    assert small[0] < large[0]
    with pytest.raises(SettingsError, match="offset_per_strength changes nothing"):
        settings("sigmoid", offset_per_strength=0.1)


def test_the_refusal_names_the_losses_that_read_a_setting() -> None:
    with pytest.raises(SettingsError, match=r"dpop_penalty changes nothing.*read by dpop\."):
        LossSum.of(settings("sigmoid", dpop_penalty=5.0))
    with pytest.raises(SettingsError, match="ipo, ipo_sum, discopop"):
        LossSum.of(settings("sigmoid", tau=0.1))


def test_a_flip_rate_beside_soft_labels_is_refused() -> None:
    with pytest.raises(SettingsError, match="label soft changes nothing in loss cdpo"):
        LossSum.of(settings("cdpo", flip_rate=0.1, label="soft"))
    with pytest.raises(SettingsError, match="flip_rate changes nothing"):
        LossSum.of(settings("sigmoid", flip_rate=0.1, label="soft"))


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        ("sigmoid", {"beta": 0.0}),
        ("cdpo", {"flip_rate": 0.5}),
        ("exo", {"flip_rate": 0.0}),
        ("ipo", {"tau": -1.0}),
        ("ld_dpo", {"ld_alpha": 1.5}),
        ("alpha_divergence", {"divergence_alpha": 1.0}),
        ("dpop", {"dpop_penalty": -1.0}),
        ("simpo", {"simpo_gamma": -0.5}),
        ("slic", {"slic_delta": -1.0}),
        ("dmpo", {"turn_gamma": 1.5}),
        ("beta_dpo", {"keep_frac": 0.0}),
        ("beta_dpo", {"margin_decay": 1.0}),
        ("beta_dpo", {"beta_scale": -1.0}),
        ("sigmoid", {"nll_weight": -0.1}),
    ],
)
def test_a_value_out_of_range_is_refused_before_the_run(
    loss: str, changes: dict[str, object]
) -> None:
    word = next(iter(changes)).rsplit("_", maxsplit=1)[-1]
    with pytest.raises(SettingsError, match=rf"loss {loss}: .*{word}.* is "):
        LossSum.of(settings(loss, **changes))


def test_r_dpo_must_be_told_the_slope_of_length() -> None:
    s = DirectSettings(model="m", data=Path("d"), run=RunSettings(out=Path("o")), loss="r_dpo")
    with pytest.raises(SettingsError, match=r"length_alpha of r_dpo has no usual value.*--length"):
        LossSum.of(s)


def test_a_sum_whose_terms_have_other_defaults_must_be_told() -> None:
    with pytest.raises(SettingsError, match="beta of sigmoid, simpo has another default in each"):
        LossSum.of(settings("sigmoid + simpo"))
    assert LossSum.of(settings("sigmoid + simpo", beta=1.0)).options.beta == 1.0


def test_a_moving_reference_is_refused_where_there_is_none() -> None:
    moving = MovingSettings(ref_every=10)
    with pytest.raises(SettingsError, match="ref_every changes nothing in loss simpo"):
        LossSum.of(settings("simpo", moving=moving))
    assert resolved(settings("sigmoid", moving=moving)).moving.ref_mix == 0.6
    with pytest.raises(SettingsError, match="ref_mix changes nothing"):
        MovingSettings(ref_mix=0.5)
    with pytest.raises(SettingsError, match=r"ref_mix is 1\.5"):
        MovingSettings(ref_every=1, ref_mix=1.5)


@pytest.mark.parametrize("loss", NAMES)
def test_resolved_settings_show_every_default_and_resolve_to_themselves(loss: str) -> None:
    s = resolved(settings(loss))
    shown = {option: getattr(s.variant, option, None) for option in LOSSES[loss].reads}
    shown |= {"beta": s.beta} if "beta" in LOSSES[loss].reads else {}
    assert None not in shown.values()
    assert s.nll_weight is not None
    assert resolved(s) == s
    assert LossSum.of(s) == LossSum.of(settings(loss))


def test_help_tells_the_true_defaults() -> None:
    for option in options(VariantSettings):
        for name, value in re.findall(r"(\w+) \(([\d.]+)\)", option.help):
            if name in OBJECTIVES:
                assert LOSSES[name].reads[option.name] == float(value), option.name
        for loss in re.findall(r"^(\w+):", option.help):
            (told,) = re.findall(r"\(([\d.]+)\)", option.help) or ("",)
            default = LOSSES[loss].reads[option.name]
            assert default == (float(told) if told else None), option.name


@pytest.mark.parametrize("loss", NAMES)
def test_the_page_on_training_has_the_loss_with_its_settings(loss: str, root: Path) -> None:
    page = (root / "docs" / "training.md").read_text()
    (line,) = (line for line in page.splitlines() if re.match(rf"\|.*`{loss}`.*\| .*`--", line))
    for option in LOSSES[loss].reads:
        assert f"`--{option.replace('_', '-')}`" in line


def pair(**changes: object) -> PreferencePair:
    values: dict[str, object] = {
        "id": "p",
        "prompt": make_prompt(user("question ?")),
        "chosen": (assistant("yes ."),),
        "rejected": (assistant("no ."),),
    }
    return PreferencePair(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def test_a_setting_that_the_pairs_give_no_cause_for_is_refused() -> None:
    plain = [pair(), pair()]
    for changes, said in (
        ({"label": "soft"}, "no pair has a probability below 1"),
        ({"label": "offset"}, "no pair has a strength above 0"),
    ):
        with pytest.raises(SettingsError, match=said):
            LossSum.of(settings("sigmoid", **changes)).check_pairs(facts_of(plain))
    with pytest.raises(SettingsError, match="every response is one turn"):
        LossSum.of(settings("dmpo")).check_pairs(facts_of(plain))
    with pytest.raises(SettingsError, match="sorts the step"):
        LossSum.of(settings("aot")).check_pairs(facts_of([pair(), pair(weight=2.0)]))


def test_pairs_with_the_cause_are_taken() -> None:
    LossSum.of(settings("sigmoid", label="soft")).check_pairs(facts_of([pair(probability=0.7)]))
    LossSum.of(settings("sigmoid", label="offset")).check_pairs(facts_of([pair(strength=2)]))
    two = (assistant("wait ."), user("and ?"), assistant("yes ."))
    LossSum.of(settings("dmpo")).check_pairs(facts_of([pair(chosen=two)]))
    LossSum.of(settings("aot")).check_pairs(facts_of([pair(weight=2.0), pair(weight=2.0)]))
