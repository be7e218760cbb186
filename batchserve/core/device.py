"""A device that several models share: whose turn it is, and what each can count on (batching.md section 8)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchserve.core.policy import Decision, Policy

__all__ = ["Device"]

_LEAD = 2.0
"""Batches by which a model may be ahead of its share and still go first because it is in a hurry."""


class Device:
    """Slots that the models on one device share.

    Urgency decides while every model is near its share of the device's time; the share decides when one is not.

    Invariant: `free` is `slots` less the batches that run, and no model has more of them than its own instances.
    One thread.

    Args:
        slots: Batches that may run at once.

    Attributes:
        members: The models on it.
        free: Slots that are idle.
        virtual_s: The largest virtual time of a model when it was picked.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = slots
        self.members: list[Policy] = []
        self.virtual_s = 0.0
        self.is_contended = False

    # --- who is on it ---------------------------------------------------------------------------------------------

    def join(self, policy: Policy) -> None:
        """Let a model use the device."""
        policy.virtual_s = self.virtual_s
        self.members.append(policy)
        self._count()

    def leave(self, policy: Policy) -> None:
        """Take a model away. Nothing of it may be running."""
        self.members.remove(policy)
        self._count()

    def resize(self, slots: int) -> None:
        """Give the device another number of slots; those in use stay so until their batches end."""
        self.free += slots - self.slots
        self.slots = slots
        self._count()

    def _count(self) -> None:
        # With an instance's slot for each, nobody ever waits for another model, and the rules below cost nothing.
        self.is_contended = sum(member.limits.slots for member in self.members) > self.slots

    # --- the share ------------------------------------------------------------------------------------------------

    def wake(self, policy: Policy) -> None:
        """Take a model back that had nothing waiting: idle time earns no credit.

        A batch that took all that waited is no idle time. Without leave to lag by that one, an overloaded model whose
        queue runs empty now and then loses a part of its share: 2.5 instead of 3 to 1 on two slots (simulated).
        """
        policy.virtual_s = max(policy.virtual_s, self.virtual_s - policy.charged_s)

    def charge(self, policy: Policy, seconds: float) -> None:
        """Note that a model has started a batch that will take so long."""
        self.virtual_s = max(self.virtual_s, policy.virtual_s)
        policy.charged_s = seconds / policy.limits.weight
        policy.virtual_s += policy.charged_s

    def share(self, policy: Policy, now: float) -> float:
        """Return the part of the device, from 0 to 1, that a model can count on (batching.md section 8)."""
        if not self.is_contended:
            return 1.0
        total = sum(member.limits.weight for member in self.members)
        fair = policy.limits.weight / total
        used = sum(
            min(member.wanted(now) / self.slots, member.limits.weight / total)
            for member in self.members
            if member is not policy
        )
        return min(1.0, max(fair, 1 - used))

    def slots_of(self, policy: Policy, now: float) -> float:
        """Return the batches of a model that can count on running at once, at least a fraction of one."""
        if not self.is_contended:
            return float(policy.limits.slots)
        return min(float(policy.limits.slots), self.slots * self.share(policy, now))

    def ahead_of(self, policy: Policy, start_by_s: float, own_s: float, now: float) -> float:
        """Return the seconds that other models' work takes before a request's turn comes (admission rule 7).

        Args:
            policy: The request's model.
            start_by_s: When the request's batch must begin.
            own_s: Time of the model's own batches ahead of it.
            now: The moment.
        """
        if not self.is_contended:
            return 0.0
        weight, others_s = policy.limits.weight, 0.0
        for member in self.members:
            if member is policy or not member.queue.rows:
                continue
            one_s, work_s = member.backlog.next_s(), member.backlog.work_s()
            is_first = (
                member.backlog.start_by(now) < start_by_s
                and member.virtual_s <= policy.virtual_s + _LEAD * one_s / weight
            )
            others_s += min(work_s, (one_s if is_first else 0.0) + own_s * member.limits.weight / weight)
        return others_s / self.slots

    def free_times(self, now: float) -> list[float]:
        """Predict when each slot is free: moments, ascending, `now` for idle ones."""
        ends = sorted(moment for member in self.members for moment in member.slots.busy_until(now))
        return [now] * max(0, self.free) + ends

    # --- the decision ---------------------------------------------------------------------------------------------

    def decide(self, now: float) -> list[tuple[Policy, Decision]]:
        """Expire what is too late, start what can start, and say when to ask again, for every model on the device."""
        steps = {member: member.begin(now) for member in self.members}
        waiting = [member for member in self.members if member.can_start]
        while waiting and self.free > 0:
            member = self._pick(waiting, now)
            if not member.start_next(steps[member], now) or not member.can_start:
                waiting.remove(member)  # held, expired or served: that does not stop another model
        return [(member, member.end(decision)) for member, decision in steps.items()]

    def _pick(self, waiting: list[Policy], now: float) -> Policy:
        if len(waiting) == 1:
            return waiting[0]
        floor = min(member.virtual_s for member in waiting)
        longest_s = max(member.backlog.next_s() for member in waiting)
        best, best_s = waiting[0], math.inf
        for member in waiting:
            if member.virtual_s <= floor + _LEAD * longest_s / member.limits.weight:
                start_by_s = member.backlog.start_by(now)
                if start_by_s < best_s:
                    best, best_s = member, start_by_s
        return best
