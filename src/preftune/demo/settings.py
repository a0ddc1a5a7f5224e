"""What one can turn in the demo; loads no torch, so that the command line can show it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from preftune.errors import SettingsError

Method = Literal["dpo", "rloo", "ppo", "online-dpo", "best-of-n"]
Sabotage = Literal["none", "length-judge", "ood-pairs", "lr-x10", "flip-40", "beta-0-rl"]

CAUGHT_BY: dict[Sabotage, tuple[str, ...]] = {
    "length-judge": ("length",),
    "ood-pairs": ("data", "facts"),
    "lr-x10": ("leash", "facts"),
    "flip-40": ("tone",),
    "beta-0-rl": ("leash", "facts", "gold audit"),
}
"""The gates that must stop each sabotage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """The care desk, from teaching to proof."""

    out: Annotated[Path, Meta(description="Folder of the demo; an old one of its own goes.")] = (
        Path("demo-run")
    )
    method: Annotated[Method, Meta(description="How the model is tuned.")] = "dpo"
    sabotage: Annotated[
        Sabotage, Meta(description=f"Spoil it on purpose: {', '.join(CAUGHT_BY)}.")
    ] = "none"
    seed: Annotated[int, Meta(ge=0, description="Seed of sampling, labels and tuning.")] = 0
    fresh: Annotated[
        bool, Meta(description="Teach the SFT model anew even when the cache holds it.")
    ] = False
    quick: Annotated[
        bool, Meta(description="A tenth of the work: shows every stage, proves nothing.")
    ] = False
    label: Annotated[
        bool, Meta(description="Compare the replies yourself, in a browser; Ctrl-C goes on.")
    ] = False
    label_port: Annotated[int, Meta(ge=0, le=65535, description="Port of --label.")] = 8000
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0 leaves torch's choice.")] = 0

    def __post_init__(self) -> None:
        if self.label and self.sabotage in {"length-judge", "flip-40", "beta-0-rl"}:
            raise SettingsError(
                f"sabotage {self.sabotage} spoils simulated labels. Leave out --label."
            )
        needs = "rloo" if self.sabotage == "beta-0-rl" else "dpo"
        if self.sabotage != "none" and self.method != needs:
            raise SettingsError(f"sabotage {self.sabotage} spoils {needs}. Use --method {needs}.")
        if self.label_port != 8000 and not self.label:
            raise SettingsError("label_port changes nothing without --label. Add it.")

    @property
    def label_store(self) -> Path:
        """Where labels given by hand are kept, beside the folder that each demo makes anew."""
        return self.out.with_name(f"{self.out.name}-labels.db")


def cache_folder() -> Path:
    """Return where trained SFT models are kept between demos: `$XDG_CACHE_HOME/preftune/demo`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "preftune" / "demo"
