"""`preftune jobs`: make, follow and steer jobs of fine-tuning on a running server."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

Url = Annotated[str, typer.Option(envvar="PREFTUNE_URL", help="Address of the server, with /v1.")]
HERE = "http://127.0.0.1:8000/v1"
JobId = Annotated[str, typer.Argument(help="Id of the job, ftjob-…")]
JOBS = "/fine_tuning/jobs"
CODES = {"succeeded": 0, "paused": 3}  # of `watch`; all others: 1
jobs_app = typer.Typer(
    no_args_is_help=True,
    help="Jobs of fine-tuning on a running server; PREFTUNE_API_KEY holds the key.",
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("create")
def create_command(
    *,
    model: Annotated[str, typer.Option(help="A base model, a tuned one, or a checkpoint.")],
    training_file: Annotated[str, typer.Option(help="File of rows to upload, or the id of one.")],
    validation_file: Annotated[str, typer.Option(help="The same, for validation.")] = "",
    method: Annotated[str, typer.Option(help="supervised, dpo or reinforcement.")] = "dpo",
    hyper: Annotated[
        list[str] | None, typer.Option(help="Hyperparameter, such as n_epochs=2; again for more.")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Option(help="Extension, such as loss=ipo; again for more.")
    ] = None,
    grader: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of the grader, for reinforcement.")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Part of the tuned model's name.")] = "",
    seed: Annotated[int | None, typer.Option(help="Same seed, same losses; else drawn.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE to find the job by; again for more.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = HERE,
) -> None:
    """Upload the rows, make a job, and print its id.

    Example: preftune jobs create --model tiny --training-file pairs.jsonl --hyper beta=0.1 --watch
    """
    from preftune.cli.api_client import Api
    from preftune.settings import read_yaml

    api = Api(url)
    part: dict[str, Any] = {"hyperparameters": _values("--hyper", hyper)}
    if grader:
        part["grader"] = read_yaml(grader)
    how: dict[str, Any] = {"type": method, method: part}
    if extra:
        how["preftune"] = _values("--extra", extra)
    asked = {
        "model": model,
        "training_file": api.file_id(training_file),
        "validation_file": api.file_id(validation_file) if validation_file else None,
        "method": how,
        "suffix": suffix or None,
        "seed": seed,
        "metadata": _pairs("--metadata", metadata) or None,
    }
    job_id = api.post(JOBS, {k: v for k, v in asked.items() if v is not None})["id"]
    typer.echo(job_id)
    if watch:
        raise typer.Exit(_follow(url, job_id))


@jobs_app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to show.")] = 20,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Only jobs with this KEY=VALUE; again for more.")
    ] = None,
    url: Url = HERE,
) -> None:
    """Show the jobs of the key's project, the newest first.

    Example: preftune jobs list --metadata team=support
    """
    from preftune.cli.api_client import Api

    wanted = {f"metadata[{k}]": v for k, v in _pairs("--metadata", metadata).items()}
    for job in Api(url).all(JOBS, most=limit, **wanted):
        _say(f"{job['id']}  {job['status']:<16}  {_date(job['created_at'])}  {_made(job)}")


@jobs_app.command("show")
def show_command(job_id: JobId, url: Url = HERE) -> None:
    """Show all that the server says of a job, as JSON.

    Example: preftune jobs show ftjob-1f0c
    """
    _print_json(_ask(url, job_id))


@jobs_app.command("watch")
def watch_command(job_id: JobId, url: Url = HERE) -> None:
    """Follow a job to its end, through restarts of the server, with loss and time left.

    Leaves with 0 when the job has succeeded, 3 when it is paused, 1 when it failed or was
    cancelled.

    Example: preftune jobs watch ftjob-1f0c
    """
    raise typer.Exit(_follow(url, job_id))


@jobs_app.command("pause")
def pause_command(job_id: JobId, url: Url = HERE) -> None:
    """Stop training behind a checkpoint that answers requests; `resume` goes on from there.

    Example: preftune jobs pause ftjob-1f0c
    """
    _print_state(_ask(url, job_id, "pause"))


@jobs_app.command("resume")
def resume_command(job_id: JobId, url: Url = HERE) -> None:
    """Let a paused job go on with its next step.

    Example: preftune jobs resume ftjob-1f0c
    """
    _print_state(_ask(url, job_id, "resume"))


@jobs_app.command("cancel")
def cancel_command(job_id: JobId, url: Url = HERE) -> None:
    """End a job for good; its checkpoints stay.

    Example: preftune jobs cancel ftjob-1f0c
    """
    _print_state(_ask(url, job_id, "cancel"))


@jobs_app.command("events")
def events_command(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="Most events to show.")] = 20,
    url: Url = HERE,
) -> None:
    """Show what happened to a job, the last events at the end.

    Example: preftune jobs events ftjob-1f0c --limit 100
    """
    from preftune.cli.api_client import Api

    found = list(Api(url).all(f"{_path(job_id)}/events", most=limit))
    for event in reversed(found):
        _say(f"{_date(event['created_at'])}  {event['message']}")


@jobs_app.command("download")
def download_command(
    job_id: JobId,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path(),
    url: Url = HERE,
) -> None:
    """Write the result files of a job that has succeeded: a row for each step, as CSV.

    Example: preftune jobs download ftjob-1f0c --out results
    """
    from preftune.cli.api_client import Api
    from preftune.errors import DataError

    api = Api(url)
    files = api.get(_path(job_id))["result_files"]
    if not files:
        raise DataError(f"{job_id}: has no result file yet. Wait until it has succeeded.")
    for file_id in files:
        path = out / f"{file_id}-{Path(api.get(f'/files/{file_id}')['filename']).name}"
        typer.echo(f"{path}: {api.download(file_id, path)} bytes")


def _ask(url: str, job_id: str, what: str = "") -> dict[str, Any]:
    from preftune.cli.api_client import Api

    path = _path(job_id)
    return Api(url).post(f"{path}/{what}") if what else Api(url).get(path)


def _path(job_id: str) -> str:
    from preftune.cli.api_client import one

    return f"{JOBS}/{one(job_id)}"


def _follow(url: str, job_id: str) -> int:
    """Print what is told and move the bar; return the exit code of the outcome."""
    from preftune.cli.api_client import LONG_PATIENCE_S, Api
    from preftune.progress import progress

    moments = Api(url, patience_s=LONG_PATIENCE_S).watch(job_id)
    done, job = 0, dict[str, Any]()
    with ExitStack() as stack:
        advance = None
        for moment in moments:
            job = moment.job
            total = job["preftune"]["total_steps"]
            if advance is None and total:
                advance = stack.enter_context(progress(job["id"], total))
            for event in moment.events:
                if event["type"] == "message":
                    _say(event["message"])
            if advance is not None and moment.metrics:
                advance(moment.step - done, note=_note(moment.metrics[-1]["data"]))
                done = moment.step
    return CODES.get(job["status"], 1)


def _note(data: dict[str, Any]) -> str:
    loss, reward = data.get("train_loss"), data.get("train_mean_reward")
    return f"loss {loss:.4f}" if reward is None and loss is not None else f"reward {reward}"


def _values(flag: str, given: list[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE pairs, values as JSON where they are some and as text where not."""
    import json

    from preftune.errors import SettingsError

    def refuse(constant: str) -> None:
        raise SettingsError(f"{flag} {name}={constant}: not a number of JSON. Give a finite one.")

    found: dict[str, Any] = {}
    for name, text in _pairs(flag, given).items():
        try:
            found[name] = json.loads(text, parse_constant=refuse)
        except SettingsError:
            raise
        except ValueError:
            found[name] = text
    return found


def _pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    from preftune.errors import SettingsError

    found = {}
    for one in given or []:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise SettingsError(f"{flag} {one}: no value. Write it as NAME=VALUE.")
        found[name] = value
    return found


def _made(job: dict[str, Any]) -> str:
    made = job["fine_tuned_model"]
    return f"{job['method']['type']} of {job['model']}" + (f" → {made}" if made else "")


def _print_state(job: dict[str, Any]) -> None:
    _say(f"{job['id']} is {job['status']}")


def _print_json(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _say(text: str) -> None:
    from preftune.text import visible

    typer.echo(visible(text))
