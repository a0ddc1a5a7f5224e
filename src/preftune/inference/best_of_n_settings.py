"""What `preftune best-of-n` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.inference.early_rejection import EarlyRejection
from preftune.inference.stopping import Stopping
from preftune.responses.generator import GenerateSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class SavingSettings:
    """How to draw less than n whole responses per prompt: one way, or none."""

    deadline_s: Annotated[
        float, Meta(ge=0, description="Take the best of what is drawn by then, seconds; 0: all.")
    ] = 0.0
    stop_cost: Annotated[
        float,
        Meta(
            ge=0,
            description="Stop drawing for a prompt when one more draw is expected to add less than "
            "this to its best score; 0: never.",
        ),
    ] = 0.0
    reject_at_tokens: Annotated[
        int, Meta(ge=0, description="Score beginnings of this length, finish the best; 0: all.")
    ] = 0
    keep_frac: Annotated[
        float, Meta(gt=0, lt=1, description="Share of the beginnings to finish.")
    ] = 0.25
    check_frac: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of prompts drawn in full, to see what saving loses."),
    ] = 0.1

    def __post_init__(self) -> None:
        if sum(map(bool, (self.deadline_s, self.stop_cost, self.reject_at_tokens))) > 1:
            raise SettingsError(
                "deadline_s, stop_cost and reject_at_tokens are ways to draw less. Give one."
            )
        if not self.reject_at_tokens and self.keep_frac != 0.25:
            raise SettingsError("keep_frac changes nothing without reject_at_tokens. Give both.")
        if not (self.reject_at_tokens or self.stop_cost) and self.check_frac != 0.1:
            raise SettingsError(
                "check_frac changes nothing without stop_cost or reject_at_tokens. Give one."
            )

    @property
    def rule(self) -> str:
        """The way that is taken, "" for none."""
        names = {
            "deadline": self.deadline_s,
            "stopping": self.stop_cost,
            "early rejection": self.reject_at_tokens,
        }
        return next((name for name, value in names.items() if value), "")

    @property
    def stopping(self) -> Stopping | None:
        """Optimal stopping as it was asked for."""
        if not self.stop_cost:
            return None
        return Stopping(cost=self.stop_cost, check_frac=self.check_frac)

    @property
    def early_rejection(self) -> EarlyRejection | None:
        """Early rejection as it was asked for."""
        if not self.reject_at_tokens:
            return None
        return EarlyRejection(
            tokens=self.reject_at_tokens, keep_frac=self.keep_frac, check_frac=self.check_frac
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfNSettings:
    """A job of best-of-n on models in this process."""

    model: Annotated[str, Meta(description="Model folder, adapter folder or hub id that answers.")]
    prompts: Annotated[Path, Meta(description="Prompts, in any format that has them.")]
    out: Annotated[Path, Meta(description="File of best responses to make; JSON lines.")]
    reward: Annotated[
        tuple[str, ...], Meta(description="Folder of a reward model; several are combined.")
    ] = ()
    grader: Annotated[
        Path | None, Meta(description="Grader that chooses instead; prompts are then RFT rows.")
    ] = None
    combine: Annotated[
        Path | None, Meta(description="YAML file that says how several rewards become one.")
    ] = None
    gold: Annotated[
        str,
        Meta(
            description="Reward model or grader that chooses nothing: what a choice is truly worth."
        ),
    ] = ""
    n: Annotated[int, Meta(ge=1, description="Responses per prompt.")] = 16
    seed: Annotated[int, Meta(ge=0, description="Same seed, same responses.")] = 0
    name: Annotated[str, Meta(description="Who answers, as written on each response.")] = ""
    trust_remote_code: Annotated[
        bool, Meta(description="Run Python code that the model brings.")
    ] = False
    distil: Annotated[
        Path | None, Meta(description="Demonstrations to write: the best responses, as chats.")
    ] = None
    pairs: Annotated[
        Path | None, Meta(description="Pairs to write: best against worst response.")
    ] = None
    draw: GenerateSettings = field(default_factory=GenerateSettings)
    saving: SavingSettings = field(default_factory=SavingSettings)

    def __post_init__(self) -> None:
        if bool(self.reward) == (self.grader is not None):
            raise SettingsError("give reward or grader, one of them: something has to choose.")
        if self.combine is not None and not self.reward:
            raise SettingsError("combine changes nothing without reward. Leave it out.")
        if self.grader is not None and self.saving.reject_at_tokens:
            raise SettingsError(
                "reject_at_tokens with grader: a grader reads whole answers. Give reward."
            )

    @property
    def gold_is_grader(self) -> bool:
        """Whether the gold quality comes from a grader's file, not a reward model's folder."""
        return Path(self.gold).is_file()

    @property
    def has_grader(self) -> bool:
        """Whether a grader chooses or tells the gold quality."""
        return self.grader is not None or self.gold_is_grader
