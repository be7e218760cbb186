"""Drives the rules with a virtual clock: made-up traffic, a made-up device, and what became of every request.

The server's own `Policy` runs here as it runs there, so what holds here holds there as far as the service times are
right. Nothing waits: a million requests take as long as the decisions about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

import numpy as np

from batchserve.core.curves import Curve, Run
from batchserve.core.record import INVALID, NUMBERS, Record, Recorder
from batchserve.core.request import Request
from batchserve.core.ticket import Outcome
from batchserve.core.traffic import ClosedLoop, Traffic
from batchserve.errors import DeadlineExceeded, InvalidRequest, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchserve.core.batch import Batch
    from batchserve.core.policy import Decision
    from batchserve.core.shapes import ShapeKey
    from batchserve.core.ticket import Ticket

__all__ = ["Member", "Scheduled", "SharedDevice", "SimulatedRequest", "SimulationError", "simulate"]

_MAX_DECISIONS = 10_000
"""Decisions at one moment of time, after which the rules are going round in circles."""

_NOISE_BLOCK = 4096


class SimulationError(Exception):
    """The rules lost work, used a slot twice, or went round in circles. A bug in them."""


class Scheduled(Protocol):
    """What is driven: the server's `Policy`, or one to compare it with."""

    def arrive(self, request: Request, now: float) -> Ticket:
        """Admit a request, or raise a `RequestError`."""

    def finish(
        self, batch: Batch, now: float, *, ok: bool, took_s: float | None = None, overhead_s: float = 0.0
    ) -> list[Ticket]:
        """Take a batch back; give the tickets that ended."""

    def decide(self, now: float) -> Decision:
        """Say what starts now, what ended without a run, and when to ask again."""


class SharedDevice(Protocol):
    """Where several policies share slots: `core.device.Device`."""

    def decide(self, now: float) -> Sequence[tuple[Scheduled, Decision]]:
        """Decide for all of them."""


@dataclass(slots=True)
class SimulatedRequest(Request):
    """A request without tensors.

    Attributes:
        index: Its place in the record.
        length: What stands on the axis that may be padded; 0 for none.
        is_poisoned: True if every run with it fails.
        sender: Number of the client that sent it; as text it is the `client` of the request.
    """

    index: int = 0
    length: int = 0
    is_poisoned: bool = False
    sender: int = 0


def _one_shape(length: int) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a simulation.

    Attributes:
        policy: Its rules, with nothing queued or running.
        curve: Mean seconds of a run.
        traffic: What it is asked.
        noise: Standard deviation of a run's time, as a share of its mean.
        overhead_s: Seconds between the decision and the run, and so not part of what the run is measured to take; the
            same for all runs, or a curve.
        key_of: Names the shape of a request by its length; only requests of equal shape share a batch. All do if
            nothing is said.
        multiple: Lengths are padded to multiples of this, if the policy does not say what it pads to.
        factors: What runs took one after the other, as shares of their means. Runs take after them in their order, from
            a random one on and over and over, in place of the noise.
        speeds: What runs take on each slot, as multiples of the curve; as long on all if there are none.
    """

    policy: Scheduled
    curve: Curve
    traffic: Traffic | ClosedLoop
    noise: float = 0.05
    overhead_s: float | Curve = 0.0
    key_of: Callable[[int], int] = _one_shape
    multiple: int = 1
    factors: Sequence[float] = ()
    speeds: Sequence[float] = ()


def simulate(
    members: Sequence[Member], *, device: SharedDevice | None = None, seed: int = 0, until_s: float = np.inf
) -> list[Record]:
    """Run the traffic of all members to its end.

    Args:
        members: The models. Without a device each has the slots that its own policy knows of.
        device: What their policies have joined, if they share one.
        seed: For the noise of service times and the pauses of closed loops. The same arguments give the same records.
        until_s: Stop at this moment even if requests are still open.

    Returns:
        One record for each member.

    Raises:
        SimulationError: The rules left work waiting with nothing to wake them, used a slot twice, or did not settle.
    """
    return _Simulation(members, device, seed).run(until_s)


class _Alone:
    """A policy that shares nothing, seen as a device."""

    def __init__(self, policy: Scheduled) -> None:
        self._policy = policy

    def decide(self, now: float) -> Sequence[tuple[Scheduled, Decision]]:
        return ((self._policy, self._policy.decide(now)),)


@dataclass(slots=True)
class _Group:
    """Policies that are decided on together."""

    device: SharedDevice
    wakes_s: dict[int, float] = field(default_factory=dict)
    is_dirty: bool = False

    @property
    def wake_s(self) -> float:
        return min(self.wakes_s.values(), default=np.inf)


class _Side:
    """One member while the simulation goes on."""

    def __init__(self, member: Member, group: _Group, seed: int) -> None:
        self.member = member
        self.policy = member.policy
        self.group = group
        self.random = np.random.default_rng(seed)
        self.recorder = Recorder()
        self.busy: set[int] = set()
        self._factors: list[float] = []

    def factor(self) -> float:
        """Draw the next run's share of its mean time."""
        if not self.member.noise and not self.member.factors:
            return 1.0
        if not self._factors and (seen := self.member.factors):
            first = int(self.random.integers(len(seen)))
            self._factors = [*seen[first:], *seen[:first]][::-1]
        elif not self._factors:
            drawn = 1.0 + self.member.noise * self.random.standard_normal(_NOISE_BLOCK)
            self._factors = np.maximum(drawn, 0.05).tolist()
        return self._factors.pop()

    def key(self, length: int) -> ShapeKey:
        """Name the shape of a request."""
        return ((self.member.key_of(length),),)


class _Simulation:
    """The virtual clock and what is due: arrivals, ends of runs, wake-ups."""

    def __init__(self, members: Sequence[Member], device: SharedDevice | None, seed: int) -> None:
        shared = None if device is None else _Group(device)
        seeds = np.random.SeedSequence(seed).generate_state(len(members)).tolist()
        self.sides = [
            _Side(member, shared or _Group(_Alone(member.policy)), own)
            for member, own in zip(members, seeds, strict=True)
        ]
        self.groups = [shared] if shared is not None else [side.group for side in self.sides]
        self.by_policy = {id(side.policy): (number, side) for number, side in enumerate(self.sides)}
        self.due: list[tuple[float, int, _Side, Batch | SimulatedRequest, float]] = []
        self.ticks = 0
        self.now = 0.0
        self.decisions = 0

    def run(self, until_s: float) -> list[Record]:
        arrivals = self._open_loop()
        for side in self.sides:
            if isinstance(side.member.traffic, ClosedLoop):
                self._begin_loop(side, side.member.traffic)
        coming = next(arrivals, None)
        while True:
            moment = min(self.due[0][0] if self.due else np.inf, min(group.wake_s for group in self.groups))
            if coming is not None and coming[0].arrival_s < moment:
                moment = coming[0].arrival_s
            if moment == np.inf or moment > until_s:
                break
            self.decisions = 0 if moment > self.now else self.decisions + 1
            if self.decisions > _MAX_DECISIONS:
                raise SimulationError(f"{_MAX_DECISIONS} decisions at {self.now} s and still not settled")
            now = self.now = max(self.now, moment)
            while self.due and self.due[0][0] <= now:
                self._happen()
            while coming is not None and coming[0].arrival_s <= now:
                self._arrive(*coming)
                coming = next(arrivals, None)
            for group in self.groups:
                if group.is_dirty or group.wake_s <= now:
                    self._decide(group)
        if until_s == np.inf and any(side.recorder.open_requests for side in self.sides):
            raise SimulationError(f"requests wait at {self.now} s, nothing runs and nothing will wake the rules")
        return [side.recorder.record(self.now) for side in self.sides]

    def _open_loop(self) -> Iterator[tuple[SimulatedRequest, _Side]]:
        """Give the open-loop requests of all members in order of time."""
        tables = [(side, side.member.traffic) for side in self.sides if isinstance(side.member.traffic, Traffic)]
        if not tables:
            return
        moments = np.concatenate([table.times_s for _, table in tables])
        owners = np.concatenate([np.full(len(table), number) for number, (_, table) in enumerate(tables)])
        order = np.argsort(moments, kind="stable")
        columns = [zip(*(getattr(table, name).tolist() for name in _COLUMNS), strict=True) for _, table in tables]
        for owner in owners[order].tolist():
            side, table = tables[owner]
            moment, rows, length, client, priority, is_poisoned = next(columns[owner])
            yield (
                SimulatedRequest(
                    (), rows, side.key(length), 1, moment, table.timeout_s, priority,
                    length=length, is_poisoned=is_poisoned, sender=client, client=str(client),
                ),
                side,
            )  # fmt: skip

    def _begin_loop(self, side: _Side, loop: ClosedLoop) -> None:
        for client in range(loop.clients):
            self._send_again(side, loop, client, loop.start_s)

    def _send_again(self, side: _Side, loop: ClosedLoop, client: int, now: float) -> None:
        moment = now + (side.random.exponential(loop.think_s) if loop.think_s else 0.0)
        if moment <= loop.until_s:
            request = SimulatedRequest(
                (), loop.rows, side.key(loop.length), 1, moment, length=loop.length, sender=client, client=str(client)
            )
            self._put(moment, side, request, 0.0)

    def _put(self, moment: float, side: _Side, what: Batch | SimulatedRequest, took_s: float) -> None:
        self.ticks += 1
        heappush(self.due, (moment, self.ticks, side, what, took_s))

    def _happen(self) -> None:
        """Take the next thing that is due: a client of a closed loop sends, or a batch comes back."""
        _, _, side, what, took_s = heappop(self.due)
        if isinstance(what, SimulatedRequest):
            self._arrive(what, side)
            return
        side.busy.discard(what.slot)
        side.group.is_dirty = True
        ok = not any(_request(entry.ticket).is_poisoned for entry in what.entries)
        overhead_s = self.now - what.cut_s - took_s
        self._settle(side, side.policy.finish(what, self.now, ok=ok, took_s=took_s, overhead_s=overhead_s))

    def _arrive(self, request: SimulatedRequest, side: _Side) -> None:
        request.index = side.recorder.note(request.arrival_s, request.rows, request.length, request.sender)
        side.group.is_dirty = True
        try:
            ticket = side.policy.arrive(request, self.now)
        except RequestError as error:
            self._end(side, request, _outcome_of(error))
        else:
            side.recorder.deadlines[request.index] = ticket.deadline_s

    def _decide(self, group: _Group) -> None:
        group.is_dirty = False
        group.wakes_s = {key: wake_s for key, wake_s in group.wakes_s.items() if wake_s > self.now}
        for policy, decision in group.device.decide(self.now):
            _, side = self.by_policy[id(policy)]
            if decision.wake_s is None:
                group.wakes_s.pop(id(policy), None)
            else:
                group.wakes_s[id(policy)] = decision.wake_s
            for batch in decision.batches:
                self._start(side, batch)
            self._settle(side, decision.ended)

    def _start(self, side: _Side, batch: Batch) -> None:
        if batch.slot in side.busy:
            raise SimulationError(f"slot {batch.slot} was given a second batch at {self.now} s")
        beside = len(side.busy)
        side.busy.add(batch.slot)
        member = side.member
        lengths = [_request(entry.ticket).length for entry in batch.entries]
        longest = batch.length or -(-max(lengths) // member.multiple) * member.multiple
        used = sum(entry.rows * max(1, length) for entry, length in zip(batch.entries, lengths, strict=True))
        overhead_s = member.overhead_s
        if callable(overhead_s):
            overhead_s = overhead_s(Run(batch.rows, longest, self.now, beside))
        begin_s = self.now + overhead_s
        seconds = member.curve(Run(batch.rows, longest, begin_s, beside)) * side.factor()
        if member.speeds:
            seconds *= member.speeds[batch.slot]
        ok = not any(_request(entry.ticket).is_poisoned for entry in batch.entries)
        elements = batch.rows * max(1, longest)
        side.recorder.runs.append((begin_s, seconds, batch.rows, elements, used, ok, batch.reason == "isolate"))
        self._put(begin_s + seconds, side, batch, seconds)

    def _settle(self, side: _Side, ended: Sequence[Ticket]) -> None:
        for ticket in ended:
            assert ticket.outcome is not None, "ended without an outcome"
            self._end(side, _request(ticket), NUMBERS[ticket.outcome])

    def _end(self, side: _Side, request: SimulatedRequest, outcome: int) -> None:
        if not side.recorder.end(request.index, outcome, self.now):
            raise SimulationError(f"request {request.index} ended twice, the second time at {self.now} s")
        loop = side.member.traffic
        if isinstance(loop, ClosedLoop):
            pause_s = 0.0 if outcome == NUMBERS[Outcome.COMPLETED] else loop.retry_s
            self._send_again(side, loop, request.sender, self.now + pause_s)


_COLUMNS = ("times_s", "rows", "lengths", "clients", "priorities", "poisoned")


def _outcome_of(error: RequestError) -> int:
    if isinstance(error, InvalidRequest):
        return INVALID
    return NUMBERS[Outcome.EXPIRED if isinstance(error, DeadlineExceeded) else Outcome.REFUSED]


def _request(ticket: Ticket) -> SimulatedRequest:
    request = ticket.request
    assert isinstance(request, SimulatedRequest), "a ticket of somebody else's request"
    return request
