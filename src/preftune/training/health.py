"""Signs of an unhealthy run, each said once, with what to try."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

Row = Mapping[str, float | int]
Window = Mapping[str, float]  # mean of each metric over WINDOW steps

WINDOW = 20  # steps a judgement is made over, of those that have its figures
DISPLACED_NATS = 0.5  # experiments on displacement: margin up while chosen falls by more than this
DISPLACED_PER_TOKEN = 0.1  # nats a token since the first window, for losses without a reference
GRADIENT_JUMP = 10.0  # times the median of the last USUAL_STEPS
USUAL_STEPS = 1000
LENGTH_CORRELATION = 0.5  # a quarter of what the margins differ by is length
FALLING = 0.01  # nats between two windows
CERTAIN_WINDOWS = 5  # windows without one wrong pair before a growing margin counts as endless
SLOW_WINDOWS = 5  # windows after which the accuracy must have left chance
CHANCE = 0.55  # accuracy
LENGTH_RATIO = 1.25  # of fresh replies to those of the reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that can go wrong: what is healthy, and what to try when it is not."""

    name: str
    metrics: tuple[str, ...]  # it is silent on rows without them
    healthy: str
    remedy: str
    problem: Callable[[Sequence[Window]], str]  # windows so far, the newest last; "" is none


def displacement(windows: Sequence[Window]) -> str:
    """Likelihood displacement: the margin grows while the chosen response itself falls."""
    chosen, margin = windows[-1]["chosen_logratio"], windows[-1]["margin"]
    if margin > 0 and chosen < -DISPLACED_NATS:
        return (
            f"chosen responses became less likely ({chosen:+.2f} nats each) while the margin grew "
            f"({margin:+.2f})"
        )
    return ""


def displacement_without_reference(windows: Sequence[Window]) -> str:
    """The same, told by the log-prob per token since the first window."""
    name = "chosen_logp_per_token"
    chosen = windows[-1][name] - windows[0][name]
    margin = windows[-1]["margin"] - windows[0]["margin"]
    if margin > 0 and chosen < -DISPLACED_PER_TOKEN:
        return (
            f"chosen responses became less likely ({chosen:+.2f} nats a token) while the margin "
            f"grew ({margin:+.2f} nats)"
        )
    return ""


def endless_margin(windows: Sequence[Window]) -> str:
    """Labels that are never wrong push the margin for ever, as log t."""
    last = windows[-CERTAIN_WINDOWS:]
    margins = [window["margin"] for window in last]
    certain = all(window["accuracy"] == 1 for window in last)
    growing = all(later > 1.01 * earlier for earlier, later in pairwise(margins))
    if len(last) == CERTAIN_WINDOWS and certain and growing:
        return (
            f"every pair was right for {CERTAIN_WINDOWS * WINDOW} steps and the margin still grows "
            f"({margins[-1]:+.2f} nats): deterministic labels, the margin diverges"
        )
    return ""


def falling_below_zero(windows: Sequence[Window]) -> str:
    """A loss without a lower bound on its way down, well below 0."""
    if len(windows) < 2:
        return ""
    before, now = (window["preference_loss"] for window in windows[-2:])
    if before < 0 and now < before - FALLING:
        return f"the loss is below 0 and falls ({now:.3f}): it has no lower bound"
    return ""


def length_bias(windows: Sequence[Window]) -> str:
    """The policy learns how long answers are."""
    found = windows[-1]["length_correlation"]
    if abs(found) > LENGTH_CORRELATION:
        kind = "longer" if found > 0 else "shorter"
        return f"margins follow length (correlation {found:+.2f}): {kind} answers are preferred"
    return ""


def no_progress(windows: Sequence[Window]) -> str:
    """Accuracy at chance long after the start."""
    found = windows[-1]["accuracy"]
    if len(windows) >= SLOW_WINDOWS and found < CHANCE:
        return f"accuracy is {found:.2f} after {len(windows) * WINDOW} steps: no better than chance"
    return ""


CHECKS = (
    Check(
        name="displacement",
        metrics=("chosen_logratio", "margin"),
        healthy=f"chosen at most {DISPLACED_NATS} nats below the reference while the margin grows",
        remedy="Try --nll-weight 0.2, a lower --lr or a larger --beta.",
        problem=displacement,
    ),
    Check(
        name="displacement without a reference",
        metrics=("chosen_logp_per_token", "margin"),
        healthy=f"chosen at most {DISPLACED_PER_TOKEN} nats a token below the first steps",
        remedy="Try --nll-weight 0.2 or a lower --lr.",
        problem=displacement_without_reference,
    ),
    Check(
        name="endless margin",
        metrics=("accuracy", "margin"),
        healthy=f"a wrong pair now and then, or a margin that settles, over "
        f"{CERTAIN_WINDOWS * WINDOW} steps",
        remedy="Try --loss ipo or cdpo, --label soft, or fewer --epochs.",
        problem=endless_margin,
    ),
    Check(
        name="loss below 0",
        metrics=("preference_loss",),
        healthy="a loss that is not negative and falling",
        remedy="An overstated --flip-rate does this: lower it, or try --loss cdpo.",
        problem=falling_below_zero,
    ),
    Check(
        name="length",
        metrics=("length_correlation",),
        healthy=f"correlation of margin and length difference within ±{LENGTH_CORRELATION}",
        remedy="Look at preftune data inspect; try --loss r_dpo, ld_dpo, sampo or sigmoid_norm.",
        problem=length_bias,
    ),
    Check(
        name="no progress",
        metrics=("accuracy",),
        healthy=f"accuracy above {CHANCE} after {SLOW_WINDOWS * WINDOW} steps",
        remedy="Try a higher --lr; check the labels with preftune data check.",
        problem=no_progress,
    ),
)


@dataclass(kw_only=True, slots=True)
class Health:
    """Watches the metrics of a run; `note` is what the progress bar shows.

    Each check has windows of its own, made of the steps that have its metrics: a step without
    pairs has no margin. `waiting` holds the steps since its last whole window.
    """

    waiting: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    windows: dict[str, list[Window]] = field(default_factory=lambda: defaultdict(list))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL_STEPS))
    said: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)
    note: str = ""

    def replay(self, rows: Iterable[Row]) -> None:
        """Take up where a resumed run stood, without saying anything twice."""
        for row in rows:
            list(self.watch(row))

    def watch(self, row: Row) -> Iterator[str]:
        """Yield each warning the newest row gives cause for, once per run."""
        accuracy = f"  accuracy {row['accuracy']:.2f}" if "accuracy" in row else ""
        self.note = f"loss {row['loss']:.4f}{accuracy}"
        for name, message in (*self._windowed(row), *self._gradient(row)):
            if name not in self.said:
                self.said.add(name)
                yield message

    def _windowed(self, row: Row) -> Iterator[tuple[str, str]]:
        for check in CHECKS:
            if not all(name in row for name in check.metrics):
                continue
            waiting, windows = self.waiting[check.name], self.windows[check.name]
            waiting.append(row)
            if len(waiting) < WINDOW:
                continue
            windows.append({name: fmean(each[name] for each in waiting) for name in check.metrics})
            waiting.clear()
            if problem := check.problem(windows):
                yield check.name, f"{problem}. {check.remedy}"

    def _gradient(self, row: Row) -> Iterator[tuple[str, str]]:
        norm = row["grad_norm"]
        usual = median(self.norms) if len(self.norms) >= WINDOW else None
        if usual and norm > GRADIENT_JUMP * usual:
            yield (
                "gradient",
                f"the gradient norm jumped to {norm:.3g}, {norm / usual:.0f} times the median. "
                "Try a lower --lr or a longer --warmup-frac.",
            )
        if norm:  # a step that learnt nothing has none
            self.norms.append(norm)


def not_finite(learnt: Row, step: int) -> str:
    """Return which figure of an optimiser step is no number, or an empty text."""
    bad = [name for name, value in learnt.items() if not math.isfinite(value)]
    return f"the {bad[0]} of step {step} is {learnt[bad[0]]}" if bad else ""


def probe_warnings(row: Row, *, kl_alarm: float) -> Iterator[str]:
    """Yield warnings from fresh samples: the policy is far from its reference, or too long."""
    if row["kl"] > kl_alarm:
        yield (
            f"sampled KL to the reference is {row['kl']:.2f} nats a reply (alarm {kl_alarm}). "
            "Try a lower --lr, fewer --epochs, a larger --beta, or --kl-stop."
        )
    if row["length_ratio"] > LENGTH_RATIO:
        yield (
            f"replies are {row['length_ratio']:.2f} times as long as the reference's. "
            "Look at the length bias of the pairs: preftune data inspect."
        )
