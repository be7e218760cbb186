"""An admitted request's life: the ticket that ends once, and the entries that wait in the queue for it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchserve.core.fairness import Account
    from batchserve.core.request import Request, Response
    from batchserve.core.tensors import Array
    from batchserve.errors import RequestError

__all__ = ["Entry", "EntryState", "Outcome", "Ticket"]


class EntryState(Enum):
    """Where one entry is."""

    QUEUED = "queued"
    TAKEN = "taken"
    GONE = "gone"


_QUEUED = EntryState.QUEUED  # an Enum's members are slow to look up


class Outcome(Enum):
    """How a ticket ended; the value is the metric label."""

    COMPLETED = "completed"
    REFUSED = "refused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Ticket:
    """One admitted request.

    Invariant: `outcome` is set exactly once, by the policy; after that no entry of it is queued.

    Attributes:
        request: What was asked. Only its arrays are read by the instance's thread.
        entries: Its parts in row order; one unless the request was split.
        admitted_s: When it entered the queue.
        level: Priority level, 1 the most important.
        deadline_s: Moment after which it is not started any more.
        outcome: None while queued or running.
        error: What to tell the client, for every outcome but `completed` and `cancelled`.
        is_started: True once a part of it was put into a batch.
        is_joined: True once the parts of a split request are being joined, or have been.
        outputs: The joined outputs of a split request; None otherwise, see the entry's.
        fault: Why the parts of a split request could not be joined, else "".
        pending: Parts that have not come back.
        running: Parts that are in a batch now, whose thread may be reading the request's arrays.
        reply: The engine's way back to the client; the core never calls it.
        account: Its client's, with fairness between clients; None without.
        tag: Its place in the order, with fairness between clients.
        charged_s: Seconds of the device that its client was charged with when it came in.
        release: The engine's word to who owns the arrays' memory; the core never calls it.
    """

    __slots__ = (
        "account",
        "admitted_s",
        "charged_s",
        "deadline_s",
        "entries",
        "error",
        "fault",
        "is_joined",
        "is_started",
        "level",
        "outcome",
        "outputs",
        "pending",
        "release",
        "reply",
        "request",
        "running",
        "tag",
    )

    def __init__(self, request: Request, admitted_s: float, deadline_s: float, level: int) -> None:
        self.request = request
        self.level = level
        self.admitted_s = admitted_s
        self.deadline_s = deadline_s
        self.entries: tuple[Entry, ...] = ()
        self.outcome: Outcome | None = None
        self.error: RequestError | None = None
        self.is_started = False
        self.is_joined = False
        self.outputs: tuple[Array, ...] | None = None
        self.fault = ""
        self.pending = 0
        self.running = 0
        self.account: Account | None = None
        self.tag: float | None = None
        self.charged_s = 0.0
        self.release: Callable[[], None] | None = None
        self.reply: Callable[[Response | RequestError], None] | None = None

    def result(self) -> tuple[Array, ...]:
        """Return the outputs it asked for, in the model's order. Only once it is completed."""
        entries = self.entries
        outputs = entries[0].outputs if len(entries) == 1 else self.outputs
        assert outputs is not None, "asked for the result of a ticket that was not completed"
        return outputs


class Entry:
    """The rows of a ticket that ride in one batch: all of them, or a part of a split request.

    Attributes:
        ticket: Whose rows these are.
        first_row: First row of the request that this entry carries.
        rows: How many.
        length: The true length of each of them where the model pads, else 0.
        number: Position in the order of arrival; parts of one request are consecutive.
        state: Where it is. The queue and the policy write it.
        outputs: Its rows of the outputs, put there by the instance's thread before the batch comes back.
    """

    __slots__ = ("first_row", "length", "number", "outputs", "rows", "state", "ticket")

    def __init__(self, ticket: Ticket, first_row: int, rows: int, number: int, length: int = 0) -> None:
        self.ticket = ticket
        self.first_row = first_row
        self.rows = rows
        self.length = length
        self.number = number
        self.state = _QUEUED
        self.outputs: tuple[Array, ...] | None = None

    @property
    def is_part(self) -> bool:
        """True if the request was split."""
        return len(self.ticket.entries) > 1

    def arrays(self) -> tuple[Array, ...]:
        """Return its rows of the request's inputs: the arrays themselves, or views for a part."""
        request = self.ticket.request
        if not self.is_part:
            return request.inputs
        stop = self.first_row + self.rows
        return tuple(array[self.first_row : stop] for array in request.inputs)

    def __repr__(self) -> str:
        return f"Entry(number={self.number}, rows={self.rows}, state={self.state.value})"
