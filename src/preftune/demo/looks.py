"""What the looks at fresh replies saw of a tuning run, and where the alarm would have ended it."""

from collections.abc import Sequence

from preftune.stats.over_optimisation import Alarm, Evaluation, alarms, best


def asked_to_stop(rows: Sequence[Evaluation]) -> tuple[Evaluation, Alarm] | None:
    """Return the first look whose alarm asks to end the run, and the alarm, if there is one.

    A run that was told to go on all the same has looks after it.
    """
    for place, row in enumerate(rows):
        for alarm in alarms(rows[: place + 1]):
            if alarm.stop:
                return row, alarm
    return None


def looks_lines(rows: Sequence[Evaluation]) -> str:
    """Return where reward and gold began, where gold was best, how both ended, and the alarm.

    Empty without two looks that know gold.
    """
    known = [row for row in rows if row.gold is not None]
    if len(known) < 2:
        return ""
    start, peak, end = known[0], best(known), known[-1]
    said = [
        f"   looks at fresh replies: reward {start.proxy:.2f} → {end.proxy:.2f}; "
        f"gold {start.gold:.2f}, at its best {peak.gold:.2f} (before step {peak.step}), "
        f"{end.gold:.2f} at the end (KL {end.kl:.1f})"
    ]
    asked = asked_to_stop(rows)
    if asked is None:
        return said[0]
    row, alarm = asked
    return "\n".join([*said, f"   ALARM before step {row.step}: {alarm.problem}"])
