"""The part of an audit that needs a model: labels that models doubt, and pairs far off-policy.

Each pair is scored by a reward model that never saw its prompt; each response is read by the model
that will be tuned, beside replies of its own. Scores are kept in the output folder under a hash of
all they depend on, so a run that was stopped goes on where it was.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray

from preftune.datasets import dataset_hash, write_records
from preftune.datasets.audit_material import LinedPair
from preftune.datasets.audit_noise import NoiseFit, fit_noise, model_noise_findings
from preftune.datasets.audit_parts import (
    AuditSection,
    AuditTable,
    Bars,
    Estimate,
    bar,
    number,
    share_finding,
)
from preftune.engine.modes import evaluating
from preftune.errors import DataError
from preftune.files import atomic_open, make_folder, read_json, write_json
from preftune.inference.generate import generate
from preftune.inference.score import score_pairs, sequence_logps
from preftune.models.chat import Chat, load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.heads import load_reward_model
from preftune.models.load import load_backbone, load_policy, read_config
from preftune.progress import progress
from preftune.responses.generator import GenerateSettings
from preftune.stats.bootstrap import mean_interval
from preftune.types import PreferencePair

Array = NDArray[np.float64]
SUSPICIOUS = "suspicious.jsonl"
FEWEST_SUSPECTS = 20
FAR = 1.0  # nats per token: each token e times less likely than the model's own
PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditModelSettings:
    """The models of an audit."""

    model: Annotated[str, Meta(description="SFT model folder: base of folds, and reference.")]
    folds: Annotated[int, Meta(ge=2, description="Reward models, each blind to its own part.")] = 5
    lr: Annotated[float, Meta(gt=0, description="Peak learning rate of the fold models.")] = 1e-4
    epochs: Annotated[float, Meta(gt=0, description="Passes of a fold model over its part.")] = 1.0
    batch_size: Annotated[int, Meta(ge=1, description="Pairs per step of a fold model.")] = 16
    prompts: Annotated[int, Meta(ge=2, description="Prompts the reference answers itself.")] = 200
    max_new_tokens: Annotated[int, Meta(ge=1, description="Longest reply of its own.")] = 128
    seed: Annotated[int, Meta(ge=0, description="Of parts, heads, prompts and replies.")] = 0


class TrainReward(Protocol):
    """Trains a reward model and returns its folder; called again, goes on with what it began."""

    def __call__(self, settings: AuditModelSettings, *, data: Path, out: Path) -> Path:
        """Train on the pairs of `data` in the run folder `out`."""


def model_sections(
    pairs: Sequence[LinedPair], s: AuditModelSettings, *, out: Path, train: TrainReward
) -> list[AuditSection]:
    """Return the sections that need a model, and write suspicious.jsonl into `out`.

    Raises:
        PreftuneError: the model cannot be used, or there are too few prompts for the folds.
    """
    chat = load_chat(s.model)
    fit, margins = _fitting(pairs, chat), np.full(len(pairs), np.nan)
    scored = [pairs[place] for place in fit]
    margins[fit] = fold_margins(scored, s, out=out, train=train)
    left_out = len(pairs) - len(fit)
    section, noise = noise_section(scored, margins[fit], left_out=left_out)
    write_suspicious(out / SUSPICIOUS, scored, margins[fit], noise)
    return [section, off_policy_section(scored, chat, s, out=out)]


def fold_margins(
    pairs: Sequence[LinedPair], s: AuditModelSettings, *, out: Path, train: TrainReward
) -> Array:
    """Return reward of chosen - reward of rejected [N] by a model trained on other prompts.

    Scores of each model have mean 0 and standard deviation 1 over its own training responses.

    Raises:
        DataError: fewer than two prompts per fold.
    """
    fold = folds_of([lined.prompt for lined in pairs], s.folds, seed=s.seed)
    records = [lined.pair for lined in pairs]
    folder = out / "folds" / _key(records, s, load_backbone(s.model), load_chat(s.model))
    make_folder(folder)
    margins = np.zeros(len(pairs))
    for part in range(s.folds):  # each training shows its own progress
        own = np.flatnonzero(fold == part)
        rest = [records[place] for place in np.flatnonzero(fold != part)]
        kept = folder / f"margins-{part}.json"
        if not kept.is_file():
            held_out = [records[place] for place in own]
            found = _fold(rest, held_out, s, work=folder / f"fold-{part}", train=train)
            write_json(kept, found)
        margins[own] = read_json(kept)
    return margins


def folds_of(prompts: Sequence[str], folds: int, *, seed: int) -> NDArray[np.int64]:
    """Return the fold of each pair [N]; pairs of one prompt share theirs, folds are of like size.

    Raises:
        DataError: fewer than two prompts per fold.
    """
    distinct = _shuffled(prompts, seed=seed)
    if len(distinct) < 2 * folds:
        raise DataError(
            f"--folds {folds}: {len(distinct)} prompts. Give fewer folds, or two prompts per fold."
        )
    place = {prompt: number % folds for number, prompt in enumerate(distinct)}
    return np.array([place[prompt] for prompt in prompts], dtype=np.int64)


def noise_section(
    pairs: Sequence[LinedPair], margins: Array, *, left_out: int = 0
) -> tuple[AuditSection, NoiseFit]:
    """Return what the margins of blind models say of the labels, and the fit behind it.

    Raises:
        DataError: fewer than 20 pairs.
    """
    fit = fit_noise(margins, [lined.prompt for lined in pairs])
    right = float(np.mean(margins > 0))
    text = (
        "Each pair was scored by a reward model that never saw its prompt. The estimate is the "
        "share of labels such models still contradict where they are surest: flipped labels, and "
        "whatever the models are confidently wrong about. The worst rows are in suspicious.jsonl. "
        f"The models agree with {right:.1%} of the labels."
    )
    if left_out:
        text += f" {left_out:,} pairs are too long for the model and were not scored."
    section = AuditSection(
        title="Wrong labels: models that never saw them",
        text=text,
        findings=model_noise_findings(fit),
    )
    return section, fit


def write_suspicious(path: Path, pairs: Sequence[LinedPair], margins: Array, fit: NoiseFit) -> None:
    """Write the pairs that are more likely flipped than not, 20 at least, the likeliest first."""
    order = np.argsort(margins, kind="stable")
    count = max(FEWEST_SUSPECTS, int((fit.wrong > 0.5).sum()))
    with atomic_open(path) as file:
        for place in order[:count].tolist():
            lined = pairs[place]
            row = {
                "line": lined.line,
                "id": lined.pair.id,
                "flipped": round(float(fit.wrong[place]), 4),
                "margin": round(float(margins[place]), 4),
                "raters": lined.pair.provenance.raters,
            }
            file.write(msgspec.json.encode(row) + b"\n")


def off_policy_section(
    pairs: Sequence[LinedPair], chat: Chat, s: AuditModelSettings, *, out: Path
) -> AuditSection:
    """Return how far the responses are from what the model would say itself, per token.

    One pair on each of some prompts is read under the model, beside a reply of its own drawn at
    temperature 1 and its likeliest one; intervals are over prompts.
    """
    title = "How far the pairs are from the model"
    if read_config(s.model).kind == "encoder":
        return AuditSection(title=title, text="The model is an encoder and writes no replies.")
    model = load_policy(s.model)
    one_each = _one_per_prompt(pairs, chat, s)
    if len(one_each) < 2:
        text = "Fewer than two prompts leave room for a reply. Lower --max-new-tokens."
        return AuditSection(title=title, text=text)
    kept = out / "folds" / f"off-policy-{_key([p.pair for p in one_each], s, model, chat)}.json"
    if not kept.is_file():
        make_folder(kept.parent)
        write_json(kept, _per_token(model, chat, one_each, s))
    per_token: dict[str, list[float]] = read_json(kept)
    return _off_policy(title, per_token)


def _off_policy(title: str, per_token: dict[str, list[float]]) -> AuditSection:
    levels = {name: _mean(values) for name, values in per_token.items()}
    own = np.array(per_token["own sample"])
    findings = []
    for side in ("chosen", "rejected"):
        gap = _mean((own - np.array(per_token[side])).tolist())
        findings.append(
            share_finding(
                f"off_policy_{side}",
                gap,
                what=f"How much less likely {side} responses are than the model's own samples",
                verdict="look" if gap.low > FAR else "ok",
                fix="Sample from this model and label that, or teach it the chosen ones first: "
                "direct losses learn little from responses it would never give.",
                shown=number(gap, digits=2, unit="nats per token"),
            )
        )
    rows = tuple((name, number(level, digits=2)) for name, level in levels.items())
    header = ("response", "log-prob per token, 95 % interval")
    return AuditSection(
        title=title,
        text=f"One pair on each of {len(own):,} prompts. At 0 a token is certain; at -1 it has a "
        "probability of .37.",
        findings=tuple(findings),
        tables=(AuditTable(title="Under the model", header=header, rows=rows),),
        bars=(
            Bars(
                name="off-policy",
                title="Log-prob per token under the model",
                unit="nats per token",
                reference=levels["own sample"].value,
                rows=tuple(bar(name, level) for name, level in levels.items()),
            ),
        ),
    )


def _fold(
    train_on: list[PreferencePair],
    held_out: list[PreferencePair],
    s: AuditModelSettings,
    *,
    work: Path,
    train: TrainReward,
) -> list[float]:
    """Train on some pairs and return the margins of others; the run folder is deleted after."""
    data = work.with_suffix(".jsonl")
    write_records(data, train_on)
    reward_model = load_reward_model(train(s, data=data, out=work))
    _to_accelerator(reward_model)
    chosen, rejected = score_pairs(reward_model, load_chat(s.model), held_out)
    shutil.rmtree(work)
    data.unlink()
    return [good - bad for good, bad in zip(chosen, rejected, strict=True)]


def _fitting(pairs: Sequence[LinedPair], chat: Chat) -> list[int]:
    """Return the places of the pairs whose responses the model can read whole."""
    limit = chat.max_length
    if limit is None:
        return list(range(len(pairs)))
    asked = [
        (lined.pair.prompt, side)
        for lined in pairs
        for side in (lined.pair.chosen, lined.pair.rejected)
    ]
    lengths = [len(sequence) for sequence in chat.encode_all(asked, train_on="last")]
    return [i for i in range(len(pairs)) if max(lengths[2 * i : 2 * i + 2]) <= limit]


def _one_per_prompt(
    pairs: Sequence[LinedPair], chat: Chat, s: AuditModelSettings
) -> list[LinedPair]:
    """Return the first pair of each of `s.prompts` prompts that leave room for a reply."""
    first: dict[str, LinedPair] = {}
    for lined in pairs:
        first.setdefault(lined.prompt, lined)
    found: list[LinedPair] = []
    for prompt in _shuffled(first, seed=s.seed):
        length = len(chat.prompt_ids(first[prompt].pair.prompt))
        if chat.max_length is None or length + s.max_new_tokens <= chat.max_length:
            found.append(first[prompt])
        if len(found) == s.prompts:
            break
    return found


def _per_token(
    model: Any, chat: Chat, pairs: Sequence[LinedPair], s: AuditModelSettings
) -> dict[str, list[float]]:
    """Return the mean log-prob per token of each response, chosen to the model's own."""
    _to_accelerator(model)
    found: dict[str, list[float]] = {
        "chosen": [],
        "rejected": [],
        "own sample": [],
        "own likeliest": [],
    }
    with evaluating(model), progress("reading under the model", len(pairs)) as advance:
        for start in range(0, len(pairs), PROMPTS_AT_ONCE):
            some = [lined.pair for lined in pairs[start : start + PROMPTS_AT_ONCE]]
            for name, side in (("chosen", "chosen"), ("rejected", "rejected")):
                rows = [chat.encode(pair.prompt, getattr(pair, side)) for pair in some]
                logps, lengths = sequence_logps(model, rows)
                found[name] += (logps / lengths.clamp_min(1)).tolist()
            for name, temperature in (("own sample", 1.0), ("own likeliest", 0.0)):
                found[name] += _own(model, chat, some, s, temperature, start)
            advance(len(some))
    return found


def _own(
    model: Any,
    chat: Chat,
    pairs: Sequence[PreferencePair],
    s: AuditModelSettings,
    temperature: float,
    start: int,
) -> list[float]:
    drawn = generate(
        model,
        [chat.prompt_ids(pair.prompt) for pair in pairs],
        GenerateSettings(max_new_tokens=s.max_new_tokens, temperature=temperature),
        seeds=[s.seed * 1_000_003 + start + place for place in range(len(pairs))],
        end_ids=chat.end_ids,
        pad_id=chat.pad_id,
    )
    return [float(np.mean(reply.logprobs)) for reply in drawn]


def _mean(values: Sequence[float]) -> Estimate:
    interval = mean_interval(values, range(len(values)))
    return Estimate(
        value=float(np.mean(values)), low=interval.low, high=interval.high, n=len(values)
    )


def _key(records: Sequence[PreferencePair], s: AuditModelSettings, model: Any, chat: Chat) -> str:
    """Return a name for what comes of these pairs, this model and these settings."""
    settings = msgspec.json.encode(asdict(s) | {"model": model_fingerprint(model, chat)})
    return hashlib.sha256(dataset_hash(records).encode() + settings).hexdigest()[:16]


def _shuffled(prompts: Sequence[str] | dict[str, LinedPair], *, seed: int) -> list[str]:
    """Return the distinct prompts in an order that the seed decides."""
    return sorted(
        set(prompts), key=lambda prompt: hashlib.sha256(f"{seed}/{prompt}".encode()).digest()
    )


def _to_accelerator(model: Any) -> None:
    if torch.cuda.is_available():
        model.to("cuda")
