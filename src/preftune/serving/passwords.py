"""Passwords: argon2id, a least length, and a list of those everybody tries first."""

import threading
from functools import cache
from pathlib import Path

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from preftune.errors import DataError

SHORTEST, LONGEST = 12, 200  # characters
FEWEST_DIFFERENT = 5
COMMON = Path(__file__).with_name("common_passwords.txt")
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
AT_ONCE = threading.BoundedSemaphore(4)  # 19 MiB each, however many ask


def check_new_password(password: str, *, email: str, name: str) -> None:
    """Refuse a password that would be guessed.

    Raises:
        DataError: too short, too long, common, or made of the person's own name.
    """
    folded = password.casefold()
    if len(password) < SHORTEST:
        raise DataError(f"password: {len(password)} characters. Use {SHORTEST} or more.")
    if len(password) > LONGEST:
        raise DataError(f"password: {len(password)} characters. Use {LONGEST} at most.")
    own = [part for part in (email.partition("@")[0], *name.split()) if len(part) >= 4]
    bare = folded
    for part in own:
        bare = bare.replace(part.casefold(), "")
    if folded in common_passwords() or len(set(bare)) < FEWEST_DIFFERENT:
        raise DataError("password: one of the first to be guessed. Use four unrelated words.")


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password: 19 MiB, two passes, one lane."""
    with AT_ONCE:
        return HASHER.hash(password)


def is_password(password: str, password_hash: str | None) -> bool:
    """Return whether a password has this hash; None takes as long and is never right.

    One hash is computed either way, so that time does not tell who has an account.
    """
    with AT_ONCE:
        try:
            HASHER.verify(password_hash or _nobodys(), password)
        except VerificationError:
            return False
    return password_hash is not None


@cache
def common_passwords() -> frozenset[str]:
    """Return the passwords of 12 characters or more that are tried first, case folded."""
    return frozenset(COMMON.read_text(encoding="utf-8").split())


@cache
def _nobodys() -> str:
    return HASHER.hash("nobody has this password")
