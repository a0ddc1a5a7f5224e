"""How many of each slice: by weight, no slice below its floor or above what it has."""

import heapq
from collections.abc import Mapping


def quotas(
    weights: Mapping[str, float], available: Mapping[str, int], *, n: int, floor: int = 0
) -> dict[str, int]:
    """Return how many to take of each slice: `n` in all, or all there are.

    Each slice first gets `floor`, or all it has; every further one goes to the slice with the
    highest weight / (2 * taken + 1), so shares come as near to the weights as whole numbers can.
    Weights 3 and 1 share 4 as 3 and 1.

    Args:
        weights: of each slice, >= 0; a slice of weight 0 gets its floor only while others have any.
        available: of each slice.
        n: how many in all, at least what the floors take together.
        floor: what each slice gets if it has as many.

    Source: Webster's (Sainte-Laguë's) method of apportionment.
    """
    taken = {name: min(floor, count) for name, count in available.items()}
    line = [(_turn(weights[name], taken[name]), name) for name in available]
    heapq.heapify(line)
    left = n - sum(taken.values())
    while left > 0 and line:
        _, name = heapq.heappop(line)
        if taken[name] == available[name]:
            continue
        taken[name] += 1
        left -= 1
        heapq.heappush(line, (_turn(weights[name], taken[name]), name))
    return taken


def _turn(weight: float, taken: int) -> float:
    """Return the place in the line: the lower, the sooner served."""
    return -weight / (2 * taken + 1)
