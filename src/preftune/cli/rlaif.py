"""`preftune rlaif`: sample, judge, pairs in one command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from preftune.cli import judge_options as shared
from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.types import Prompt, Response


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("rlaif")(shared.spelt_out(rlaif_command))


def rlaif_command(
    *,
    prompts: Annotated[Path, typer.Option(help="Prompts, in any format that has them.")],
    out: Annotated[Path, typer.Option(help="Pairs to write; all other files lie beside.")],
    judge_url: shared.Url,
    judge_model: shared.ModelThere,
    policy: Annotated[str, typer.Option(help="Model folder or hub id that answers.")] = "",
    responses: Annotated[
        Path | None, typer.Option(help="Responses that are there already, two or more a prompt.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Responses per prompt from the policy.")] = 2,
    sample_temperature: Annotated[float, typer.Option(help="Of the policy.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response, in tokens.")] = 256,
    rubric: shared.RubricName = "helpful",
    card: shared.CardFile = None,
    unqualified: shared.Unqualified = False,
    live: shared.Live,
) -> None:
    """Sample responses, let a judge compare every two of a prompt, write the pairs.

    Beside OUT lie the responses, the judgments, the report and the log of answers. Stopped at any
    moment, the same command goes on.

    Example: preftune rlaif --prompts prompts.jsonl --policy runs/sft/model
    --judge-url https://host/v1 --judge-model NAME --card card.json --out pairs.jsonl
    """
    said = out.with_name(f"{out.name.removesuffix('.jsonl')}.judgments.jsonl")
    with shared.judges_at(judge_url, judge_model, live, out=said) as (clients, budget):
        from preftune.comparisons.judging.panel_run import every_two
        from preftune.datasets.read import read_prompts

        asked = read_prompts(prompts)
        draw = _Draw(n, live.seed, sample_temperature, max_new_tokens)
        answers = _responses(asked, policy, responses, draw, out)
        job = shared.Job(rubric, said, card or [], unqualified, out)
        shared.label(every_two(asked, answers), clients, live.asking(), job, budget)


class _Draw(NamedTuple):
    """How the policy answers."""

    n: int
    seed: int
    temperature: float
    max_new_tokens: int


def _responses(
    prompts: "Sequence[Prompt]",
    policy: str,
    responses: Path | None,
    draw: _Draw,
    out: Path,
) -> "list[Response]":
    """Return the responses of a file, or of a policy after they are on disk."""
    from preftune.datasets.read import read_responses

    if bool(policy) == (responses is not None):
        raise SettingsError("command line: give --policy or --responses, one of them.")
    if responses is not None:
        return read_responses(responses)
    from preftune.inference.backend import load_generator
    from preftune.responses.generator import GenerateSettings
    from preftune.responses.sample import sample
    from preftune.settings import build

    flags = {"max_new_tokens": draw.max_new_tokens, "temperature": draw.temperature}
    generator = load_generator(policy, build(GenerateSettings, flags, where="command line"))
    drawn = out.with_name(f"{out.name.removesuffix('.jsonl')}.responses.jsonl")
    report = sample(prompts, [generator], n=draw.n, seed=draw.seed, out=drawn)
    typer.echo(f"{report.responses} responses to {report.prompts} prompts in {drawn}")
    return read_responses(drawn)
