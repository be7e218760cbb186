"""Fairness between the clients of one model: start-time fair queueing, charged in seconds of the device.

A request's tag is the virtual time at which its client's earlier ones are done, or now if that has passed; the smallest
tag goes first (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996). What a run really took is settled when
it is known, so that a client whose rows are dearer than thought gets fewer of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.batch import Batch
    from batchserve.core.ticket import Ticket

__all__ = ["Account", "FairShare"]


class Account:
    """What one client has had and has waiting.

    Attributes:
        weight: Its share relative to other clients'.
        finish: The tag its next request gets at the earliest.
        rows: Its rows that wait.
    """

    __slots__ = ("finish", "rows", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.finish = 0.0
        self.rows = 0


class FairShare:
    """Tags for the requests of one model's clients. One thread.

    Invariant: a client without an account has nothing waiting and no debt.

    Args:
        weights: Shares of clients that have more or less than 1.
        most: Clients to keep apart at once; those beyond share the account of the client "".
    """

    def __init__(self, weights: Mapping[str, float], most: int) -> None:
        self._weights = weights
        self._most = most
        self._accounts: dict[str, Account] = {}
        self._now = 0.0

    def account(self, client: str) -> Account:
        """Return a client's account, a new one if it has none."""
        account = self._accounts.get(client)
        if account is not None:
            return account
        if len(self._accounts) >= self._most:
            self._accounts = {
                name: known for name, known in self._accounts.items() if known.rows or known.finish > self._now
            }
            if len(self._accounts) >= self._most and client:
                return self.account("")
        account = self._accounts[client] = Account(self._weights.get(client, 1.0))
        return account

    def may_wait(self, account: Account, rows: int, free_rows: int) -> bool:
        """Say whether a client may have so many rows more waiting.

        It may hold as many as are still free beside it: one that floods the queue leaves half of it to the next one,
        who leaves half of that (Choudhury and Hahne, "Dynamic queue length thresholds", 1998).
        """
        return account.rows + rows <= free_rows

    def charge(self, ticket: Ticket, cost_s: float) -> None:
        """Give a request that enters the queue its place in the order.

        Args:
            ticket: Its `account`, `tag` and `charged_s` are set.
            cost_s: Seconds of a device that it is expected to take.
        """
        account = ticket.account = ticket.account or self.account(ticket.request.client)
        ticket.charged_s = cost_s
        ticket.tag = max(self._now, account.finish)
        account.finish = ticket.tag + cost_s / account.weight
        account.rows += ticket.request.rows

    def rows_before(self, account: Account, cost_per_row_s: float) -> int:
        """Estimate the waiting rows that go before the next request of a client."""
        lead_s = max(0.0, account.finish - self._now)
        before = float(account.rows)
        for other in self._accounts.values():
            if other is not account and other.rows:
                before += min(other.rows, lead_s * other.weight / cost_per_row_s + 1)
        return int(before)

    def leave(self, ticket: Ticket) -> None:
        """Note that a request does not wait any more. If it was taken up, nobody catches up on time before its tag."""
        if ticket.account is None or ticket.tag is None:
            return
        ticket.account.rows -= ticket.request.rows
        if ticket.is_started:
            self._now = max(self._now, ticket.tag)

    def settle(self, batch: Batch, spent_s: float) -> None:
        """Charge the clients of a batch with what it took beyond what was expected; less than nothing is given back."""
        for entry in batch.entries:
            ticket = entry.ticket
            if ticket.account is not None:
                share = entry.rows / ticket.request.rows
                difference_s = spent_s * batch.part_of(entry) - ticket.charged_s * share
                ticket.account.finish = max(0.0, ticket.account.finish + difference_s / ticket.account.weight)
