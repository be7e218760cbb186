"""The text of large arrays of numbers in a request: found without parsing it, and cut into pieces to be parsed.

Parsers of JSON hold the interpreter until they are done, and a body of megabytes takes them milliseconds, in which the
event loop stands still whatever thread they run on. So large `data` is taken out of a request's JSON first, by
searching for a few bytes at memory speed, and each piece of it is then parsed alone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from batchserve.frontend.pauses import Pauses

if TYPE_CHECKING:
    from batchserve.core.tensors import Array
    from batchserve.frontend.tensor_binary import Buffer

__all__ = ["MARK", "MARK_VALUE", "NumberText", "Piece", "take_out"]

LEAST_BYTES = 32 << 10
"""Shorter arrays stay where they are: parsing them takes a fraction of a millisecond."""

PIECE_BYTES = 128 << 10
"""Text of one piece: 100 to 250 µs for the quick parsers. Half of it costs a tenth more, twice of it gains nothing."""

SMALL_BYTES = 8 << 10
"""Text of a piece for the tolerant parser, which takes ten times as long."""

WINDOW_BYTES = 256 << 10
"""Text searched at one go: some 30 µs."""

MARK_VALUE = secrets.randbits(62)
MARK = b"[%d]" % MARK_VALUE
"""Stands where an array was taken out. No client knows it, so what looks like it in a parsed request is it."""

_MOST_CANDIDATES = 64  # of "data" in one request; more than inputs of any model, and a bound on the search
_NAME = b'"data"'
_OPENING = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*(?=\[)")
_SPACE = b" \t\n\r"
_OPEN, _CLOSE = ord("["), ord("]")


class NumberText:
    """Text of one JSON array, as it lies in a request's body: without strings and objects, otherwise unchecked.

    Args:
        view: The JSON that it is part of.
        start: Its first byte there, a `[`.
        end: Behind its last byte there, a `]`.
    """

    __slots__ = ("_view", "end", "start")

    def __init__(self, view: memoryview, start: int, end: int) -> None:
        self._view = view
        self.start = start
        self.end = end

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def most_elements(self) -> int:
        """A bound on its elements: each takes a byte and another one for the comma or bracket behind it."""
        return len(self) // 2

    def pieces(self) -> Iterator[Piece]:
        """Cut it at commas into pieces of `PIECE_BYTES`."""
        return _cut(self._view, self.start, self.end, 0, PIECE_BYTES, is_last=True)


class Piece:
    """Text between two commas of an array: some of its elements, and brackets.

    Attributes:
        text: The bytes between the commas.
        start: Where it begins in the JSON.
        before: Arrays that are open where it begins.
        after: Arrays that are open where it ends; below 1 before the end if the brackets do not fit.
        chars: `text` as `uint8[N]`, a view.
        is_last: True if the text ends with it.
    """

    __slots__ = ("_known_depths", "_most_open", "_view", "after", "before", "chars", "is_last", "start", "text")

    def __init__(self, view: memoryview, text: bytes, start: int, before: int, *, is_last: bool) -> None:
        self._view = view
        self.text = text
        self.start = start
        self.before = before
        self.is_last = is_last
        self.chars: Array = np.frombuffer(text, np.uint8)
        opened = closed = 0
        if b"[" in text or b"]" in text:  # counted by numpy: bytes.count takes seven times as long
            opened = int(np.count_nonzero(self.chars == _OPEN))
            closed = int(np.count_nonzero(self.chars == _CLOSE))
        self.after = before + opened - closed
        self._most_open = before + opened
        self._known_depths: Array | None = None

    def smaller(self) -> Iterator[Piece]:
        """Cut it into pieces of `SMALL_BYTES`."""
        return _cut(self._view, self.start, self.start + len(self.text), self.before, SMALL_BYTES, is_last=self.is_last)

    @property
    def balanced(self) -> bytes:
        """JSON with the same elements: brackets added for the arrays that are open at its ends."""
        return b"%b%b%b" % (b"[" * self.before, self.text, b"]" * self.after)

    @property
    def fault_at(self) -> int | None:
        """Where in the JSON an element is missing at one of its ends, which brackets would hide; None if nowhere."""
        head = self.text.lstrip(_SPACE)
        if not head or head.startswith(b"]"):
            return self.start + len(self.text) - len(head)
        tail = self.text.rstrip(_SPACE)
        return self.start + len(tail) if tail.endswith(b"[") else None

    @property
    def is_sound(self) -> bool:
        """True if its ends fit an array that goes on before and behind it, or ends with it."""
        return (self.after == 0 if self.is_last else self.after > 0) and self.fault_at is None

    def is_within(self, most: int) -> bool:
        """Say whether no element is nested deeper than in `most` arrays."""
        return self._most_open <= most or bool(self._depths().max(initial=self.before) <= most)

    @property
    def is_one_array(self) -> bool:
        """True if the outermost array ends nowhere but at the end of the text."""
        if self._most_open == self.before == self.after:
            return True
        depths = self._depths()
        return bool(depths[: -1 if self.is_last else None].min(initial=1) > 0)

    def _depths(self) -> Array:
        """Count the open arrays behind each bracket, `int64[N]`."""
        if self._known_depths is None:
            brackets = self.chars[((self.chars & 0xF9) == 0x59).nonzero()[0]]  # and Y and _, which no parser accepts
            self._known_depths = self.before + np.cumsum(_CLOSE - 1 - brackets.astype(np.int64))
        return self._known_depths


def _cut(view: memoryview, at: int, end: int, depth: int, size: int, *, is_last: bool) -> Iterator[Piece]:
    """Cut text at commas into pieces of at most `size` bytes, unless a single element is longer.

    Args:
        view: The JSON that holds it.
        at: Where it begins there.
        end: Where it ends there.
        depth: Arrays that are open where it begins.
        size: Bytes of a piece.
        is_last: True if an array ends where it does.
    """
    while at <= end:  # also once for no text at all, where an element is missing
        length = size
        text = bytes(view[at : min(at + length, end)])
        if at + length < end:
            comma = text.rfind(b",")
            while comma < 0 and at + length < end:
                length *= 2
                text = bytes(view[at : min(at + length, end)])
                comma = text.find(b",")
            text = text[:comma] if comma >= 0 else text
        piece = Piece(view, text, at, depth, is_last=is_last and at + len(text) == end)
        yield piece
        at += len(text) + 1
        depth = piece.after


def take_out(buffer: Buffer) -> tuple[bytes, list[NumberText]] | None:
    """Find large arrays of numbers that are the value of a member `data`, without parsing.

    Args:
        buffer: A request's JSON.

    Returns:
        The JSON with `MARK` in the place of each, and their texts in order; None if there are none. A name inside a
        string is taken for a member: it is for the caller to find every mark again where it should be.
    """
    view = memoryview(buffer)
    pauses = Pauses()
    rest: list[bytes | memoryview] = []
    texts: list[NumberText] = []
    at = kept = 0
    for _ in range(_MOST_CANDIDATES):
        at = _find(view, _NAME, at, pauses) + len(_NAME)
        if at < len(_NAME):
            break
        opening = _OPENING.match(view, at)
        if opening is None:
            continue
        start = opening.end()
        end = _end_of_array(view, start, pauses)
        at = max(end, start)
        if end - start >= LEAST_BYTES:
            texts.append(NumberText(view, start, end))
            rest += view[kept:start], MARK
            kept = end
    return (b"".join([*rest, view[kept:]]), texts) if texts else None


def _find(view: memoryview, wanted: bytes, at: int, pauses: Pauses) -> int:
    overlap = len(wanted) - 1
    while len(view) - at > overlap:
        found = bytes(view[at : at + WINDOW_BYTES + overlap]).find(wanted)
        if found >= 0:
            return at + found
        at += WINDOW_BYTES
        pauses.here()
    return -1


def _end_of_array(view: memoryview, at: int, pauses: Pauses) -> int:
    """Find the end of an array of numbers: the last `]` before the next string or end of an object; -1 if none."""
    end = -1
    while at < len(view):
        window = bytes(view[at : at + WINDOW_BYTES])
        quote = window.find(b'"')
        limit = window.find(b"}", 0, quote if quote >= 0 else len(window))
        if limit < 0:
            limit = quote if quote >= 0 else len(window)
        close = window.rfind(b"]", 0, limit)
        if close >= 0:
            end = at + close + 1
        if limit < len(window):
            return end
        at += len(window)
        pauses.here()
    return -1
