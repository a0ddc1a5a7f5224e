"""Draw the figures of docs/engine.md and docs/checkpoints.md as SVG, from the code they explain.

Places, position ids, where a token is read and who attends to whom come from `engine.layout` and
`engine.segments`, so a figure cannot say anything else than what happens.

    python docs/images/draw.py docs/images
"""

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from preftune.engine.layout import Layout, packed
from preftune.engine.segments import segments
from preftune.models.tokens import TokenSequence

PAIRS = (
    ("can I wash it", "yes please end", "no end"),
    ("is it safe", "yes end", "never end"),
)
WORDS = sorted({word for texts in PAIRS for text in texts for word in text.split()})
KINDS = ("prompt", "chosen", "rejected")

LIGHT = {
    "card": "#ffffff",
    "ink": "#1f2328",
    "muted": "#57606a",
    "line": "#c4ccd4",
    "empty": "#f1f3f5",
    "prompt": "#cfe2ff",
    "chosen": "#c3ebcb",
    "rejected": "#ffd8bd",
    "accent": "#0a58ca",
}
DARK = {
    "card": "#161b22",
    "ink": "#e6edf3",
    "muted": "#a3adb8",
    "line": "#4a535e",
    "empty": "#21272f",
    "prompt": "#1f4a7d",
    "chosen": "#1f5f39",
    "rejected": "#7d431d",
    "accent": "#79b8ff",
}
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace"


def svg(name: str, about: str, width: int, height: int, body: Iterator[str]) -> str:
    """Return a whole figure on a card of its own, so that the page behind it does not matter.

    Args:
        name: short title, read out by screen readers.
        about: what the figure shows, for those who cannot see it.
        width: of the card.
        height: of the card.
        body: its elements; colours are classes, not values.
    """
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    card = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" class="page"/>'
    parts = [head, f"<title>{escape(name)}</title>", f"<desc>{escape(about)}</desc>", style()]
    return "\n".join([*parts, card, *body, "</svg>"]) + "\n"


def style() -> str:
    """Return the style sheet: light colours, and dark ones where the reader prefers them."""
    rules = [
        f"text {{ font: 13px {SANS}; fill: var(--ink); }}",
        f".mono {{ font: 13px {MONO}; }}",
        ".small { font-size: 11.5px; }",
        ".strong { font-weight: 600; }",
        ".soft { fill: var(--muted); }",
        ".middle { text-anchor: middle; }",
        ".end { text-anchor: end; }",
        ".page { fill: var(--card); stroke: var(--line); }",
        "rect { stroke: var(--line); }",
        *(f"rect.{kind} {{ fill: var(--{kind}); }}" for kind in (*KINDS, "empty")),
        ".ghost { fill: none; stroke: var(--muted); stroke-dasharray: 4 4; }",
        ".frame { fill: none; stroke: var(--accent); stroke-width: 2; }",
        ".arrow { fill: none; stroke: var(--accent); stroke-width: 1.5; }",
        ".tip { fill: var(--accent); }",
    ]
    light, dark = (
        " ".join(f"--{name}: {value};" for name, value in palette.items())
        for palette in (LIGHT, DARK)
    )
    at_night = f"@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    return "\n".join(["<style>", f"svg {{ {light} }}", at_night, *rules, "</style>"])


def text(x: float, y: float, words: str, look: str = "") -> str:
    """Return one line of text; `look` names classes."""
    return f'<text x="{x:g}" y="{y:g}" class="{look}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, look: str, name: str = "") -> str:
    """Return a rectangle with square corners; a name makes it findable."""
    named = f' id="{name}"' if name else ""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} class="{look}"{named}/>'


def tip(x: float, y: float, direction: str = "down") -> str:
    """Return the head of an arrow that ends at a point."""
    back = {"down": "l -4 -7 h 8 z", "right": "l -7 -4 v 8 z"}[direction]
    return f'<path d="M {x:g} {y:g} {back}" class="tip"/>'


def sequences() -> list[tuple[TokenSequence, TokenSequence]]:
    """Return the example pairs as token ids."""

    def ids(words: str) -> tuple[int, ...]:
        return tuple(WORDS.index(word) for word in words.split())

    def sequence(prompt: str, response: str) -> TokenSequence:
        own = (False,) * len(ids(prompt)) + (True,) * len(ids(response))
        return TokenSequence(prompt_ids=ids(prompt), response_ids=ids(response), own=own)

    return [(sequence(p, chosen), sequence(p, rejected)) for p, chosen, rejected in PAIRS]


def kinds(layout: Layout) -> list[str]:
    """Return of each place of a stream whether it is prompt, chosen or rejected."""
    found = []
    for group in layout.groups:
        for kind, length in zip(KINDS, (group.prefix, *group.rests), strict=True):
            found += [kind] * length
    return found


def attends(layout: Layout) -> set[tuple[int, int]]:
    """Return every (query, key) of a stream where the query's token looks at the key's."""
    found = set()
    for queries, keys in segments(layout.groups):
        seen = [place for part in keys for place in range(part.start, part.stop)]
        before = len(seen) - (queries.stop - queries.start)
        for number, query in enumerate(range(queries.start, queries.stop)):
            found |= {(query, key) for key in seen[: before + number + 1]}
    return found


CELL = 74  # width of a token in the figure of the stream


def stream_figure() -> str:
    """Return a pair as padded rows and as one stream, and where each log-prob is read."""
    pair = sequences()[0]
    layout = packed([pair])
    saved = f"{sum(len(s) for s in pair) + 1} places against {layout.ids.numel()}"
    return svg(
        "One pair as padded rows and as one stream",
        f"The prompt of a pair stands once in the stream, then both responses: {saved}. "
        "Position ids go on after the prompt in both. Arrows lead from the place whose hidden "
        "state predicts a token to that token; the first token of both responses is predicted "
        "at the last token of the prompt.",
        860,
        430,
        _stream_body(pair, layout),
    )


def _stream_body(pair: tuple[TokenSequence, TokenSequence], layout: Layout) -> Iterator[str]:
    left, widest = 150, max(len(sequence) for sequence in pair)
    yield text(24, 36, "Padded rows: the prompt twice, and padding", "strong")
    for number, sequence in enumerate(pair):
        y = 52 + 40 * number
        yield text(left - 14, y + 21, ("chosen", "rejected")[number], "end soft")
        for place in range(widest):
            prompt = place < len(sequence.prompt_ids)
            kind = "prompt" if prompt else KINDS[number + 1]
            word = WORDS[sequence.ids[place]] if place < len(sequence) else "pad"
            yield from _token(left, y, place, word, kind if word != "pad" else "empty")
    yield text(24, 172, "One stream: the prompt once, then both responses", "strong")
    y = 256
    for place, kind in enumerate(kinds(layout)):
        yield from _token(left, y, place, WORDS[int(layout.ids[0, place])], kind)
        middle = left + CELL * (place + 0.5) - 2
        yield text(middle, y + 56, f"{place}", "mono middle soft")
        yield text(middle, y + 82, f"{int(layout.positions[0, place])}", "mono middle strong")
    yield text(left - 14, y + 21, "token", "end soft")
    yield text(left - 14, y + 56, "place", "end soft")
    yield text(left - 14, y + 82, "position id", "end strong")
    yield from _reading_arrows(left, y, layout)
    yield text(24, 382, "An arrow leads from the place that is read to the token it predicts.")
    yield text(24, 404, "The first token of both responses is read at the prompt's last token.")


def _token(left: float, y: float, place: int, word: str, kind: str) -> Iterator[str]:
    look = "mono middle soft" if word == "pad" else "mono middle"
    yield box(left + CELL * place, y, CELL - 4, 32, kind)
    yield text(left + CELL * (place + 0.5) - 2, y + 21, word, look)


def _reading_arrows(left: float, y: float, layout: Layout) -> Iterator[str]:
    """Yield an arrow from each place that is read to the own token whose log-prob it gives."""
    own = [place for place, kind in enumerate(kinds(layout)) if kind != "prompt"]
    for source, target in zip(layout.scored.tolist(), own, strict=True):
        begin, end = (left + CELL * (place + 0.5) - 2 for place in (source, target))
        begin, end = begin + 6, end - 6
        height = 30 + 13 * (target - source - 1)
        bend = f"C {begin:g} {y - height:g} {end:g} {y - height:g} {end:g} {y - 6:g}"
        yield f'<path d="M {begin:g} {y - 2:g} {bend}" class="arrow"/>'
        yield tip(end, y - 1)


SIDE = 25  # of a cell in the figure of the attention


def attention_figure() -> str:
    """Return the block matrix of two pairs: which token attends to which, and the kernel calls."""
    layout = packed(sequences())
    count, tokens = len(attends(layout)), layout.ids.numel()
    return svg(
        "Who attends to whom in a stream of two pairs",
        f"A matrix of {tokens} queries by {tokens} keys with {count} of {tokens * tokens} cells "
        "filled. A prompt is causal; each response sees its prompt and itself, never the other "
        "response, never another pair.",
        860,
        524,
        _attention_body(layout),
    )


def _attention_body(layout: Layout) -> Iterator[str]:
    left, top = 96, 96
    words = [WORDS[token] for token in layout.ids[0].tolist()]
    yield text(left, 32, "keys: what is looked at", "strong")
    turned = f'transform="translate(28 {top + 200}) rotate(-90)"'
    yield f'<text {turned} class="strong middle">queries: who looks</text>'
    for place, word in enumerate(words):
        middle = left + SIDE * (place + 0.5)
        turned = f'transform="translate({middle + 4:g} {top - 8}) rotate(-60)"'
        yield f'<text {turned} class="mono small">{escape(word)}</text>'
        yield text(left - 8, top + SIDE * (place + 0.5) + 4, word, "mono small end")
    seen, kind = attends(layout), kinds(layout)
    for query in range(len(words)):
        for key in range(len(words)):
            look = kind[query] if (query, key) in seen else "empty"
            name = f"{query}-sees-{key}" if (query, key) in seen else ""
            yield box(left + SIDE * key, top + SIDE * query, SIDE, SIDE, look, name)
    yield from _frames(left, top, layout)
    yield from _legend(left + SIDE * len(words) + 34, top, layout)


def _frames(left: float, top: float, layout: Layout) -> Iterator[str]:
    """Yield a frame around the queries and keys of each kernel call."""
    for number, (queries, keys) in enumerate(segments(layout.groups), 1):
        height = SIDE * (queries.stop - queries.start)
        for part in keys:
            x, y = left + SIDE * part.start, top + SIDE * queries.start
            yield box(x, y, SIDE * (part.stop - part.start), height, "frame")
        corner = left + SIDE * queries.stop - 13, top + SIDE * queries.start + 17
        yield text(*corner, f"{number}", "strong soft middle")


def _legend(x: float, y: float, layout: Layout) -> Iterator[str]:
    meanings = {
        "prompt": "prompt token: sees the prompt so far",
        "chosen": "chosen token: the prompt, and itself so far",
        "rejected": "rejected token: the same for itself",
        "empty": "not seen; outside the frames",
    }
    for number, (kind, meaning) in enumerate(meanings.items()):
        yield box(x, y + 28 * number, 18, 18, kind)
        yield text(x + 28, y + 28 * number + 14, meaning)
    yield text(x + 28, y + 116, "not even computed")
    yield text(x, y + 164, "One kernel call per frame number", "strong")
    for number, (queries, keys) in enumerate(segments(layout.groups), 1):
        joined = " + ".join(_span(part) for part in keys)
        line = f"{number}: queries {_span(queries)}, keys {joined}"
        yield text(x, y + 164 + 26 * number, line, "mono small")
    for number, line in enumerate(
        (
            "The first response lies right behind its",
            "prompt: one plain causal call for both.",
            "Each further response joins the prompt's",
            "keys in front of its own.",
        )
    ):
        yield text(x, y + 304 + 20 * number, line, "soft")


def _span(places: slice) -> str:
    return f"{places.start}–{places.stop - 1}"


def head_figure() -> str:
    """Return how a chunk of logits passes through the head, forward and backward."""
    return svg(
        "The head in chunks",
        "Hidden states of own tokens are projected on the vocabulary chunk by chunk. The forward "
        "keeps a log-sum-exp and a log-prob per token. The backward makes each chunk again, turns "
        "it into its own gradient in place, and multiplies it into the gradients of the hidden "
        "states and of the weight. Logits of all tokens never exist.",
        860,
        366,
        _head_body(),
    )


def _head_body() -> Iterator[str]:
    for y, name, kind, chunk in (
        (56, "Forward", "chosen", "logits"),
        (226, "Backward", "rejected", "logits, then their gradient"),
    ):
        yield text(24, y - 20, name, "strong")
        yield box(60, y, 44, 96, "empty")
        yield box(60, y + 32, 44, 24, "prompt")
        yield text(82, y + 116, "hidden [N, D]", "middle small soft")
        yield from _line(108, y + 44, 186)
        yield text(146, y + 37, "× weight", "middle small")
        yield box(190, y, 270, 96, "ghost")
        yield box(190, y + 32, 270, 24, kind)
        yield text(325, y + 49, f"a chunk: {chunk}", "middle")
        yield text(325, y + 20, "all logits [N, V]: never built", "middle small soft")
        yield text(325, y + 116, "64 MiB of fp32 at most, then the next", "middle small soft")
        yield from _line(464, y + 44, 526)
    yield text(540, 92, "log-sum-exp [N]: kept for the backward")
    yield text(540, 114, "log-prob of the target [N]: the answer")
    yield text(540, 252, "in place: (one-hot − softmax) × incoming")
    yield text(540, 274, "× weight: the gradient of hidden [N, D]")
    yield text(540, 296, "× hidden: the gradient of weight [V, D]")


def _line(x: float, y: float, end: float) -> Iterator[str]:
    yield f'<path d="M {x:g} {y:g} H {end - 5:g}" class="arrow"/>'
    yield tip(end, y, "right")


SAVING = (
    ("write aside", (".step-000200.x.tmp/", "model, optimizer,", "extra, state.json")),
    ("manifest last", ("size and SHA-256 of", "every file, then", "of itself")),
    ("fsync", ("every file,", "then the folder")),
    ("rename", ("to step-000200/,", "then fsync", "checkpoints/")),
    ("read back", ("every byte against", "the manifest")),
    ("delete", ("the third newest:", "renamed first,", "then deleted")),
)
KILLED = (
    (0, 3, "Killed here: step-000150 is the newest.", "The .tmp folder is deleted on entry."),
    (3, 6, "Killed here: step-000200 is the newest.", "Whole by its manifest, or set aside."),
)


def saving_figure() -> str:
    """Return the steps of publishing a checkpoint, and what a kill at each leaves."""
    return svg(
        "How a checkpoint is published",
        "Six steps: write aside, manifest last, fsync, rename, read back, delete the third newest. "
        "A kill before the rename leaves the checkpoint before it as the newest, a kill after it "
        "the new one.",
        860,
        264,
        _saving_body(),
    )


def _saving_body() -> Iterator[str]:
    width, gap, top = 124, 12, 62
    yield text(24, 36, "Saving after step 200; steps 100 and 150 are there already", "strong")
    for number, (name, lines) in enumerate(SAVING):
        x = 24 + (width + gap) * number
        kind = "chosen" if number >= 3 else "prompt"
        yield box(x, top, width, 96, kind)
        yield text(x + width / 2, top + 24, f"{number + 1} {name}", "strong middle")
        for line, words in enumerate(lines):
            yield text(x + width / 2, top + 48 + 17 * line, words, "middle small")
    for first, last, what, then in KILLED:
        x, end = 24 + (width + gap) * first, 24 + (width + gap) * last - gap
        yield f'<path d="M {x} {top + 112} v 8 H {end} v -8" class="arrow"/>'
        yield text((x + end) / 2, top + 146, what, "middle strong")
        yield text((x + end) / 2, top + 168, then, "middle soft")


FIGURES = {
    "stream.svg": stream_figure,
    "attention.svg": attention_figure,
    "head.svg": head_figure,
    "saving.svg": saving_figure,
}


def main(folder: Path) -> None:
    """Write every figure into a folder."""
    for name, figure in FIGURES.items():
        (folder / name).write_text(figure(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
