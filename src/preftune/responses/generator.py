"""Whatever answers prompts: a model in this process, a server, a person with a form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.types import Prompt, Response, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSettings:
    """How replies are drawn. `temperature` 0 takes the likeliest token each time."""

    max_new_tokens: Annotated[
        int, Meta(gt=0, description="Longest reply, in tokens; a longer one is cut and marked.")
    ] = 256
    temperature: Annotated[
        float, Meta(ge=0, description="0 is greedy, 1 the model as it is, above 1 flatter.")
    ] = 1.0
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="Draw from the likeliest tokens that hold this mass.")
    ] = 1.0
    top_k: Annotated[
        int, Meta(ge=0, description="Draw from this many likeliest tokens; 0 draws from all.")
    ] = 0
    stop: Annotated[
        tuple[str, ...],
        Meta(description="Texts that end a reply; it is cut before the first of them."),
    ] = ()
    batch_size: Annotated[int, Meta(gt=0, description="Most replies written at once.")] = 256
    batch_tokens: Annotated[
        int, Meta(gt=0, description="Most tokens, prompts and replies, held in memory at once.")
    ] = 65536

    def __post_init__(self) -> None:
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            raise SettingsError(
                "temperature 0 takes no notice of top_p and top_k. Leave them out, or raise it."
            )
        if "" in self.stop:
            raise SettingsError("stop: an empty text would end every reply. Leave it out.")

    def sampling(self, seed: int) -> Sampling:
        """Return what to write on a response that was drawn this way from `seed`."""
        return Sampling(
            temperature=float(self.temperature),  # 1 and 1.0 are one setting
            top_p=float(self.top_p),
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
            seed=seed,
            stop=self.stop,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Ask for one response: sample number `index` to `prompt`, drawn from `seed`."""

    response_id: str
    prompt: Prompt
    index: int
    seed: int


@runtime_checkable
class Generator(Protocol):
    """Answers prompts. A response depends on its own request, not on its neighbours."""

    @property
    def name(self) -> str:
        """Who answers, exactly: equal names mean equal weights and template."""

    def sampling(self, seed: int) -> Sampling:
        """Return how a response is drawn from `seed`."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `PreftuneError` if any of these prompts cannot be answered, before work begins."""

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        """Return one response per request, in the same order, under the ids asked for."""
