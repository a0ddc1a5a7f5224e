"""The demo's fifth step: the SFT model becomes warmer, by the method that was asked for."""

from dataclasses import dataclass, replace
from pathlib import Path

from preftune.datasets import write_records
from preftune.demo.raters import quality
from preftune.demo.settings import DemoSettings, Method
from preftune.demo.world import MAX_REPLY_TOKENS, CareDesk
from preftune.engine.settings import OptimizerSettings
from preftune.graders.scorer import FunctionScorer
from preftune.training import direct, online, ppo, rft, sft
from preftune.training.policy_settings import (
    KlLimits,
    LeashSettings,
    OnlineSettings,
    PpoSettings,
    RewardingSettings,
    RftSettings,
    RolloutSettings,
    UpdateSettings,
    ValueSettings,
    WatchSettings,
)
from preftune.training.settings import DirectSettings, RunSettings, SftSettings
from preftune.types import Message, Prompt, text_of

TITLES: dict[Method, str] = {
    "dpo": "DPO + 0.2 NLL, beta 0.1",
    "rloo": "RLOO: 4 fresh replies a prompt, the reward model scores them, KL costs 0.05 a nat",
    "ppo": "PPO: fresh replies, a value model, clipped updates, KL costs 0.05 a nat",
    "online-dpo": "online DPO: best against worst of 4 fresh replies, beta 0.1",
    "best-of-n": "best of 8 by the reward model, taught to the weights by SFT",
}
DPO_OPTIMIZER = OptimizerSettings(lr=2e-4, epochs=2.0, batch_size=16)
SABOTAGED_LR = 2e-3
FREE_OPTIMIZER = OptimizerSettings(lr=4e-4, epochs=1.2, batch_size=32, schedule="constant")
FREE_REPLY_TOKENS = 96  # replies of the desk have at most 72
PROMPTS = 1600  # that fresh replies are drawn to
QUICK_SHARE = 10
BEST_OF, BEST_PROMPTS = 8, 640
LEASH = LeashSettings(kl_coef=0.05)
LIMITS = KlLimits(kl_stop=1.5)
WATCH = WatchSettings(watch_every=5, watch_prompts=60)
ROLLOUT = RolloutSettings(samples=4, max_new_tokens=MAX_REPLY_TOKENS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What every method starts from."""

    world: CareDesk
    s: DemoSettings
    sft: Path
    pairs: Path
    reward: Path

    @property
    def run(self) -> RunSettings:
        """Where the run lives."""
        return RunSettings(out=self.s.out / self.s.method, seed=self.s.seed, threads=self.s.threads)

    @property
    def rewarding(self) -> RewardingSettings:
        """The demo's own reward model."""
        return RewardingSettings(reward=(str(self.reward),))

    def gold(self) -> FunctionScorer:
        """Return an audit by the desk's own rules: true tone, less 3 where facts are wrong."""

        def score(prompt: Prompt, response: tuple[Message, ...]) -> float:
            return quality(prompt, text_of(response), self.world.cards)

        return FunctionScorer(name="gold-quality", function=score)

    def prompts(self, count: int = PROMPTS) -> Path:
        """Write the prompts that fresh replies are drawn to; none about a held-out item."""
        path = self.s.out / "prompts.jsonl"
        size = count // QUICK_SHARE if self.s.quick else count
        write_records(path, self.world.label_prompts(size, seed=self.s.seed + 1), format="preftune")
        return path


def tune(t: Tuning) -> Path:
    """Return the folder of the tuned model."""
    match t.s.method:
        case "dpo":
            return direct.train(dpo_settings(t))
        case "rloo":
            return rft.train(rloo_settings(t), audit=t.gold())
        case "ppo":
            return ppo.train(ppo_settings(t), audit=t.gold())
        case "online-dpo":
            return online.train(online_settings(t), audit=t.gold())
        case "best-of-n":
            return best_of_n_then_sft(t)


def dpo_settings(t: Tuning) -> DirectSettings:
    """Return the settings of DPO; `lr-x10` is a sabotage of these."""
    spoilt = OptimizerSettings(lr=SABOTAGED_LR, epochs=2.0, batch_size=16)
    return DirectSettings(
        model=str(t.sft),
        data=t.pairs,
        beta=0.1,
        nll_weight=0.2,
        optimizer=spoilt if t.s.sabotage == "lr-x10" else DPO_OPTIMIZER,
        run=t.run,
    )


def rloo_settings(t: Tuning) -> RftSettings:
    """Return the settings of RLOO; `beta-0-rl` is a sabotage of these."""
    honest = RftSettings(
        model=str(t.sft),
        data=t.prompts(),
        rollout=ROLLOUT,
        rewarding=t.rewarding,
        leash=LEASH,
        limits=LIMITS,
        watch=WATCH,
        optimizer=OptimizerSettings(lr=4e-4, batch_size=32, schedule="linear"),
        run=t.run,
    )
    return without_leash(honest) if t.s.sabotage == "beta-0-rl" else honest


def without_leash(honest: RftSettings) -> RftSettings:
    """Return settings under which a reward model is gamed until what it stands for is lost.

    KL costs nothing, no limit and no alarm ends the run, and it is long. It still looks at fresh
    replies, so that one sees where the alarm would have ended it.
    """
    return replace(
        honest,
        rollout=replace(honest.rollout, max_new_tokens=FREE_REPLY_TOKENS),
        leash=LeashSettings(kl_coef=0.0),
        limits=KlLimits(),
        watch=replace(honest.watch, stop_on_alarm=False),
        optimizer=FREE_OPTIMIZER,
    )


def ppo_settings(t: Tuning) -> PpoSettings:
    """Return the settings of PPO."""
    return PpoSettings(
        model=str(t.sft),
        data=t.prompts(),
        rollout=RolloutSettings(samples=2, max_new_tokens=MAX_REPLY_TOKENS),
        rewarding=t.rewarding,
        leash=LEASH,
        limits=LIMITS,
        watch=WATCH,
        value=ValueSettings(value_lr_factor=4.0, critic_warmup=2),
        update=UpdateSettings(updates=1, minibatches=2),
        optimizer=OptimizerSettings(lr=4e-4, batch_size=64, epochs=1.6, schedule="linear"),
        run=t.run,
    )


def online_settings(t: Tuning) -> OnlineSettings:
    """Return the settings of online DPO."""
    return OnlineSettings(
        model=str(t.sft),
        data=t.prompts(),
        beta=0.1,
        rollout=ROLLOUT,
        rewarding=t.rewarding,
        limits=LIMITS,
        watch=WATCH,
        optimizer=OptimizerSettings(lr=3e-4, batch_size=32, schedule="linear"),
        run=t.run,
    )


def best_of_n_then_sft(t: Tuning) -> Path:
    """Return a model that was taught the best of n replies of the SFT model (rejection sampling).

    The replies that came first of n by the reward model are imitated; nothing else is.
    """
    from preftune.inference.best_of_n_run import run_best_of_n
    from preftune.inference.best_of_n_settings import BestOfNSettings
    from preftune.responses.generator import GenerateSettings

    best = t.s.out / "best.jsonl"
    run_best_of_n(
        BestOfNSettings(
            model=str(t.sft),
            prompts=t.prompts(BEST_PROMPTS),
            out=t.s.out / "best-of-n.jsonl",
            reward=(str(t.reward),),
            n=BEST_OF,
            seed=t.s.seed,
            distil=best,
            draw=GenerateSettings(max_new_tokens=MAX_REPLY_TOKENS),
        )
    )
    return sft.train(
        SftSettings(
            model=str(t.sft),
            data=best,
            optimizer=OptimizerSettings(lr=3e-4, batch_size=16, epochs=2.0),
            run=t.run,
        )
    )
