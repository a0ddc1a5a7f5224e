"""What every method on fresh responses shares: who takes part, a step's experience, the ending."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from preftune.datasets import dataset_hash
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.optimizer import WHOLE, Part
from preftune.engine.precision import Masters
from preftune.errors import DataError, HealthError, ModelError
from preftune.files import write_json
from preftune.graders.scorer import Scorer
from preftune.inference.generate import GenerateSettings
from preftune.inference.policy_rollouts import PolicyRollouts
from preftune.inference.rollouts import RolloutSource
from preftune.inference.url_rollouts import UrlRollouts, UrlRolloutSettings
from preftune.models.chat import Chat, load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, max_length, save_policy
from preftune.responses.remote import HttpSettings
from preftune.training.observer import Observer, introduce
from preftune.training.plots import plot_looks
from preftune.training.policy_settings import RolloutSettings
from preftune.training.probe import draw
from preftune.training.readable import too_tight
from preftune.training.roles import CRITIC, POLICY, Roles, described, new_roles, train_adapters
from preftune.training.rollout_batch import (
    Experience,
    PromptRow,
    experience,
    no_signal,
    seed_of,
)
from preftune.training.run import Run
from preftune.training.scorers import Asked, Settings, asked_and_scored, prompts_in
from preftune.training.shared_rewards import SharedRewards
from preftune.training.validation import on_prompts
from preftune.training.watch import Watch, looked, looks, said_as

STEP_0_TOLERANCE = 1e-5  # nats a token
SIGNAL_STEPS = 3  # steps within which rewards must differ
CRITIC_PART = "critic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What goes into a run."""

    chat: Chat
    policy: Any
    prompts: tuple[PromptRow, ...]
    watched: tuple[PromptRow, ...]
    scorer: Scorer
    audit: Scorer | None
    inputs: dict[str, str]


@contextmanager
def material_of(s: Settings, scorer: Scorer | None, audit: Scorer | None) -> Iterator[Material]:
    """Yield model, prompts and scorers after checking that they fit each other.

    Raises:
        PreftuneError: a file, a model, or a prompt that leaves no room for a response.
    """
    with asked_and_scored(s, scorer, audit) as asked:
        yield _material(s, asked)


def _material(s: Settings, asked: Asked) -> Material:
    chat = load_chat(s.model)
    policy = load_policy(s.model, bits=s.lora.base_bits)
    if not asked.prompts:
        raise DataError(f"{s.data}: no prompts. Give a file with at least one.")
    longest = max_length(policy.config.to_dict())
    room = longest - s.rollout.max_new_tokens if longest else None
    looks = s.watch.watch_prompts if s.watch.watch_every else 0
    chosen = draw(asked.watched, looks, seed=s.run.seed)
    inputs = {
        "data": dataset_hash(asked.prompts),
        "watched": dataset_hash(chosen),
        "model": model_fingerprint(policy, chat),
        "reward": asked.scorer.name,
    }
    if asked.audit is not None:
        inputs["audit"] = asked.audit.name
        refuse_a_single_prompt(chosen, where=s.watch.watch_data or s.data)
    return Material(
        chat=chat,
        policy=policy,
        prompts=prompt_rows(asked.prompts, chat, room, where=s.data),
        watched=prompt_rows(chosen, chat, room, where=s.watch.watch_data or s.data),
        scorer=asked.scorer,
        audit=asked.audit,
        inputs=inputs,
    )


def say_what_is_tight(run: Run, material: Material, *, max_new_tokens: int) -> None:
    """Warn where reward or audit models may not hold the longest responses."""
    for scorer, rows in ((material.scorer, material.prompts), (material.audit, material.watched)):
        prompts = [row.prompt for row in rows]
        for problem in too_tight(scorer, prompts, max_new_tokens=max_new_tokens):
            run.warn(problem)


def refuse_a_single_prompt(watched: Sequence[Any], *, where: Path) -> None:
    """Refuse an audit of looks on one prompt.

    Raises:
        DataError: says why.
    """
    if len(watched) == 1:
        raise DataError(
            f"{where}: one prompt to look at, and gold of one response has no error to judge a "
            "change by. Give two or more, or leave the audit out."
        )


def prompt_rows(
    prompts: Sequence[Any], chat: Chat, room: int | None, *, where: Path
) -> tuple[PromptRow, ...]:
    """Return prompts with their tokens.

    Raises:
        ModelError: prompts that leave too few positions for a response; says how many.
    """
    rows = tuple(PromptRow(prompt=prompt, ids=chat.prompt_ids(prompt)) for prompt in prompts)
    long = [row for row in rows if room is not None and len(row.ids) > room]
    if long:
        raise ModelError(
            f"{where}: {len(long)} of {len(rows)} prompts are longer than the {room} tokens that "
            f"max_new_tokens leaves them, the first is {long[0].prompt.id} with "
            f"{len(long[0].ids)}. Lower max_new_tokens, or leave them out."
        )
    return rows


def rollout_source(run: Run, s: RolloutSettings, roles: Roles, chat: Chat) -> RolloutSource:
    """Return what draws: the policy in this process, or a server that is sent its adapter."""
    how = GenerateSettings(max_new_tokens=s.max_new_tokens, temperature=s.temperature)
    if not s.rollout_url:
        return PolicyRollouts(roles.policy, how, end_ids=chat.end_ids, pad_id=chat.pad_id)
    return UrlRollouts(
        HttpSettings(url=s.rollout_url, allow_urls=(s.rollout_url,), key_env=s.rollout_key_env),
        how,
        UrlRolloutSettings(max_staleness=s.max_staleness, served_logprobs=s.served_logprobs),
        folder=run.folder / "served",
        end_ids=chat.end_ids,
        vocab_size=int(roles.policy.config.get_text_config().vocab_size),
    )


@dataclass(kw_only=True, slots=True)
class PolicyRun:
    """A run that draws its own data."""

    run: Run
    s: Settings
    material: Material
    roles: Roles
    learner: Learner
    source: RolloutSource
    watch: Watch
    first: list[Experience] = field(default_factory=list)

    @classmethod
    def begin(
        cls, run: Run, s: Settings, material: Material, *, critic_lr_factor: float = 0.0
    ) -> "PolicyRun":
        """Return the run before its first step; a factor above 0 asks for a value model."""
        roles = new_roles(
            material.policy,
            lora=s.lora,
            engine=s.engine,
            temperature=s.rollout.temperature,
            with_value=critic_lr_factor > 0,
            seed=s.run.seed,
            tell=run.warn,
        )
        if isinstance(material.scorer, SharedRewards):
            material.scorer.attach(roles.policy)
            train_adapters(roles.policy, (POLICY, CRITIC))
        say_what_is_tight(run, material, max_new_tokens=s.rollout.max_new_tokens)
        critic = Part(name=CRITIC_PART, mark=CRITIC_PART, lr_factor=critic_lr_factor)
        order = Order.of_lengths(
            [len(row.ids) for row in material.prompts], s.optimizer, seed=s.run.seed
        )
        learner = Learner.of(
            Masters(roles.actors, s.engine.precision),
            order,
            s.optimizer,
            parts=(critic, *WHOLE) if critic_lr_factor else WHOLE,
        )
        write_json(run.folder / "roles.json", described(roles))
        source = rollout_source(run, s.rollout, roles, material.chat)
        watch = Watch(
            settings=s.watch,
            limits=s.limits,
            prompts=material.watched,
            scorer=material.scorer,
            audit=material.audit,
            source=source,
            chat=material.chat,
            seed=s.run.seed,
            token_limit=s.engine.token_limit,
        )
        return cls(
            run=run,
            s=s,
            material=material,
            roles=roles,
            learner=learner,
            source=source,
            watch=watch,
        )

    def experience(self, step: int, numbers: Sequence[int]) -> Experience:
        """Draw and score the responses of a step; look at fresh ones first, when it is time.

        Raises:
            HealthError: a bad score, or rewards that are all the same from the start.
        """
        self.source.publish(self.roles.policy, version=step)
        if self.watch.due(step):
            with self.run.timed("watch"):
                self.watch.look(self.run, self.learner, self.roles, step=step)
        s = self.s
        seeds = [
            seed_of(s.run.seed, step, number, sample)
            for number in numbers
            for sample in range(s.rollout.samples)
        ]
        with self.run.timed("rollout"):
            batch = experience(
                self.source,
                self.material.scorer,
                self.material.chat,
                [self.material.prompts[number] for number in numbers],
                s.rewarding,
                samples=s.rollout.samples,
                seeds=seeds,
            )
        self._check_signal(batch, step)
        return batch

    def observed_by(self, observer: Observer | None) -> None:
        """Let an observer look on, if there is one: rewards of fresh responses to its prompts."""
        if observer is None:
            return
        path, s = observer.validation, self.s
        longest = max_length(self.roles.policy.config.to_dict())
        room = longest - s.rollout.max_new_tokens if longest else None
        asked = prompts_in(path, self.material.scorer) if path else ()
        held = prompt_rows(asked, self.material.chat, room, where=path or s.data)
        scorer, samples = self.material.scorer, observer.samples
        policy, chat = self.roles.policy, self.material.chat
        measure = on_prompts(self.source, scorer, chat, held, samples=samples, seed=s.run.seed)
        introduce(observer, self.learner, chat, policy, validate=measure, rows=len(held))

    def _check_signal(self, batch: Experience, step: int) -> None:
        """Stop when the first steps have nothing to learn from.

        A run that goes on after some of them has not seen these, and does not judge.
        """
        if step >= SIGNAL_STEPS:
            return
        self.first.append(batch)
        seen_all = len(self.first) == min(SIGNAL_STEPS, self.learner.order.steps)
        if seen_all and (problem := no_signal(self.first)):
            raise HealthError(
                f"{self.run.folder}: no signal: {problem} in the first {len(self.first)} steps. "
                "Look at the rewards (preftune score, preftune grade); raise --samples or "
                "--temperature if all responses are alike."
            )

    def check_step_0(self, old: Float[Tensor, "B T"], reference: Float[Tensor, "B T"]) -> None:
        """Stop unless policy and reference are the same before anything is learnt.

        Raises:
            HealthError: says by how much they differ.
        """
        worst = (old - reference).abs().max().item()
        if not worst <= STEP_0_TOLERANCE:
            raise HealthError(
                f"step 0: policy and reference differ by {worst:.2e} nats a token. Use a new "
                "--out; if it comes again, this model's forward is not reproducible."
            )

    def watch_kl(self, kl: float, *, step: int) -> None:
        """Warn, or end the run, when the responses of a step are far from the reference."""
        limits = self.s.limits
        if limits.kl_stop and kl > limits.kl_stop and not self.run.stop_reason:
            self.run.end_early(
                f"sampled KL {kl:.2f} nats a response, above kl_stop {limits.kl_stop}", step=step
            )
        elif kl > limits.kl_alarm and said_as("kl") not in self.run.health.said:
            self.run.health.said.add(said_as("kl"))
            if any(row["kl"] > limits.kl_alarm for row in self.run.metrics()[:-1]):
                return  # said before this run was stopped and went on
            self.run.warn(
                f"sampled KL to the reference is {kl:.2f} nats a response (alarm "
                f"{limits.kl_alarm}). Try --kl-stop, a lower --lr or a stronger leash.",
                step=step,
            )

    def publish(self) -> Path:
        """Look once more, go back to the best look if the run was stopped, save the policy."""
        steps = len(self.run.metrics())
        if self.s.watch.watch_every and not looked(self.run, steps):
            self.source.publish(self.roles.policy, version=steps)
            self.watch.look(self.run, self.learner, self.roles, step=steps)
        self.watch.go_back(self.run, self.learner)
        plot_looks(looks(self.run.folder), self.run.folder / "plots")
        self.learner.masters.finish()
        policy = self.roles.finish()
        self.source.close()
        return self.run.publish(lambda folder: save_policy(policy, self.material.chat, folder))
