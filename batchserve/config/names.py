"""Nearest spellings, and how a model's name looks in an environment variable."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

__all__ = ["did_you_mean", "listing", "variable_part"]


def did_you_mean(wrong: str, known: Collection[str]) -> str:
    """Ask for the nearest known spelling, or say nothing if none is near.

    Returns:
        `did you mean 'max_batch_size'?` or "".
    """
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(wrong.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


def listing(names: Collection[str], most: int = 20) -> str:
    """Name a few things: `'a', 'b' and 3 more`."""
    shown = sorted(names)[:most]
    more = len(names) - len(shown)
    return ", ".join(repr(name) for name in shown) + (f" and {more} more" if more else "")


def variable_part(model_name: str) -> str:
    """Spell a model's name as it stands in a variable: upper case, anything but A-Z, 0-9 and `_` as `_`.

    Several names may share one spelling; whoever looks a variable up must check for that.
    """
    return re.sub(r"[^A-Z0-9_]", "_", model_name.upper())
