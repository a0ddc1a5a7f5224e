"""What one can turn in the demo; loads no torch, so that the command line can show it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

Sabotage = Literal["none", "length-judge", "ood-pairs", "lr-x10", "flip-40"]

CAUGHT_BY: dict[Sabotage, tuple[str, ...]] = {
    "length-judge": ("length",),
    "ood-pairs": ("data", "facts"),
    "lr-x10": ("leash", "facts"),
    "flip-40": ("tone",),
}
"""The gates that must stop each sabotage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """The care desk, from teaching to proof."""

    out: Annotated[Path, Meta(description="Folder of the demo; an old one of its own goes.")] = (
        Path("demo-run")
    )
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
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0 leaves torch's choice.")] = 0


def cache_folder() -> Path:
    """Return where trained SFT models are kept between demos: `$XDG_CACHE_HOME/preftune/demo`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "preftune" / "demo"
