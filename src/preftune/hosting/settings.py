"""What the generation process may use."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from preftune.models.load import Dtype

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class HostingSettings:
    """Limits of one process; what comes beyond them waits, or takes the place of the oldest."""

    threads: Annotated[int, Meta(ge=1, description="Processor cores to compute with.")] = 1
    memory_gib: Annotated[
        float, Meta(gt=0, description="Weights in memory; the longest unused leave first.")
    ] = 8.0
    cache_gib: Annotated[
        float, Meta(gt=0, description="Keys and values above which no further reply is begun.")
    ] = 2.0
    rows: Annotated[int, Meta(ge=1, description="Most replies written at once.")] = 64
    chunk_tokens: Annotated[
        int, Meta(ge=1, description="Tokens of prompts read beside replies that are being written.")
    ] = 256
    longest_tokens: Annotated[
        int, Meta(ge=1, description="Longest reply where neither request nor model sets a limit.")
    ] = 4096
    dtype: Annotated[Dtype, Meta(description="Of the weights in memory.")] = "float32"
