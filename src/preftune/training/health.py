"""Signs of an unhealthy run, each said once, with what to try."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

WINDOW = 20  # steps a judgement is made over
DISPLACED_NATS = 0.5  # experiments on displacement: margin up while chosen falls by more than this
GRADIENT_JUMP = 10.0  # times the median so far


@dataclass(kw_only=True, slots=True)
class Health:
    """Watches the metrics of a run; `note` is what the progress bar shows."""

    rows: deque[Mapping[str, float | int]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    norms: list[float] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)
    note: str = ""

    def replay(self, rows: Iterable[Mapping[str, float | int]]) -> None:
        """Take up where a resumed run stood, without saying anything twice."""
        for row in rows:
            list(self.watch(row))

    def watch(self, row: Mapping[str, float | int]) -> Iterator[str]:
        """Yield each warning the newest row gives cause for, once per run."""
        self.rows.append(row)
        accuracy = f"  accuracy {row['accuracy']:.2f}" if "accuracy" in row else ""
        self.note = f"loss {row['loss']:.4f}{accuracy}"
        for name, message in (*self._displacement(), *self._gradient(row)):
            if name not in self.said:
                self.said.add(name)
                yield message

    def _displacement(self) -> Iterator[tuple[str, str]]:
        """Likelihood displacement: the margin grows while the chosen response itself falls."""
        rows = [row for row in self.rows if "chosen_logratio" in row]
        if len(rows) < WINDOW:
            return
        chosen = fmean(row["chosen_logratio"] for row in rows)
        margin = fmean(row["margin"] for row in rows)
        if margin > 0 and chosen < -DISPLACED_NATS:
            yield (
                "displacement",
                f"chosen responses became less likely ({chosen:+.2f} nats each) while the margin "
                f"grew ({margin:+.2f}). Try --nll-weight 0.2, a lower --lr or a larger --beta.",
            )

    def _gradient(self, row: Mapping[str, float | int]) -> Iterator[tuple[str, str]]:
        norm = row["grad_norm"]
        usual = median(self.norms) if len(self.norms) >= WINDOW else None
        if usual is not None and norm > GRADIENT_JUMP * usual:
            yield (
                "gradient",
                f"the gradient norm jumped to {norm:.3g}, {norm / usual:.0f} times the median. "
                "Try a lower --lr or a longer --warmup-frac.",
            )
        self.norms.append(norm)


def probe_warnings(row: Mapping[str, float | int], *, kl_alarm: float) -> Iterator[str]:
    """Yield warnings from fresh samples: the policy is far from its reference, or too long."""
    if row["kl"] > kl_alarm:
        yield (
            f"sampled KL to the reference is {row['kl']:.2f} nats a reply (alarm {kl_alarm}). "
            "Try a lower --lr, fewer --epochs, a larger --beta, or --kl-stop."
        )
    if row["length_ratio"] > 1.25:
        yield (
            f"replies are {row['length_ratio']:.2f} times as long as the reference's. "
            "Look at the length bias of the pairs: preftune data inspect."
        )
