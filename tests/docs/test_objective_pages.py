"""The pages of docs/objectives: one per objective, and every number, range and command on them."""

import dataclasses
import math
import re
import shlex
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from preftune.cli.reference import commands
from preftune.errors import SettingsError
from preftune.losses import listwise, pairwise
from preftune.losses.tokens import wpo_weight
from preftune.settings import build, flat, options
from preftune.training.health import CHECKS
from preftune.training.loss_sum import LossSum, resolved
from preftune.training.loss_table import LOSSES
from preftune.training.method_settings import (
    ListwiseSettings,
    RewardObjective,
    RewardSettings,
    UnpairedSettings,
)
from preftune.training.objectives import OBJECTIVES
from preftune.training.pair_inputs import PairInputs, Side, StepState
from preftune.training.settings import DirectSettings
from preftune.training.unpaired import row_losses

FOLDER = Path(__file__).parents[2] / "docs" / "objectives"
METHODS: dict[str, type[Any]] = {
    "direct": DirectSettings,
    "unpaired": UnpairedSettings,
    "listwise": ListwiseSettings,
    "reward": RewardSettings,
}
ADDED = {"label_soft", "label_offset", "nll", "wpo", "moving_reference", "sums"}
UNPAIRED = set(get_args(get_type_hints(UnpairedSettings)["loss"]))
REWARD = set(get_args(RewardObjective))
NAMES = sorted([*OBJECTIVES, *ADDED, *UNPAIRED, "pl_dpo", *REWARD])
ON_PAIRS = sorted([*OBJECTIVES, *ADDED - {"wpo"}])
BASE = {"model": "sft", "data": "rows.jsonl", "out": "run"}
INDEX = (FOLDER / "README.md").read_text()


# The page


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One line of the table of settings."""

    name: str
    context: dict[str, str]  # other flags it needs beside it
    default: str
    legal: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a page says, ready to be checked."""

    name: str
    text: str
    facts: dict[str, str]
    settings: list[Setting]

    @property
    def method(self) -> str:
        return shlex.split(self.facts["command"].strip("`"))[2]

    @property
    def flags(self) -> dict[str, str]:
        return flags_of(self.facts["command"].strip("`"))

    @property
    def worked(self) -> tuple[str, dict[str, str], list[float]]:
        """Return the worked example: on what, with which flags, and the numbers it gives."""
        before, _, after = self.facts["worked example"].rpartition(": ")
        given = re.search(r"`(--[^`]*)`", before)
        flags = flags_of(given.group(1)) if given else {}
        return before.split(" with ")[0], flags, numbers_in(after)

    @property
    def start(self) -> float | None:
        found = re.match(r"\d\.?\d*", self.facts["step 0"])
        return numbers_in(self.facts["step 0"])[0] if found else None


def flags_of(command: str) -> dict[str, str]:
    """Return the flags of a command line under the names of their settings."""
    words = shlex.split(command.replace("\\\n", " "))
    return {
        word[2:].replace("-", "_"): words[place + 1]
        for place, word in enumerate(words)
        if word.startswith("--")
    }


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+|-?\d+", text)]


def trials(legal: str) -> list[tuple[float, bool]]:
    """Return numbers at and beyond the bounds of a range such as `> 0 and <= 1`: are they legal?"""
    if legal == "any":
        return [(-1000.0, True), (1000.0, True)]
    found = []
    for sign, equal, bound in re.findall(r"([<>])(=?) (\S+)", legal):
        beyond = float(bound) + (0.01 if sign == "<" else -0.01)
        found += [(float(bound), bool(equal)), (beyond, False)]
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def page_of(name: str) -> Page:
    text = (FOLDER / f"{name}.md").read_text()
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    settings = []
    for flag, default, legal, _ in (row for row in rows if row[0].startswith("`--")):
        *context, last = flag.strip("`").split()
        setting = Setting(
            name=last[2:].replace("-", "_"),
            context=flags_of(" ".join(context)),
            default=default,
            legal=legal.strip("`"),
        )
        settings.append(setting)
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    return Page(name=name, text=text, facts=facts, settings=settings)


def settings_of(page: Page, extra: dict[str, Any]) -> Any:
    """Return the settings of the page's command with more flags, loss and all checked."""
    made = build(METHODS[page.method], BASE | page.flags | extra, where=page.name)
    return resolved(made) if isinstance(made, DirectSettings) else made


# The examples, as the index has them


def padded(rows: list[list[Any]]) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def side(policy: list[str], reference: list[str], *, at_start: bool) -> Side:
    """Return one side of the pairs from its cells; policy == reference at the start."""
    turns = [[numbers_in(turn) for turn in cell.split("/")] for cell in reference]
    frozen = padded([numbers_in(cell) for cell in reference]).double()
    return Side(
        logprobs=frozen if at_start else padded([numbers_in(cell) for cell in policy]).double(),
        reference=frozen,
        own=padded([[True] * len(numbers_in(cell)) for cell in reference]),
        turn_of_token=padded([[n for n, turn in enumerate(row) for _ in turn] for row in turns]),
    )


def example(name: str, *, at_start: bool = False) -> PairInputs:
    """Return the pairs of an example of the index."""
    rows = [cells(line)[1:] for line in INDEX.splitlines() if line.startswith(f"| {name} |")]
    assert rows, f"the index has no example {name}"
    policy_w, policy_l, frozen_w, frozen_l = (list(column) for column in zip(*rows, strict=True))
    ones = torch.ones(len(rows), dtype=torch.float64)
    return PairInputs(
        chosen=side(policy_w, frozen_w, at_start=at_start),
        rejected=side(policy_l, frozen_l, at_start=at_start),
        weights=ones,
        probability=0.8 * ones,
        strength=ones,
        seeds=tuple(range(len(rows))),
        state=StepState(),
    )


# Pages and objectives


def test_every_objective_has_a_page_and_every_page_an_objective() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README") == NAMES


def test_the_index_says_what_the_pages_say() -> None:
    rows = {}
    for line in re.findall(r"^\| \[[\w-]+\]\([\w-]+\.md\) \|.*$", INDEX, flags=re.MULTILINE):
        link, data, reference, _, start = cells(line)
        rows[link[1:].partition("]")[0]] = (data, reference, start)
    pages = [page_of(name) for name in NAMES]
    said = {p.name: (p.facts["data"], p.facts["reference"], p.facts["step 0"]) for p in pages}
    assert rows == said


@pytest.mark.parametrize("name", ["README", *NAMES])
def test_every_link_of_an_objective_page_leads_to_a_file(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert not [link for link in links if not (FOLDER / link).exists()]
    tests = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert not [path for path in tests if not (FOLDER.parents[1] / path).exists()]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_page_says_whether_its_objective_has_a_reference(name: str) -> None:
    assert page_of(name).facts["reference"] == ("yes" if LOSSES[name].has_reference else "no")


@pytest.mark.parametrize("name", ["label_soft", "label_offset"])
def test_a_label_page_lists_the_losses_that_take_a_label(name: str) -> None:
    named = set(re.findall(r"`(\w+)`", page_of(name).facts["works with"]))
    assert named == {name for name, known in LOSSES.items() if known.gives == "logit"}


@pytest.mark.parametrize("name", NAMES)
def test_the_warnings_of_a_page_exist(name: str) -> None:
    (line,) = re.findall(r"\*\*The run warns of\*\*(.*?)\n\n", page_of(name).text, flags=re.DOTALL)
    said = re.split("[.;]", " ".join(line.split()))[0]
    assert set(re.findall(r"`([\w ]+)`", said)) <= {check.name for check in CHECKS}


def test_the_index_explains_every_warning() -> None:
    assert set(re.findall(r"\n\| `([\w ]+)` \| ", INDEX)) == {check.name for check in CHECKS}


# Settings and commands


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_page_lists_the_settings_that_its_objective_reads(name: str) -> None:
    page = page_of(name)
    read = set(LOSSES[name].reads)
    if LossSum.of(settings_of(page, {})).nll_weight:
        read |= {"nll_weight"}
    assert {setting.name for setting in page.settings} == read


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_of_a_page_are_those_of_the_settings(name: str) -> None:
    page = page_of(name)
    plain = {option.name: option.default for option in options(METHODS[page.method])}
    for setting in page.settings:
        used = flat(settings_of(page, setting.context))
        default = (plain if setting.name in page.flags else used)[setting.name]
        if isinstance(default, int | float):
            assert float(Fraction(setting.default)) == pytest.approx(default), setting
        else:
            assert setting.default == str(default).lower(), setting


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_takes_what_its_page_calls_legal_and_nothing_else(name: str) -> None:
    page = page_of(name)
    for setting in page.settings:
        kind = next(o.type for o in options(METHODS[page.method]) if o.name == setting.name)
        if "," in setting.legal:
            assert setting.legal.split(", ") == list(get_args(kind))
            continue
        for value, legal in trials(setting.legal):
            extra = setting.context | {setting.name: int(value) if kind is int else value}
            if legal:
                settings_of(page, extra)
            elif extra[setting.name] == value:
                with pytest.raises(SettingsError):
                    settings_of(page, extra)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_page_is_one_that_runs(name: str) -> None:
    page = page_of(name)
    known: dict[str, Any] = dict(commands())
    (block,) = re.findall(r"```\n(preftune train .*?)\n```", page.text, flags=re.DOTALL)
    words = shlex.split(block.replace("\\\n", " "))
    known[" ".join(words[:3])].make_context("train", words[3:])  # refuses unknown flags
    settings_of(page, flags_of(block))
    assert words[2] == page.method


# Numbers


@pytest.mark.parametrize("name", ON_PAIRS)
def test_the_worked_example_of_a_pair_loss_is_right(name: str) -> None:
    page = page_of(name)
    what, flags, (said, *with_nll) = page.worked
    loss = LossSum.of(settings_of(page, flags))
    moved = name == "moving_reference"  # with mix 1 the reference then is the policy
    value = loss.losses(example(what, at_start=moved)).mean().item()
    assert value == pytest.approx(said, abs=6e-7)
    policy = example(what).chosen
    nll = -policy.logps.sum() / policy.counts.sum()
    assert bool(with_nll) == (loss.nll_weight > 0 and what == "pair A" and name != "sums")
    for total in with_nll:
        assert value + loss.nll_weight * nll.item() == pytest.approx(total, abs=6e-7)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_the_step_0_of_a_pair_loss_is_right(name: str) -> None:
    page = page_of(name)
    loss, p = LossSum.of(settings_of(page, page.worked[1])), example(page.worked[0], at_start=True)
    start = loss.start(p)
    assert (start is None) == (page.start is None)
    for value in () if start is None else (start, loss.losses(p)):
        assert value.mean().item() == pytest.approx(page.start, abs=6e-7)


def test_the_wpo_example_is_right() -> None:
    what, _, (said,) = page_of("wpo").worked
    collision = math.log(0.5**2 + 0.3**2 + 0.2**2)
    probabilities = torch.tensor([[0.5, 0.2, 1.0], [0.3, 0.3, 0.5]], dtype=torch.float64)
    weights = wpo_weight(
        logprobs=probabilities.log(),
        log_collision=torch.full_like(probabilities, collision),
        mask=torch.tensor([[True, True, False], [True, True, True]]),
    )
    before = page_of("wpo").facts["worked example"].rpartition(": ")[0]
    assert what == "pair A"
    assert weights.tolist() == pytest.approx(numbers_in(before), abs=6e-7)
    plain = LossSum.of(settings_of(page_of("sigmoid"), {})).losses(example("pair A"))
    assert (plain * weights.prod()).item() == pytest.approx(said, abs=6e-7)


@pytest.mark.parametrize("name", sorted(UNPAIRED))
def test_the_numbers_of_an_unpaired_page_are_right(name: str) -> None:
    page = page_of(name)
    p, desirable = example("pair A"), torch.tensor([True, False])
    point = numbers_in(page.facts["worked example"].rpartition(": ")[0])[-1]
    s = settings_of(page, {})

    def mean(logratio: Tensor, point: float) -> float:
        return row_losses(logratio, desirable, torch.tensor(point).double(), s).mean().item()

    both = torch.cat([p.chosen.logratio, p.rejected.logratio])
    assert mean(both, point) == pytest.approx(page.worked[2][0], abs=6e-7)
    assert mean(torch.zeros_like(both), 0.0) == pytest.approx(page.start, abs=6e-7)


def two(scores: Tensor) -> dict[str, Tensor]:
    return {"chosen_rewards": scores[:, 0], "rejected_rewards": scores[:, 1]}


def ranked(scores: Tensor) -> dict[str, Tensor]:
    ranks = torch.arange(1, scores.shape[-1] + 1).expand_as(scores)
    return {"scores": scores, "ranks": ranks, "mask": torch.ones_like(ranks, dtype=torch.bool)}


def test_the_numbers_of_the_ranked_page_are_right() -> None:
    page = page_of("pl_dpo")
    (line,) = re.findall(r"\*list\* is .*? log ratios ([-\d., ]+);", " ".join(INDEX.split()))
    logratio = torch.tensor([numbers_in(line)], dtype=torch.float64)
    ranks, mask = ranked(logratio)["ranks"], ranked(logratio)["mask"]
    beta = settings_of(page, page.worked[1]).beta
    for scale, said in ((1.0, page.worked[2][0]), (0.0, page.start)):
        loss = listwise.pl_dpo_loss(logratio=scale * logratio, ranks=ranks, mask=mask, beta=beta)
        assert loss.item() == pytest.approx(said, abs=6e-7)


def centred(scores: Tensor) -> Tensor:
    penalty = pairwise.centring_penalty(**two(scores))
    return pairwise.bradley_terry_loss(**two(scores)) + 0.01 * penalty


def best_of(scores: Tensor) -> Tensor:
    mask = ranked(scores)["mask"]
    return listwise.best_of_k_loss(scores=scores, best=torch.tensor([0]), mask=mask)


def with_ties(loss: Callable[..., Tensor], tied: bool, **tie: float) -> Callable[[Tensor], Tensor]:
    parameter = {name: torch.tensor(value).double() for name, value in tie.items()}
    return lambda scores: loss(**two(scores), tied=torch.tensor([tied]), **parameter)


OF_SCORES: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "bradley-terry": [lambda scores: pairwise.bradley_terry_loss(**two(scores)), centred],
    "davidson": [with_ties(pairwise.davidson_loss, tied, nu=1.0) for tied in (False, True)],
    "rao-kupper": [with_ties(pairwise.rao_kupper_loss, tied, theta=2.0) for tied in (False, True)],
    "plackett-luce": [lambda scores: listwise.plackett_luce_loss(**ranked(scores))],
    "all-pairs": [lambda scores: listwise.all_pairs_loss(**ranked(scores))],
    "best-of-k": [best_of],
}


@pytest.mark.parametrize("name", sorted(REWARD))
def test_the_numbers_of_a_reward_page_are_right(name: str) -> None:
    page = page_of(name)
    before, _, said = page.facts["worked example"].rpartition(": ")
    scores = torch.tensor([numbers_in(re.split(", (?:nu|theta)", before)[0])])
    for loss, number in zip(OF_SCORES[name], numbers_in(said), strict=True):
        assert loss(scores.double()).item() == pytest.approx(number, abs=1e-6)
    equal = OF_SCORES[name][0](torch.zeros_like(scores)).item()
    assert equal == pytest.approx(page.start, abs=1e-6)
