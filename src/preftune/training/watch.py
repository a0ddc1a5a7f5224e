"""Looks at fresh samples while a policy is tuned: is it better, or is the reward being gamed?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from preftune.engine.batches import chunks
from preftune.engine.layout import micro_batches, stream_length
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
    token_limit: int  # most tokens in one forward; 0: no limit

    def due(self, step: int) -> bool:
        """Whether to look before this step learns."""
        return bool(self.settings.watch_every) and step % self.settings.watch_every == 0

    def look(self, run: Run, learner: Learner, roles: Roles, *, step: int) -> None:
        """Sample, measure, warn; end the run when it is too far or the reward is being gamed.

        The weights of the best look so far are kept where the run may have to go back to them.
        """
        found = self.measure(roles, step=step)
        run.log_probe({name: value for name, value in found.items() if value is not None})
        kl, most = found["kl"] or 0.0, self.limits.kl_stop
        if most and kl > most and not run.stop_reason:
            run.end_early(f"KL {kl:.2f} nats a response at a look, above kl_stop {most}", step=step)
        if found["proxy"] is None:
            run.warn("no score at this look: it says nothing. Look at the scorer.", step=step)
            return
        rows = looks(run.folder)
        if self._may_go_back():
            self._keep(run, learner, rows)
        self.sound(run, rows)

    def sound(self, run: Run, rows: Sequence[Evaluation]) -> None:
        """Raise the alarms of the newest look, each once per run."""
        step = rows[-1].step
        for alarm in alarms(rows, kl_alarm=self.limits.kl_alarm):
            said = said_as(alarm.name)
            if alarm.stop and self.settings.stop_on_alarm and not run.stop_reason:
                run.end_early(f"{alarm.problem}", step=step)
            elif said not in run.health.said:
                run.health.said.add(said)
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

    def measure(self, roles: Roles, *, step: int) -> dict[str, float | None]:
        """Return what fresh responses to the watched prompts show; None was not measured."""
        seeds = [seed_of(self.seed, "watch", step, place) for place in range(len(self.prompts))]
        drawn = self.source.draw([row.ids for row in self.prompts], seeds)
        texts = [self.chat.decode(rollout.response_ids)[0] for rollout in drawn]
        asked = [row.prompt for row in self.prompts]
        scores = scored_by(self.scorer, asked, texts)
        gold, gold_se = mean_and_error(scored_by(self.audit, asked, texts) if self.audit else [])
        answers = [
            (prompt, (text,))
            for prompt, text, score in zip(asked, texts, scores, strict=True)
            if score is not None
        ]
        lengths = [len(rollout.response_ids) for rollout in drawn]
        rows = [[sequence_of(rollout)] for rollout in drawn]
        known = [
            (score, size) for score, size in zip(scores, lengths, strict=True) if score is not None
        ]
        return {
            "step": step,
            "proxy": fmean(score for score, _ in known) if known else None,
            "kl": sampled_kl(roles, rows, token_limit=self.token_limit),
            "length_tokens": fmean(lengths),
            "repetition": fmean(repetition(rollout.response_ids) for rollout in drawn),
            "gold": gold,
            "gold_se": gold_se,
            "ensemble_spread": spread_of(self.scorer, answers),
            "length_correlation": correlation(known),
        }

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
        found = self.going_back(looks(run.folder))
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


def said_as(alarm: str) -> str:
    """Return the name under which an alarm of a look is said; checks of metrics have their own."""
    return f"look: {alarm}"


def looked(run: Run, step: int) -> bool:
    """Return whether there has been a look at this step."""
    return any(row["step"] == step for row in read_rows(run.folder / "probes.jsonl"))


def looks(run: Path) -> list[Evaluation]:
    """Return what all looks of a run's folder have found; one without any score found nothing."""
    rows = read_rows(run / "probes.jsonl")
    return [look(row) for row in rows if "proxy" in row]


def look(row: Mapping[str, Any]) -> Evaluation:
    """Return a row of `probes.jsonl` as what a look found."""
    known: dict[str, Any] = {field.name: row.get(field.name) for field in fields(Evaluation)}
    return Evaluation(**known)


@torch.no_grad()
def sampled_kl(roles: Roles, rows: Sequence[Sequence[Any]], *, token_limit: int) -> float:
    """Return the mean over responses of log policy - log reference, nats a response (k1)."""
    gaps: list[float] = []
    for some in chunks(rows, TOGETHER):
        for places in micro_batches([stream_length(row) for row in some], token_limit):
            part = [some[place] for place in places]
            moved = roles.logprobs(part) - roles.reference_logprobs(part)
            gaps += moved.double().sum(-1).tolist()
    return fmean(gaps)


def mean_and_error(scores: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return mean and standard error of the scores there are; None for both of fewer than two."""
    known = [score for score in scores if score is not None]
    if len(known) < 2:
        return None, None
    return fmean(known), stdev(known) / len(known) ** 0.5


def spread_of(scorer: Scorer, answers: Sequence[Any]) -> float | None:
    """Return how far the models of an ensemble disagree about a response, on average."""
    if not isinstance(scorer, Ensemble) or not answers:
        return None
    parts = scorer.parts(answers)
    return fmean(map(pstdev, zip(*parts, strict=True))) if len(parts) > 1 else None


def correlation(known: Sequence[tuple[float, int]]) -> float | None:
    """Return the correlation of score and length; None where either does not vary."""
    values = np.array(known, dtype=float)
    if len(values) < 3 or not values.std(axis=0).all():
        return None
    return float(np.corrcoef(values.T)[0, 1])
