"""Looks at fresh samples while a policy is tuned: is it better, or is the reward being gamed?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, pstdev, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from preftune.engine.batches import chunks
from preftune.engine.learner import Learner
from preftune.files import write_atomic
from preftune.graders.scorer import Ensemble, Scorer
from preftune.inference.rollouts import RolloutSource
from preftune.models.chat import Chat
from preftune.stats.over_optimisation import Evaluation, alarms, best, repetition
from preftune.training.logs import read_rows
from preftune.training.policy_settings import KlLimits, WatchSettings
from preftune.training.roles import Roles
from preftune.training.rollout_batch import PromptRow, scored_by, seed_of, sequence_of
from preftune.training.run import Run

TOGETHER = 64  # responses in one forward
KEPT = 3  # files of best weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What a look needs; the looks themselves are rows of `probes.jsonl`."""

    settings: WatchSettings
    limits: KlLimits
    prompts: Sequence[PromptRow]
    scorer: Scorer
    audit: Scorer | None
    source: RolloutSource
    chat: Chat
    seed: int

    def due(self, step: int) -> bool:
        """Whether to look before this step learns."""
        return bool(self.settings.watch_every) and step % self.settings.watch_every == 0

    def look(self, run: Run, learner: Learner, roles: Roles, *, step: int) -> None:
        """Sample, measure, warn; end the run when the reward is being gamed.

        The weights of the best look so far are kept where the run may have to go back to them.
        """
        row = self.measure(roles, step=step)
        run.log_probe({name: value for name, value in asdict(row).items() if value is not None})
        rows = looks(run)
        if self._may_go_back():
            self._keep(run, learner, rows)
        for alarm in alarms(rows, kl_alarm=self.limits.kl_alarm):
            if alarm.stop and self.settings.stop_on_alarm and not run.stop_reason:
                run.end_early(f"{alarm.problem}", step=step)
            elif alarm.name not in run.health.said:
                run.health.said.add(alarm.name)
                if not self._raised(alarm.name, rows[:-1]):
                    run.warn(str(alarm), step=step)

    def _raised(self, name: str, rows: Sequence[Evaluation]) -> bool:
        """Return whether an alarm was raised at one of these looks; a run may have gone on since.

        Args:
            name: of the alarm.
            rows: the looks so far.
        """
        parts = (rows[: number + 1] for number in range(len(rows)))
        found = (alarms(part, kl_alarm=self.limits.kl_alarm) for part in parts)
        return any(alarm.name == name for some in found for alarm in some)

    def measure(self, roles: Roles, *, step: int) -> Evaluation:
        """Return what fresh responses to the watched prompts show."""
        seeds = [seed_of(self.seed, "watch", step, place) for place in range(len(self.prompts))]
        drawn = self.source.draw([row.ids for row in self.prompts], seeds)
        texts = [self.chat.decode(rollout.response_ids)[0] for rollout in drawn]
        asked = [row.prompt for row in self.prompts]
        answers = [(prompt, (text,)) for prompt, text in zip(asked, texts, strict=True)]
        scores = scored_by(self.scorer, asked, texts)
        gold = [
            g for g in (scored_by(self.audit, asked, texts) if self.audit else []) if g is not None
        ]
        lengths = [len(rollout.response_ids) for rollout in drawn]
        rows = [[sequence_of(rollout)] for rollout in drawn]
        known = [
            (score, size) for score, size in zip(scores, lengths, strict=True) if score is not None
        ]
        return Evaluation(
            step=step,
            proxy=fmean(score for score, _ in known) if known else 0.0,
            kl=sampled_kl(roles, rows),
            length_tokens=fmean(lengths),
            repetition=fmean(repetition(rollout.response_ids) for rollout in drawn),
            gold=fmean(gold) if gold else None,
            gold_se=stdev(gold) / len(gold) ** 0.5 if len(gold) > 1 else (0.0 if gold else None),
            ensemble_spread=spread_of(self.scorer, answers),
            length_correlation=correlation(known),
        )

    def _may_go_back(self) -> bool:
        stops = self.audit is not None and self.settings.stop_on_alarm
        return stops or self.limits.kl_stop > 0

    def _keep(self, run: Run, learner: Learner, rows: Sequence[Evaluation]) -> None:
        """Keep the weights as they are when this look is the one to go back to."""
        if self.going_back(rows) != rows[-1]:
            return
        folder = run.folder / "best"
        folder.mkdir(exist_ok=True)
        kept = sorted(folder.glob("step-*.safetensors"))
        for old in kept[: max(0, len(kept) - KEPT + 1)]:
            old.unlink()
        weights = {n: p.detach().contiguous() for n, p in learner.masters.weights.items()}
        write_atomic(folder / _file(rows[-1].step), save(weights))

    def going_back(self, rows: Sequence[Evaluation]) -> Evaluation | None:
        """Return the look whose weights are best: of those within `kl_stop`, by gold if known."""
        limit = self.limits.kl_stop or float("inf")
        within = [row for row in rows if row.kl <= limit]
        return best(within) if within else None

    def go_back(self, run: Run, learner: Learner) -> None:
        """Take back the weights of the best look, when the run was ended early."""
        if not run.stop_reason:
            return
        found = self.going_back(looks(run))
        file = run.folder / "best" / _file(found.step) if found else None
        if found is None or file is None or not file.exists():
            run.warn("ended early, with no earlier look to go back to: the last weights are kept")
            return
        for name, tensor in load_file(file).items():
            learner.masters.weights[name].data.copy_(tensor)
        learner.masters.publish()
        run.warn(f"the weights are those before step {found.step}: {_said(found)}")


def _said(row: Evaluation) -> str:
    gold = "" if row.gold is None else f"gold {row.gold:.3f}, "
    return f"{gold}proxy {row.proxy:.3f}, KL {row.kl:.2f} nats a response"


def _file(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def looks(run: Run) -> list[Evaluation]:
    """Return what all looks so far have found."""
    return [look(row) for row in read_rows(run.folder / "probes.jsonl")]


def look(row: Mapping[str, Any]) -> Evaluation:
    """Return a row of `probes.jsonl` as what a look found."""
    known: dict[str, Any] = {field.name: row.get(field.name) for field in fields(Evaluation)}
    return Evaluation(**known)


@torch.no_grad()
def sampled_kl(roles: Roles, rows: Sequence[Sequence[Any]]) -> float:
    """Return the mean over responses of log policy - log reference, nats a response (k1)."""
    gaps: list[float] = []
    for part in chunks(rows, TOGETHER):
        moved = roles.logprobs(part) - roles.reference_logprobs(part)
        gaps += moved.double().sum(-1).tolist()
    return fmean(gaps)


def spread_of(scorer: Scorer, answers: Sequence[Any]) -> float | None:
    """Return how far the models of an ensemble disagree about a response, on average."""
    if not isinstance(scorer, Ensemble):
        return None
    parts = scorer.parts(answers)
    return fmean(map(pstdev, zip(*parts, strict=True))) if len(parts) > 1 else None


def correlation(known: Sequence[tuple[float, int]]) -> float | None:
    """Return the correlation of score and length; None where either does not vary."""
    values = np.array(known, dtype=float)
    if len(values) < 3 or not values.std(axis=0).all():
        return None
    return float(np.corrcoef(values.T)[0, 1])
