"""Finds the end of a chunked body without looking at its contents (RFC 9112 section 7.1, strictly)."""

from __future__ import annotations

import re

from batchserve.errors import BadFraming

__all__ = ["ChunkScanner"]

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\x09\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\x09\x20-\x7e\x80-\xff]*")

LONGEST_LINE = 4096
MAX_TRAILER_BYTES = 16 << 10


class ChunkScanner:
    """Follows one chunked body over the pieces in which it arrives."""

    def __init__(self) -> None:
        self.is_done = False
        self._left = 0  # bytes of the current chunk, its CRLF included
        self._line = b""
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> int:
        """Read on.

        Args:
            data: What arrived.

        Returns:
            How many bytes of it belong to the body; fewer than all only if `is_done`.

        Raises:
            BadFraming: It is not a chunked body.
        """
        at = 0
        while at < len(data) and not self.is_done:
            if self._left > 2:
                step = min(self._left - 2, len(data) - at)
                self._left -= step
                at += step
            elif self._left:
                if data[at] != b"\n\r"[self._left - 1]:
                    raise BadFraming("the body's chunks are malformed; expected CRLF after each chunk")
                self._left -= 1
                at += 1
            else:
                at = self._read_line(data, at)
        return at

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > LONGEST_LINE:
            raise BadFraming("the body's chunks are malformed; expected shorter size lines")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise BadFraming("the body's chunks are malformed; expected CRLF at the end of each line")
            self._end_line(line[:-2])
        return stop

    def _end_line(self, line: bytes) -> None:
        if not self._in_trailer:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadFraming("the body's chunks are malformed; expected a hexadecimal size before each")
            size = int(match[1], 16)
            self._in_trailer = size == 0
            self._left = size + 2 if size else 0
            return
        self._trailer_bytes += len(line)
        if not line:
            self.is_done = True
        elif self._trailer_bytes > MAX_TRAILER_BYTES or not _TRAILER_LINE.fullmatch(line):
            raise BadFraming("the body's trailer is malformed; expected header lines, or none")
