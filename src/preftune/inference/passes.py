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


def together(
    prompts: Sequence[tuple[int, ...]], *, new_tokens: int, batch_size: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Yield row numbers to write together, those with the longest prompts first.

    Rows of equal prompts stand behind each other, and in one batch if they fit in one. A batch has
    at most `batch_size` rows and, padded, at most `batch_tokens` tokens, `new_tokens` of each reply
    included; a row longer than that stands alone.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    batch: list[int] = []
    for prompt, rows in sorted(groups.items(), key=lambda group: -len(group[0])):
        longest = new_tokens + len(prompts[batch[0]] if batch else prompt)
        if batch and len(batch) + len(rows) > min(batch_size, batch_tokens // longest):
            yield batch
            batch, longest = [], new_tokens + len(prompt)
        batch += rows
        most = max(1, min(batch_size, batch_tokens // longest))
        while len(batch) > most:
            yield batch[:most]
            batch = batch[most:]
    if batch:
        yield batch
