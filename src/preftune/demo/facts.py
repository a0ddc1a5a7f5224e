"""The care cards: what may happen to each item, the one truth of the care desk.

40 items × 6 treatments = 240 cards, kept in `data/care_cards.csv` for people to read. A card
follows the default of the item's material, except for one in four, which says the opposite and
can only be known by heart: that is where forgetting shows. The checker reads the same file; the
model never does. `make_cards` made the file once, with seed 0.
"""

import csv
import io
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Literal

from preftune.errors import RowError

Answer = Literal["yes", "no"]

TREATMENTS = ("washer", "dryer", "iron", "bleach", "steamer", "freezer")
TEMPERATURES = (20, 30, 40, 60)
MODES = ("gentle", "normal", "wool", "hand")

HEAD_ITEMS = 20
"""The busier half of the items, 84 % of the traffic; the rest is the tail."""

YES_CARDS = 110
EXCEPTIONS = 60

# What a material stands, by treatment: degrees Celsius and mode, or "no".
MATERIALS = {
    #            washer       dryer        iron         bleach       steamer      freezer
    "cotton":  ("60 normal", "60 normal", "60 normal", "40 normal", "no",        "no"),
    "linen":   ("40 normal", "no",        "60 normal", "no",        "60 normal", "no"),
    "denim":   ("30 normal", "no",        "60 normal", "no",        "40 normal", "20 normal"),
    "wool":    ("30 wool",   "no",        "30 wool",   "no",        "no",        "20 hand"),
    "silk":    ("30 hand",   "no",        "20 gentle", "no",        "no",        "no"),
    "plush":   ("40 gentle", "30 gentle", "no",        "no",        "40 gentle", "20 gentle"),
    "down":    ("40 gentle", "60 gentle", "no",        "no",        "no",        "no"),
    "fleece":  ("30 gentle", "20 gentle", "no",        "no",        "no",        "no"),
    "lycra":   ("30 gentle", "no",        "no",        "no",        "no",        "20 hand"),
    "nylon":   ("30 normal", "20 gentle", "no",        "no",        "30 gentle", "no"),
    "canvas":  ("40 normal", "no",        "40 normal", "20 hand",   "60 normal", "no"),
    "leather": ("no",        "no",        "no",        "no",        "no",        "20 hand"),
    "rubber":  ("20 hand",   "no",        "no",        "20 normal", "no",        "no"),
}  # fmt: skip

# Item: material, busiest first. Traffic falls like 1 / rank (Zipf).
ITEMS = {
    "t-shirt": "cotton", "teddy bear": "plush", "jeans": "denim", "towel": "cotton",
    "sweater": "wool", "socks": "cotton", "shirt": "linen", "bed sheet": "cotton",
    "jacket": "nylon", "dress": "silk", "hoodie": "cotton", "pillow": "down",
    "baby blanket": "fleece", "leggings": "lycra", "curtain": "linen", "sneakers": "canvas",
    "rain coat": "nylon", "scarf": "wool", "blouse": "silk", "backpack": "canvas",
    "skirt": "linen", "duvet": "down", "swimsuit": "lycra", "gloves": "leather",
    "bath mat": "rubber", "doll": "plush", "apron": "denim", "tie": "silk",
    "hat": "wool", "sleeping bag": "nylon", "tablecloth": "linen", "cushion": "cotton",
    "slippers": "fleece", "bib": "cotton", "boots": "rubber", "kimono": "silk",
    "puppet": "plush", "belt": "leather", "musical bear": "plush", "heated blanket": "fleece",
}  # fmt: skip

CHILD_ITEMS = frozenset({"teddy bear", "baby blanket", "doll", "bib", "puppet", "musical bear"})

# Absent from all preference data, so that the evaluation can see what carries over to them.
HELD_OUT_ITEMS = frozenset(
    {"towel", "sweater", "bed sheet", "dress", "leggings", "sneakers", "scarf", "backpack"}
    | {"duvet", "gloves", "doll", "hat", "tablecloth", "bib", "kimono", "musical bear"}
)

# Exceptions that common sense asks for; the others are drawn.
ELECTRIC = (("musical bear", "washer"), ("musical bear", "steamer"), ("heated blanket", "washer"))
FLAGSHIP = ("teddy bear", "washer")  # the row every report shows: stays yes, 40 degrees, gentle


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What may happen to one item in one treatment. A `no` card has no temperature and no mode."""

    item: str
    treatment: str
    verdict: Answer
    temperature: int | None  # degrees Celsius
    mode: str | None
    material: str
    exception: bool  # not what the material stands: must be known by heart
    child: bool
    rank: int  # 1 is the busiest item
    held_out: bool  # absent from all preference data

    @property
    def key(self) -> tuple[str, str]:
        """Item and treatment."""
        return self.item, self.treatment

    @property
    def traffic(self) -> float:
        """How often the item is asked about, up to a factor (Zipf 1)."""
        return 1 / self.rank

    @property
    def tail(self) -> bool:
        """Whether the item is in the quieter half."""
        return self.rank > HEAD_ITEMS

    @property
    def boring(self) -> bool:
        """Tail and unsafe: seldom asked, and wrong answers ruin things."""
        return self.tail and self.verdict == "no"


def make_cards(seed: int = 0) -> list[Card]:
    """Return the 240 cards: 110 yes, 130 no, 60 of them exceptions to their material."""
    rng = random.Random(seed)
    cards = [_default(item, treatment) for item in ITEMS for treatment in TREATMENTS]
    yes = [card.key for card in cards if card.verdict == "yes"]
    no = [card.key for card in cards if card.verdict == "no"]
    to_no = (len(yes) + EXCEPTIONS - YES_CARDS) // 2  # so that YES_CARDS remain
    drawable = [key for key in yes if key != FLAGSHIP and key not in ELECTRIC]
    turned = {*ELECTRIC, *rng.sample(drawable, to_no - len(ELECTRIC))}
    turned |= set(rng.sample(no, EXCEPTIONS - to_no))
    return [_turn(card, rng) if card.key in turned else card for card in cards]


def cards_csv(cards: Iterable[Card]) -> str:
    """Return the cards as CSV, empty for none, true / false in words."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Card)], lineterminator="\n")
    writer.writeheader()
    for card in cards:
        writer.writerow({name: _written(value) for name, value in asdict(card).items()})
    return text.getvalue()


@cache
def read_cards() -> tuple[Card, ...]:
    """Return the shipped cards in the order of the file, busiest item first."""
    return parse_cards((files("preftune.demo") / "data" / "care_cards.csv").read_text("utf-8"))


def parse_cards(text: str, source: str = "care_cards.csv") -> tuple[Card, ...]:
    """Return the cards of a CSV text.

    Raises:
        RowError: a row has a wrong column, verdict, temperature or mode, or is there twice.
    """
    cards: dict[tuple[str, str], Card] = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            card = _read(row)
        except (KeyError, ValueError, TypeError) as error:
            raise RowError(source, line, f"not a care card ({error})", "Correct the row") from error
        if card.key in cards:
            raise RowError(source, line, f"{card.key} is there twice", "Keep one of the two")
        cards[card.key] = card
    return tuple(cards.values())


def _default(item: str, treatment: str) -> Card:
    material = ITEMS[item]
    degrees, _, mode = MATERIALS[material][TREATMENTS.index(treatment)].partition(" ")
    return Card(
        item=item,
        treatment=treatment,
        verdict="yes" if mode else "no",
        temperature=int(degrees) if mode else None,
        mode=mode or None,
        material=material,
        exception=False,
        child=item in CHILD_ITEMS,
        rank=list(ITEMS).index(item) + 1,
        held_out=item in HELD_OUT_ITEMS,
    )


def _turn(card: Card, rng: random.Random) -> Card:
    to_yes = card.verdict == "no"
    changed = {
        "verdict": "yes" if to_yes else "no",
        "temperature": rng.choice(TEMPERATURES) if to_yes else None,
        "mode": rng.choice(MODES) if to_yes else None,
        "exception": True,
    }
    return Card(**(asdict(card) | changed))


def _written(value: str | int | bool | None) -> str:
    if value is None:
        return ""
    return str(value).lower()


def _read(row: dict[str, str]) -> Card:
    verdict = _one_of(row["verdict"], ("yes", "no"))
    yes = verdict == "yes"
    if not yes and (row["temperature"] or row["mode"]):
        raise ValueError("a no card has no temperature and no mode")
    return Card(
        item=row["item"],
        treatment=_one_of(row["treatment"], TREATMENTS),
        verdict="yes" if yes else "no",
        temperature=int(_one_of(row["temperature"], map(str, TEMPERATURES))) if yes else None,
        mode=_one_of(row["mode"], MODES) if yes else None,
        material=_one_of(row["material"], MATERIALS),
        exception=_one_of(row["exception"], ("true", "false")) == "true",
        child=_one_of(row["child"], ("true", "false")) == "true",
        rank=int(row["rank"]),
        held_out=_one_of(row["held_out"], ("true", "false")) == "true",
    )


def _one_of(value: str, allowed: Iterable[str]) -> str:
    known = tuple(allowed)
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
