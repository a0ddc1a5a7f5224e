"""One evaluation: everything measured of a candidate against its baseline, ready for a gate."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from preftune.errors import DataError, RowError
from preftune.evaluation.measures import Measure
from preftune.evaluation.regression import PairedCheck, paired_check
from preftune.evaluation.win_rate import WinRate, WinSlice, win_rate
from preftune.files import open_binary, write_json
from preftune.types import Comparison, Judgment

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is known of a candidate: wins, regressions, other measures, and where they come from."""

    candidate: str
    baseline: str
    win_rate: WinRate | None = None
    checks: tuple[PairedCheck, ...] = ()
    measures: tuple[Measure, ...] = ()
    simulated_labels: bool = False  # the raters are programs; every report says so
    provenance: dict[str, str] = field(default_factory=dict)

    def all_measures(self) -> dict[str, Measure]:
        """Return every figure a gate may ask for, the win rate and its slices among them, by name.

        `win_rate`, `win_rate[TAG]`, `length_ratio`, `length_controlled_win_rate`, `unparsed_frac`,
        and all of `measures`.
        """
        return {m.name: m for m in (*_win_measures(self.win_rate), *self.measures)}

    def check(self, name: str) -> PairedCheck | None:
        """Return the check of this name, or None."""
        return next((check for check in self.checks if check.name == name), None)


def evaluate(
    comparisons: Iterable[Comparison],
    judgments: Iterable[Judgment],
    *,
    candidate: str,
    baseline: str,
    dimension: str = "overall",
    checks: Iterable[PairedCheck] = (),
    measures: Iterable[Measure] = (),
    simulated_labels: bool = False,
    provenance: Mapping[str, str] | None = None,
) -> Evaluation:
    """Return the evaluation of a candidate: its win rate from judged comparisons, and all else.

    Args:
        comparisons: what was shown.
        judgments: what was said.
        candidate: generator of the new model.
        baseline: generator of the old one.
        dimension: which judgments count.
        checks: pass/fail checks of both systems; see `paired_check`.
        measures: whatever else was measured; see `mean_measure`.
        simulated_labels: say so in every report; also said when a rater is simulated.
        provenance: names and values that trace the figures back, such as file hashes.

    Raises:
        DataError: as `win_rate`; or two measures or two checks of one name.
    """
    said = list(judgments)
    found = Evaluation(
        candidate=candidate,
        baseline=baseline,
        win_rate=win_rate(
            comparisons, said, candidate=candidate, baseline=baseline, dimension=dimension
        ),
        checks=tuple(checks),
        measures=tuple(measures),
        simulated_labels=simulated_labels or any(j.rater.kind == "simulated" for j in said),
        provenance=dict(provenance or {}),
    )
    taken = [m.name for m in (*_win_measures(found.win_rate), *found.measures)]
    for names in (taken, [check.name for check in found.checks]):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(f"evaluation: {repeated[0]!r} is there twice. Give each its own name.")
    return found


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the evaluation as JSON that `read_evaluation` gives back equal."""
    write_json(path, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation of a file.

    Raises:
        DataError: not readable, or not an evaluation.
    """
    return read_typed(path, Evaluation, "Write it with `preftune evaluate`")


def read_measures(path: Path) -> list[Measure]:
    """Return the measures of a file: a JSON array of objects with name, value, n and the rest.

    Raises:
        DataError: not readable, or not measures.
    """
    return read_typed(path, list[Measure], "Give an array of objects with name, value and n")


def read_typed(path: Path, kind: type[T], fix: str) -> T:
    """Return the JSON document of a file as `kind`.

    Raises:
        DataError: not readable, not JSON, or not of that kind; ends with `fix`.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. {fix}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}. {fix}.") from error


class _CheckRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    check: str
    prompt_id: str
    sample: int = 0
    baseline: bool
    candidate: bool
    tags: tuple[str, ...] = ()
    cluster: str | None = None


def read_checks(path: Path) -> list[PairedCheck]:
    """Return the checks of a JSON Lines file, one item of one check per line.

    `{"check": "facts", "prompt_id": "p-1", "sample": 0, "baseline": true, "candidate": false,
    "tags": ["danger"], "cluster": "row-3"}`; sample, tags and cluster may be left out.

    Raises:
        DataError: the file cannot be read or is empty.
        RowError: a line that is not such an object, or an item given twice.
    """
    grouped: dict[str, dict[tuple[str, int], _CheckRow]] = defaultdict(dict)
    try:
        with open_binary(path) as file:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Give a JSON Lines file of checks.") from error
    for number, line in lines:
        row = _check_row(path, number, line)
        item = row.prompt_id, row.sample
        if item in grouped[row.check]:
            what = f"check {row.check!r} has prompt {item[0]}, sample {item[1]} twice"
            raise RowError(path, number, what, "Give each item once.")
        grouped[row.check][item] = row
    if not grouped:
        raise DataError(f"{path}: no rows. Give one item of a check per line.")
    return [_paired(name, list(rows.values())) for name, rows in grouped.items()]


def _check_row(path: Path, number: int, line: bytes) -> _CheckRow:
    try:
        return msgspec.json.decode(line, type=_CheckRow)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        fix = "Give check, prompt_id, baseline and candidate; sample, tags, cluster if needed."
        raise RowError(path, number, str(error), fix) from error


def _paired(name: str, rows: Sequence[_CheckRow]) -> PairedCheck:
    return paired_check(
        name,
        baseline={(row.prompt_id, row.sample): row.baseline for row in rows},
        candidate={(row.prompt_id, row.sample): row.candidate for row in rows},
        tags={row.prompt_id: row.tags for row in rows},
        clusters={row.prompt_id: row.cluster for row in rows if row.cluster is not None},
    )


def _win_measures(rate: WinRate | None) -> list[Measure]:
    if rate is None:
        return []
    found = [_as_measure(part) for part in (rate.overall, *rate.slices)]
    found.append(
        Measure(
            name="unparsed_frac",
            value=rate.unparsed / rate.comparisons,
            n=rate.comparisons,
            unit="frac",
        )
    )
    return found + [m for m in (rate.length_ratio, rate.length_controlled) if m is not None]


def _as_measure(part: WinSlice) -> Measure:
    return Measure(
        name=f"win_rate[{part.tag}]" if part.tag else "win_rate",
        value=part.value,
        low=part.low,
        high=part.high,
        n=part.prompts,
        unit="frac",
        note=f"{part.wins} wins, {part.ties} ties, {part.losses} losses",
    )
