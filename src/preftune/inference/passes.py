"""What every pass without training shares: rows of like length together."""

from collections.abc import Iterator, Sequence


def by_length(
    lengths_tokens: Sequence[int], *, batch_size: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Yield row numbers to compute together, longest first, equal lengths in the order given.

    A batch has at most `batch_size` rows and, padded, at most `batch_tokens` tokens; a row longer
    than that stands alone.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths_tokens)), key=lambda row: -lengths_tokens[row]):
        longest = lengths_tokens[batch[0] if batch else row]
        full = len(batch) == batch_size or (len(batch) + 1) * longest > batch_tokens
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
