"""What a step shows its user: the columns of `step_metrics.csv`, and the data of its event.

Both come from the same row of `metrics.jsonl`, so they are equal, and a resumed job tells the same.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from preftune.jobs.extras import Method
from preftune.wire.job import Event

Row = Mapping[str, Any]
SFT = (
    *("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"),
    *("train_mean_token_accuracy", "full_valid_loss", "full_valid_mean_token_accuracy"),
)
OF_PAIRS = (
    *("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward", "chosen_logps"),
    *("rejected_logps", "kl", "chosen_length_tokens", "rejected_length_tokens"),
)
DPO = (
    *("train_loss", "valid_loss", "full_valid_loss"),
    *(f"train_{name}" for name in OF_PAIRS),
    *(f"full_valid_{name}" for name in OF_PAIRS),
)
RFT = (
    *("train_loss", "train_mean_reward", "full_valid_mean_reward", "completion_tokens_mean"),
    *("reasoning_tokens_mean", "mean_unresponsive_rewards", "full_valid_mean_parse_error"),
    *("kl", "entropy", "finished_frac"),
)
COLUMNS: dict[Method, tuple[str, ...]] = {"supervised": SFT, "dpo": DPO, "reinforcement": RFT}
SAME = {  # our name of a figure, where the column has another
    "train_loss": "loss",
    "train_accuracy": "mean_token_accuracy",
    "train_mean_token_accuracy": "mean_token_accuracy",
    "train_mean_reward": "reward",
    "completion_tokens_mean": "length_tokens",
    **{f"train_{name}": name for name in OF_PAIRS},
}
GRADERS, ERRORS = "scores/graders/", "errors/graders/"
TIMES = {"sampling": "rollout", "training": "update", "eval": "validation"}


def columns(method: Method, row: Row) -> dict[str, float]:
    """Return what was measured at a step by column, in their order; what was not is left out."""
    names = [*COLUMNS[method], *sorted(name for name in row if name.startswith((GRADERS, ERRORS)))]
    found = {name: row.get(SAME.get(name, name)) for name in names}
    if method == "reinforcement":
        found["reasoning_tokens_mean"] = 0.0  # what a model thinks is part of its response
    return {name: float(value) for name, value in found.items() if value is not None}


def step_event(
    method: Method, row: Row, *, total: int, seconds: Row | None = None, now_s: float
) -> Event:
    """Return the event of a step; its key is its number, counted from 1.

    Args:
        method: of the job.
        row: of `metrics.jsonl`.
        total: steps of the whole job.
        seconds: what the parts of the step took, where that is known.
        now_s: seconds since 1970.
    """
    number, found = int(row["step"]) + 1, columns(method, row)
    data: dict[str, Any] = {"step": number, "total_steps": total, **found}
    if method == "reinforcement":
        data |= nested(found, seconds or {})
    return Event(
        key=f"step-{number}",
        message=f"Step {number}/{total}: training loss={found['train_loss']:.4f}",
        type="metrics",
        data=data,
        created_s=now_s,
    )


def nested(found: Mapping[str, float], seconds: Row) -> dict[str, Any]:
    """Return the figures of a reinforcement step once more, as OpenAI nests them."""
    graders, troubles = _by_grader(found, GRADERS), _by_grader(found, ERRORS)
    names = [{"name": grader["name"]} for grader in graders]
    times = {name: seconds.get(ours, 0.0) for name, ours in TIMES.items()}
    return {
        "scores": {
            "train_reward_mean": found.get("train_mean_reward"),
            "valid_reward_mean": found.get("full_valid_mean_reward"),
            "graders": graders,
        },
        "usage": {"graders": names, "samples": None},
        "errors": {"graders": troubles},
        "timing": {
            "step": {**times, "full_iteration": seconds.get("seconds", 0.0)},
            "graders": names,
        },
        "model_graders_token_usage": {},
    }


def _by_grader(found: Mapping[str, float], prefix: str) -> list[dict[str, Any]]:
    """Return figures named `prefix/GRADER/FIGURE` as one object for each grader."""
    graders: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        if name.startswith(prefix):
            grader, _, figure = name.removeprefix(prefix).rpartition("/")
            graders.setdefault(grader, {"name": grader})[figure] = value
    return list(graders.values())


def checkpoint_metrics(method: Method, row: Row) -> dict[str, Any]:
    """Return what was measured at the step of a checkpoint."""
    return {"step": int(row["step"]) + 1, **columns(method, row)}


def result_csv(method: Method, rows: Sequence[Row]) -> str:
    """Return `step_metrics.csv`: a row per step, cells empty where nothing was measured."""
    measured = [columns(method, row) for row in rows]
    names = list(COLUMNS[method])
    names += sorted({name for row in measured for name in row} - {*names})
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["step", *names])
    for number, row in enumerate(measured, start=1):
        writer.writerow([number, *(_cell(row.get(name)) for name in names)])
    return page.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def trained_tokens(rows: Iterable[Row]) -> int:
    """Return all tokens that steps went through, prompts and responses."""
    return int(sum(row.get("step_tokens", 0.0) for row in rows))
