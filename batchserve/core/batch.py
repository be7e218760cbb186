"""A batch: the entries that run together, how their rows are joined and given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchserve.errors import BadBackendOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchserve.core.padding import PadRule
    from batchserve.core.tensors import Array
    from batchserve.core.ticket import Entry, Ticket

__all__ = ["Batch", "gather", "halves", "join_parts", "scatter"]

_SMALL_BYTES = 64 << 10


class Batch:
    """Entries of one shape key that run together on one slot.

    Attributes:
        entries: In queue order; never empty.
        rows: Their rows together.
        has_parts: True if one of them is a part of a split request.
        pad: How the model pads requests of different lengths; None if it does not.
        length: What its entries are padded to; 0 if the model does not pad.
        tokens: Rows times length, or the rows if the model does not pad: what the run's cost goes by.
        padding: Tokens that no request sent.
        output_mask: Outputs that at least one of them asked for.
        reason: Why it was cut, one of `counters.CUT_REASONS`.
        slot: Index of the slot it runs on.
        cut_s: When it was cut.
        predicted_s: Seconds it was expected to take then.
        upper_s: The upper value of that.
        held_s: Seconds for which it was held on purpose, although it could have started.
        is_stuck: True once it has run so long that its requests were given up; its slot is out of service.
    """

    __slots__ = (
        "cut_s",
        "entries",
        "has_parts",
        "held_s",
        "is_stuck",
        "length",
        "output_mask",
        "pad",
        "padding",
        "predicted_s",
        "reason",
        "rows",
        "slot",
        "tokens",
        "upper_s",
    )

    def __init__(
        self, entries: list[Entry], reason: str, slot: int, cut_s: float = 0.0, pad: PadRule | None = None
    ) -> None:
        self.cut_s = cut_s
        self.predicted_s = self.upper_s = 0.0
        self.held_s = 0.0
        self.is_stuck = False
        self.entries = entries
        self.reason = reason
        self.slot = slot
        rows = mask = 0
        has_parts = False
        for entry in entries:
            rows += entry.rows
            request = entry.ticket.request
            mask |= request.output_mask
            has_parts |= entry.rows != request.rows
        self.rows = rows
        self.has_parts = has_parts
        self.output_mask = mask
        self.pad = pad
        self.length = 0
        self.tokens = rows
        self.padding = 0
        if pad is not None:
            lengths = [entry.length for entry in entries]
            self.length = pad.run_length(min(lengths), max(lengths))
            self.tokens = rows * self.length
            self.padding = self.tokens - sum(entry.rows * entry.length for entry in entries)

    @property
    def padded_share(self) -> float:
        """Share of the tokens that no request sent, from 0 to 1."""
        return self.padding / self.tokens if self.padding else 0.0

    def part_of(self, entry: Entry) -> float:
        """Return the share of the run that an entry caused: of its rows or, where it is padded, of its own tokens."""
        if not self.padding:
            return entry.rows / self.rows
        return entry.rows * entry.length / (self.tokens - self.padding)

    def __repr__(self) -> str:
        return f"Batch(rows={self.rows}, reason={self.reason!r}, slot={self.slot}, entries={self.entries!r})"


def halves(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Cut the entries of a failed batch in two, for runs that find out whose fault it was.

    With one guilty entry among n this leads to at most 2·log2(n) + 1 further runs (batching.md section 10).
    """
    middle = (len(entries) + 1) // 2
    return entries[:middle], entries[middle:]


def gather(batch: Batch) -> tuple[Array, ...]:
    """Join the rows of a batch's entries, padded to the batch's length where they differ. On the instance's thread.

    Returns:
        One C-contiguous array for each input, `dtype[B, ...]` with B the batch's rows. The arrays of a lone entry are
        passed through without a copy, so nobody may write to them.
    """
    entries, pad = batch.entries, batch.pad
    if len(entries) == 1:
        return entries[0].arrays()
    if batch.has_parts:
        parts = [entry.arrays() for entry in entries]
    else:
        parts = [entry.ticket.request.inputs for entry in entries]
    columns = zip(*parts, strict=True)
    if pad is not None and batch.padding:
        return tuple([pad.join(index, column, batch.rows, batch.length) for index, column in enumerate(columns)])
    return tuple([_joined(column, batch.rows) for column in columns])


def _joined(arrays: Sequence[Array], rows: int) -> Array:
    """Join arrays along axis 0, which has `rows` rows together. Small numbers are joined as bytes, which is read-only.

    For 32 small rows that takes 1.4 µs, `concatenate` 4.6 µs, and copying row by row into a kept buffer 11 µs. Large
    ones gain nothing, and `concatenate` lets go of the interpreter while it copies.
    """
    first = arrays[0]
    if first.nbytes * rows > _SMALL_BYTES * first.shape[0] or first.dtype.hasobject:
        return np.concatenate(arrays)
    joined = b"".join(arrays)  # type: ignore[arg-type]  # arrays are buffers, which the stubs say for 3.12 on
    return np.ndarray((rows, *first.shape[1:]), first.dtype, joined)


def scatter(batch: Batch, outputs: Sequence[Array], *, is_batching: bool) -> None:
    """Give each entry of a batch its own rows of the outputs it asked for, as views, without the batch's padding.

    Args:
        batch: Entries in the order their rows were gathered; their `outputs` are set.
        outputs: One array for each bit of the batch's `output_mask`, each `dtype[B, ...]` with B the batch's rows
            if the model batches. The views keep them alive; nobody may write to them. Rows that are cut back to their
            length are views or, where a view would have gaps, copies.
        is_batching: False if the model has no batch axis: the one entry gets the outputs whole.

    Raises:
        BadBackendOutput: An output is missing, or its first axis is not B, or an axis that is to be cut is not as long
            as the batch. No entry has been given anything.
    """
    if len(outputs) != batch.output_mask.bit_count():
        raise BadBackendOutput(f"{len(outputs)} outputs came back, {batch.output_mask.bit_count()} were asked for")
    if is_batching:
        for position, output in enumerate(outputs):
            if output.ndim == 0 or output.shape[0] != batch.rows:
                raise BadBackendOutput(
                    f"output {position} of the run has shape {list(output.shape)}, expected {batch.rows} rows first"
                )
    if batch.pad is not None and batch.padding:
        _scatter_padded(batch, outputs, batch.pad)
        return
    entries, computed = batch.entries, batch.output_mask
    if len(entries) == 1:  # a run without a batch axis has one entry, too
        entries[0].outputs = tuple(outputs)
        return
    if len(outputs) == 1 and len(entries) == batch.rows:  # one row each: by far the most frequent, in half the time
        for entry, row in zip(entries, outputs[0][:, None], strict=True):
            entry.outputs = (row,)
        return
    at = 0
    for entry in entries:
        stop = at + entry.rows
        wanted = _wanted(outputs, computed, entry.ticket.request.output_mask)
        entry.outputs = tuple([output[at:stop] for output in wanted])
        at = stop


def _scatter_padded(batch: Batch, outputs: Sequence[Array], pad: PadRule) -> None:
    """Do as `scatter`, and cut each entry's rows back to its own length."""
    numbers = _bits(batch.output_mask)
    for number, output in zip(numbers, outputs, strict=True):
        for axis in pad.outputs[number]:
            if output.ndim <= axis or output.shape[axis] != batch.length:
                raise BadBackendOutput(
                    f"output {number} of a padded run has shape {list(output.shape)}, expected {batch.length} on axis "
                    f"{axis}, which is cut back to each request's length"
                )
    at = 0
    for entry in batch.entries:
        stop = at + entry.rows
        asked = entry.ticket.request.output_mask
        wanted = zip(_bits(asked), _wanted(outputs, batch.output_mask, asked), strict=True)
        entry.outputs = tuple([pad.cut(number, output[at:stop], entry.length) for number, output in wanted])
        at = stop


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def join_parts(ticket: Ticket) -> None:
    """Put the outputs of a split request's parts together again, or note in `fault` why that cannot be done.

    Copies: the parts are views of different runs. All entries must have their outputs.
    """
    columns = zip(*(entry.outputs or () for entry in ticket.entries), strict=True)
    try:
        ticket.outputs = tuple(np.concatenate(column) for column in columns)
    except ValueError:
        # An output whose other axes depend on the rows' contents: each run may have given another length.
        ticket.fault = (
            f"the outputs of its {len(ticket.entries)} parts have different shapes: send at most max_batch_size rows"
        )


def _wanted(outputs: Sequence[Array], computed: int, asked: int) -> Sequence[Array]:
    """Pick the outputs in `asked` out of those in `computed`, which holds them all."""
    if asked == computed:
        return outputs
    picked, position = [], 0
    for bit in range(computed.bit_length()):
        if computed >> bit & 1:
            if asked >> bit & 1:
                picked.append(outputs[position])
            position += 1
    return picked
