"""Two policies that are fed the same events and must do the same: what the state machines have in common."""

from __future__ import annotations

from batchserve.core.cost import CostModel
from batchserve.core.policy import Decision, Policy
from batchserve.core.request import Request
from batchserve.core.shapes import ShapeKey
from batchserve.core.ticket import Ticket
from batchserve.errors import RequestError


def admit(policy: Policy, request: Request, now: float) -> tuple[Ticket | None, type[RequestError] | None]:
    """Offer a request; give its ticket, or what refused it."""
    try:
        return policy.arrive(request, now), None
    except RequestError as error:
        return None, type(error)


def shape_of(decision: Decision) -> tuple[object, ...]:
    """Give what two equal decisions have in common, though their tickets are others."""
    return (
        [(batch.reason, batch.slot, [entry.number for entry in batch.entries]) for batch in decision.batches],
        [(ticket.entries[0].number, ticket.outcome) for ticket in decision.ended],
        decision.wake_s,
    )


def cost_of(policy: Policy, twin: Policy, key: ShapeKey) -> CostModel:
    """Return the first one's curve of a shape. Both are asked: who asks first makes it, from what is known then."""
    curves = [one.backlog.cost_of(one.queue.shape(key)) for one in (policy, twin)]
    return curves[0]
