"""Figures of a running server, in the text format that Prometheus reads."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # what fits no route, or no method: strangers must not make figures of their own
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Meters:
    """Counts requests and how long they took; all in one thread, the one that answers."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_S) + 1))
        self._seconds: dict[str, float] = defaultdict(float)

    def saw(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count one request by its route, as `/v1/files/{file_id}`; None: it fits none."""
        path = route or OTHER
        self._requests[path, method if method in METHODS else OTHER, status] += 1
        self._buckets[path][bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[path] += seconds

    def lines(self) -> Iterator[str]:
        """Yield the figures of requests."""
        counts: dict[Labels, float] = {
            (("route", route), ("method", method), ("status", str(status))): float(count)
            for (route, method, status), count in sorted(self._requests.items())
        }
        yield from metric("preftune_requests_total", "counter", "Requests answered.", counts)
        name = "preftune_request_seconds"
        yield f"# HELP {name} Time to answer."
        yield f"# TYPE {name} histogram"
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                yield f"{name}_bucket{_shown((('route', route), ('le', edge)))} {total}"
            yield f"{name}_sum{_shown((('route', route),))} {self._seconds[route]:.6f}"
            yield f"{name}_count{_shown((('route', route),))} {total}"


def metric(name: str, kind: str, help: str, values: Mapping[Labels, float]) -> Iterator[str]:
    """Yield one figure, with a line for each set of labels."""
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{_shown(labels)} {value:g}"


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
