"""`preftune sample` draws responses from models, here or behind a URL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.responses.generator import GenerateSettings
    from preftune.responses.sample import SampleReport
    from preftune.responses.spending import Prices
    from preftune.types import Prompt

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL...", help="Model folders, adapter folders or hub ids."),
]
Number = Annotated[int, typer.Option("--n", help="Responses per prompt, model and temperature.")]
Temperatures = Annotated[str, typer.Option(help="0 greedy, 1 the model as it is; or 0.7,1.0.")]
TopP = Annotated[float, typer.Option(help="Likeliest tokens that hold this mass.")]
TopK = Annotated[int, typer.Option(help="This many likeliest tokens; 0: all.")]
Longest = Annotated[int, typer.Option(help="Longest response, in tokens.")]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Text that ends a response, which is cut before it; repeat for several."),
]
Seed = Annotated[int, typer.Option(help="Same seed, same responses.")]
BatchSize = Annotated[int, typer.Option(help="Most responses written at once.")]
Name = Annotated[
    str, typer.Option(help="Who answers, as written on each response; else folder@hash.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
]
Url = Annotated[str, typer.Option(help="Ask models behind this OpenAI-compatible URL instead.")]
ModelsThere = Annotated[
    list[str] | None, typer.Option(help="Name of a model at the URL; repeat for several.")
]
AllowUrl = Annotated[
    list[str] | None, typer.Option(help="URL that may be http or not on the open internet.")
]
KeyEnv = Annotated[str, typer.Option(help="Name of the environment variable with the key.")]
KeyFile = Annotated[Path | None, typer.Option(help="File that holds the key and nothing else.")]
Concurrency = Annotated[int, typer.Option(help="Most requests under way at once.")]
Timeout = Annotated[float, typer.Option(help="Longest time for one attempt, in seconds.")]
PricesIn = Annotated[
    list[float] | None,
    typer.Option(help="USD per million prompt tokens; one for all models, or one each."),
]
PricesOut = Annotated[
    list[float] | None, typer.Option(help="The same per million tokens that are written.")
]
CostCap = Annotated[float | None, typer.Option(help="Most to spend on OUT in all runs, USD.")]

ONLY_HERE = {"models", "batch_size", "name", "trust_remote_code"}
ONLY_THERE = {
    "model",
    "allow_url",
    "key_env",
    "key_file",
    "concurrency",
    "timeout",
    "price_in",
    "price_out",
    "cost_cap",
}


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("sample")(sample_command)


def sample_command(
    context: typer.Context,
    models: Models = None,
    *,
    prompts: Annotated[Path, typer.Option(help="Prompts, in any format that has them.")],
    out: Annotated[Path, typer.Option(help="File of responses to make; JSON lines.")],
    n: Number = 4,
    temperature: Temperatures = "1.0",
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_new_tokens: Longest = 256,
    stop: Stop = None,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    name: Name = "",
    trust_remote_code: TrustRemoteCode = False,
    url: Url = "",
    model: ModelsThere = None,
    allow_url: AllowUrl = None,
    key_env: KeyEnv = "",
    key_file: KeyFile = None,
    concurrency: Concurrency = 8,
    timeout: Timeout = 30.0,
    price_in: PricesIn = None,
    price_out: PricesOut = None,
    cost_cap: CostCap = None,
) -> None:
    """Draw responses to prompts from models; stopped at any moment, the same command goes on.

    Example: preftune sample runs/sft/final --prompts prompts.jsonl --out responses.jsonl --n 4
    """
    _refuse_unused(context, bool(url))
    how = {"max_new_tokens": max_new_tokens, "top_p": top_p, "top_k": top_k, "stop": stop or []}
    draws = _draws(temperature, **how, batch_size=batch_size)
    from preftune.datasets.read import read_prompts

    asked, job = read_prompts(prompts), _Job(n=n, seed=seed, out=out)
    if url:
        server: dict[str, Any] = {"url": url, "allow_urls": allow_url or [], "key_env": key_env}
        server |= {"key_file": key_file, "concurrency": concurrency, "timeout_s": timeout}
        prices = (price_in or [], price_out or [])
        _sample_there(asked, server, model or [], draws, job, prices=prices, cap_usd=cost_cap)
    else:
        _sample_here(asked, models or [], draws, job, name, trust_remote_code)


class _Job(NamedTuple):
    """What is drawn however it is drawn."""

    n: int
    seed: int
    out: Path


def _refuse_unused(context: typer.Context, has_url: bool) -> None:
    """Raise `SettingsError` if something was given that would change nothing."""
    for name in sorted(ONLY_HERE if has_url else ONLY_THERE):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = "MODEL" if name == "models" else f"--{name.replace('_', '-')}"
            fix = (
                "Leave it out: models at a URL are named by --model." if has_url else "Give --url."
            )
            raise SettingsError(f"command line: {flag} with{'' if has_url else 'out'} --url. {fix}")


def _draws(temperatures: str, **flags: Any) -> "list[GenerateSettings]":
    from preftune.responses.generator import GenerateSettings
    from preftune.settings import build

    return [
        build(GenerateSettings, {**flags, "temperature": _number(text)}, where="command line")
        for text in temperatures.split(",")
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(
            f"command line: temperature {text!r}. Give numbers with commas between: 0.7,1.0."
        ) from None


def _sample_here(
    prompts: "Sequence[Prompt]",
    models: Sequence[str],
    draws: "Sequence[GenerateSettings]",
    job: _Job,
    name: str,
    trust_remote_code: bool,
) -> None:
    """Sample from models in this process; one model in memory serves all its temperatures."""
    if not models or (name and len(models) > 1):
        raise SettingsError(
            "command line: give one MODEL or more (or --url), and --name only with one."
        )
    from preftune.inference.backend import load_generator
    from preftune.responses.sample import sample

    loaded = [
        load_generator(model, draws[0], name=name, trust_remote_code=trust_remote_code)
        for model in models
    ]
    generators = [one.drawing(draw) for one in loaded for draw in draws]
    block = 4 * draws[0].batch_size
    _print_sampled(sample(prompts, generators, n=job.n, seed=job.seed, out=job.out, block=block))


def _sample_there(
    prompts: "Sequence[Prompt]",
    server: Mapping[str, Any],
    models: Sequence[str],
    draws: "Sequence[GenerateSettings]",
    job: _Job,
    *,
    prices: tuple[Sequence[float], Sequence[float]],
    cap_usd: float | None,
) -> None:
    """Sample from models at a URL."""
    from preftune.responses.remote import HttpSettings
    from preftune.responses.url_sampling import Asked, sample_url
    from preftune.settings import build

    report = sample_url(
        prompts,
        build(HttpSettings, server, where="command line"),
        [
            Asked(model=model, prices=price)
            for model, price in zip(models, _prices(len(models), *prices), strict=True)
        ],
        draws,
        n=job.n,
        seed=job.seed,
        out=job.out,
        cap_usd=cap_usd,
        tell=typer.echo,
    )
    if report.found and not report.sampled.kept:
        typer.echo(f"{report.found} answers kept from an earlier run, {report.asked} asked for")
    _print_sampled(report.sampled)


def _prices(
    models: int, usd_in: Sequence[float], usd_out: Sequence[float]
) -> "list[Prices] | list[None]":
    """Return the prices of each model, or none of each."""
    from preftune.responses.spending import Prices

    if not usd_in and not usd_out:
        return [None] * models
    if len(usd_in) != len(usd_out) or len(usd_in) not in (1, models):
        raise SettingsError(
            f"command line: {len(usd_in)} --price-in, {len(usd_out)} --price-out, {models} "
            "--model. Give both prices once for all models, or once for each."
        )
    each = [Prices(usd_in=i, usd_out=o) for i, o in zip(usd_in, usd_out, strict=True)]
    return each if len(each) == models else each * models


def _print_sampled(report: "SampleReport") -> None:
    if report.kept or report.cut:
        typer.echo(
            f"{report.kept} responses kept from an earlier run, {report.cut} cut and redrawn"
        )
    typer.echo(f"{report.responses} responses to {report.prompts} prompts in {report.out}")
    if report.unfinished:
        typer.echo(
            f"{report.unfinished} were cut at the longest length, with no end of turn; "
            "they are marked finished: false"
        )
