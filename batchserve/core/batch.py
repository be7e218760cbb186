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


class Batch:
    """Entries of one shape key that run together on one slot.

    Attributes:
        entries: In queue order; never empty.
        rows: Their rows together.
        pad: How the model pads requests of different lengths; None if it does not.
        length: What its entries are padded to; 0 if the model does not pad.
        tokens: Rows times length, or the rows if the model does not pad: what the run's cost goes by.
        padded_share: Share of the tokens that no request sent.
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
        "held_s",
        "is_stuck",
        "length",
        "output_mask",
        "pad",
        "padded_share",
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
        for entry in entries:
            rows += entry.rows
            mask |= entry.ticket.request.output_mask
        self.rows = rows
        self.output_mask = mask
        self.pad = pad
        self.length = 0
        self.tokens = rows
        self.padded_share = 0.0
        if pad is not None:
            lengths = [entry.length for entry in entries]
            self.length = pad.run_length(min(lengths), max(lengths))
            self.tokens = rows * self.length
            sent = sum(entry.rows * entry.length for entry in entries)
            self.padded_share = 1 - sent / self.tokens if self.tokens else 0.0

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
    if len(batch.entries) == 1:
        return batch.entries[0].arrays()
    columns = zip(*(entry.arrays() for entry in batch.entries), strict=True)
    pad = batch.pad
    if pad is not None and batch.padded_share:
        return tuple([pad.join(index, column, batch.rows, batch.length) for index, column in enumerate(columns)])
    # One call to concatenate is the quickest way on the CPU: 3.5 µs for 32 small rows, where copying row by row into
    # a kept buffer takes 11 µs.
    return tuple(np.concatenate(column) for column in columns)


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
    if batch.pad is not None and batch.padded_share:
        _scatter_padded(batch, outputs, batch.pad)
        return
    at = 0
    for entry in batch.entries:
        stop = at + entry.rows
        wanted = _wanted(outputs, batch.output_mask, entry.ticket.request.output_mask)
        entry.outputs = tuple(output[at:stop] for output in wanted) if is_batching else tuple(wanted)
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
