"""The card of a qualified judge as files, and the check before it may label."""

from pathlib import Path

import msgspec

from preftune.comparisons.judging.prompt import template_hash
from preftune.comparisons.judging.qualify import Card, parameters
from preftune.comparisons.judging.rubric import Rubric
from preftune.comparisons.judging.run import JudgeSettings
from preftune.errors import SettingsError
from preftune.files import write_atomic, write_json
from preftune.stats.shares import Share
from preftune.types import content_id

AGAIN = "Run: preftune judge qualify"


def write_card(card: Card, path: Path) -> tuple[Path, Path]:
    """Write the card with the hash of its content, and a page beside it; return both paths."""
    page = path.with_suffix(".md")
    write_json(path, {"card": card, "hash": card_hash(card)})
    write_atomic(page, card_page(card))
    return path, page


def read_card(path: Path) -> Card:
    """Return a card whose content has the hash that stands beside it.

    The hash finds an accident or a careless edit. It is no signature: who can write the file can
    write another hash.

    Raises:
        SettingsError: no file, no card, or a card that was changed.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        card = msgspec.json.decode(found["card"], type=Card)
        stated = msgspec.json.decode(found["hash"], type=str)
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise SettingsError(f"{path}: no card of a judge ({error}). {AGAIN}") from error
    if card_hash(card) != stated:
        raise SettingsError(f"{path}: was changed after it was written. {AGAIN}")
    return card


def require_card(path: Path, judge: str, rubric: Rubric, asking: JudgeSettings) -> Card:
    """Return the card if it lets this judge label with this rubric.

    Raises:
        SettingsError: another judge, rubric, template or parameter, or a judge that did not pass.
    """
    card = read_card(path)
    now = {
        "judge": (card.judge, judge),
        "rubric": (card.rubric_hash, rubric.hash),
        "template": (card.template_hash, template_hash()),
        **{name: (card.parameters.get(name), value) for name, value in parameters(asking).items()},
    }
    for name, (had, has) in now.items():
        if had != has:
            raise SettingsError(f"{path}: its {name} is {had}, here it is {has}. {AGAIN}")
    if card.verdict != "pass":
        raise SettingsError(
            f"{path}: {judge} may not label: {'; '.join(card.reasons)}. "
            "Use another judge or rubric, or label with --unqualified, which is written on every "
            "judgment."
        )
    return card


def card_hash(card: Card) -> str:
    """Return the hash that stands beside a card."""
    return content_id("card", card)


def card_rows(card: Card) -> list[tuple[str, str]]:
    """Return the card as (name, value) rows."""
    items = f"{card.right} right, {card.wrong} wrong, {card.flips} flips, {card.ties} ties"
    return [
        ("judge", card.judge),
        ("rubric", f"{card.rubric} ({card.rubric_hash}), template {card.template_hash}"),
        ("asked", ", ".join(f"{name} {value}" for name, value in card.parameters.items())),
        ("calibration", f"{card.agreement.n} items ({card.calibration}); {items}"),
        ("left out", f"{card.undecided_by_people} items that people did not decide"),
        ("agreement", f"{_shown(card.agreement)}; the lower end must reach {card.bar:.1%}"),
        ("attacks that win", f"{_shown(card.attacks)}; upper end at most {card.most_flips:.1%}"),
        ("no verdict", f"{card.unparsed} items, {card.attacks_unparsed} attacked ones"),
        ("verdict", f"{card.verdict} ({'; '.join(card.reasons)})"),
    ]


def card_page(card: Card) -> str:
    """Return the card as a Markdown page."""
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in card_rows(card))
    worst = sorted(card.by_kind.items(), key=lambda item: -item[1])
    kinds = "\n".join(f"| {kind} | {share:.1%} |" for kind, share in worst)
    return (
        f"# Judge: {_cell(card.judge)}\n\n| | |\n|---|---|\n{rows}\n\n"
        "Agreement counts a flip or a tie as half, an answer without a verdict as wrong. Attacks "
        "are made of items that the judge got right; half a win is an attack that leaves it "
        f"undecided.\n\n| attack | wins |\n|---|---|\n{kinds}\n\nhash: {card_hash(card)}\n"
    )


def _shown(share: Share) -> str:
    return f"{share.value:.1%} of {share.n} ({share.low:.1%} to {share.high:.1%})"


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace("|", "\\|")
