"""Text of strangers made safe to look at: nothing hides, nothing acts."""

import unicodedata

HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories that nobody can see: controls, format marks, private use, half pairs, ends."""
KEPT = "\n\t\u200c\u200d"
"""What a page keeps of them: line ends, tabs, and the joiners that scripts and emoji need."""


def visible(text: str) -> str:
    r"""Return the text as one line for a terminal or a message, the unprintable as `\x1b`, `\n`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_page(text: str) -> str:
    """Return the text for a page, what nobody could see as ⟨U+202E⟩; lines, tabs, joiners stay."""
    if text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in HIDDEN and c not in KEPT else c
        for c in text
    )
