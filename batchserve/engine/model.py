"""One version of a model, loaded: what it is, and the way in for requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchserve.backends.base import PerDevice
from batchserve.core.cost import CostModel
from batchserve.core.device import Device
from batchserve.core.policy import Policy
from batchserve.core.speeds import Speeds
from batchserve.core.tensors import ModelSignature
from batchserve.engine.changes import Changes, compare
from batchserve.engine.devices import DeviceGroup, device_name, natural_slots
from batchserve.engine.events import ArrivalListener, NullListener
from batchserve.engine.gauges import TargetWatch, gauges_of
from batchserve.engine.limits import limits_of, max_rows_of
from batchserve.engine.observed import Observed
from batchserve.engine.placement import MAX_IN_PLACE_S, Placement
from batchserve.engine.profiles import Keeper
from batchserve.engine.profiling import profile
from batchserve.engine.scheduler import Release, Reply, Scheduler
from batchserve.errors import InvalidRequest, RequestError

if TYPE_CHECKING:
    from batchserve.backends.base import Build, ModelFile
    from batchserve.config import ModelConfig
    from batchserve.core.counters import Counters
    from batchserve.core.request import Request, Response
    from batchserve.core.sizing import Sizing
    from batchserve.core.ticket import Ticket
    from batchserve.engine.calibration import Calibrated
    from batchserve.engine.devices import Devices
    from batchserve.engine.events import BatchEnded, Listener, RequestsEnded
    from batchserve.engine.gauges import Gauges
    from batchserve.engine.profiles import ProfileFile
    from batchserve.engine.warmup import WarmUp

__all__ = ["Model"]

LOOK_EVERY_S = 1.0
"""How often the latency target is compared with what runs cost."""

logger = logging.getLogger(__name__)


class Model:
    """A model version that serves. Event loop only; made by `engine.loading.load_model`.

    Attributes:
        name: Its name on the wire.
        version: Its version; the wire shows it in decimal.
        config: The effective configuration, with the instances and threads chosen at load; `reconfigure` replaces it.
        limits: The limits in force, with every default resolved; another object after each change.
        signature: Inputs, outputs and the rows of one run.
        session: What runs it.
        curve: Rows (tokens, if it pads) and seconds measured at load, this one or an earlier one; ascending, empty if
            nothing was measured.
        layouts: How instances and threads compared at load; empty if there was nothing to choose.
        is_known: True if what an earlier process learnt of its costs still holds.
        learnt: What its runs are learnt to cost by rows, or by tokens if it pads; only to be read.
        observed: What batches took on average, if that is kept and they do not run in place; only to be read.
        devices: Names of the devices that it runs on, quickest at load first; `i % len(devices)` is slot `i`'s.
        speeds: How quick they are beside each other, if there are several; only to be read.
        load_s: Seconds from the start of the load until it was ready.
    """

    def __init__(
        self,
        file: ModelFile,
        config: ModelConfig,
        calibrated: Calibrated,
        measured: WarmUp,
        devices: Devices,
        *,
        load_s: float,
        factors: Sequence[float] = (),
        kept: ProfileFile | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.name = file.name
        self.version = file.version
        session, layout = calibrated.session, calibrated.layout
        self._asked = config  # with `auto` where the choice was the server's
        config = replace(config, instances=layout.instances, intra_op_threads=layout.threads)
        self.config = config
        self.session = session
        self.layouts = calibrated.measured
        self.load_s = load_s
        self.signature = ModelSignature(
            session.inputs, session.outputs, min(max_rows_of(session, config), measured.safe_rows), session.pad
        )
        self._listeners = listeners
        self._arrived = [one.arrived for one in listeners if isinstance(one, ArrivalListener)]
        self._is_profiled = False
        sessions = session.sessions if isinstance(session, PerDevice) else (session,)
        slots = layout.instances * len(sessions)
        self.limits = limits = limits_of(config, slots, self.signature.max_batch_size, session.pad)
        if larger := [rows for rows in config.preferred_batch_sizes if rows > limits.run_rows]:
            logger.warning(
                "model %s/%d: of preferred_batch_sizes %s are not used: one run takes at most %d rows",
                *(self.name, self.version, ", ".join(map(str, larger)), limits.run_rows),
            )
        self.curve = measured.measured
        where = device_name(session, config)
        self.speeds: Speeds | None = None
        if isinstance(session, PerDevice):
            self.devices, self.speeds = session.devices, Speeds(len(sessions), factors)
            group = DeviceGroup(Device(1))  # its slots are its own
        else:
            self.devices, group = (where,), devices.group(where)
        cost = CostModel(measured.points, limits.horizon_s)
        if measured.profile is not None:
            cost.q = measured.profile.q
        self.learnt = cost
        known = measured.profile
        self.observed = Observed() if known is None else Observed(known.observed, known.ratios)
        self._watch = TargetWatch()
        self._look_s = 0.0
        self.is_known = measured.profile is not None
        self._keeper = None if kept is None else Keeper(kept, cost, measured.measured, self.observed, time.monotonic())
        self._policy = Policy(self.name, limits, cost, group.device, self.speeds)
        deaf = NullListener.batch_ended
        self._hear_batch = [each.batch_ended for each in listeners if type(each).batch_ended is not deaf]
        self._scheduler = Scheduler(
            f"{self.name}/{self.version}",
            self._policy,
            sessions,
            Placement(cost, may_run_in_place=session.may_run_in_place),
            group,
            loop=asyncio.get_running_loop(),
            on_batch=self._batch_ended,
            on_ended=self._requests_ended,
            cores=config.cpu_affinity,
        )
        natural = limits.slots if self.speeds else natural_slots(where, session, limits.slots)
        group.join(self._policy, self._scheduler, config.device_slots, natural)
        session.serve(layout, self.signature.max_batch_size)

    # --- what it is -----------------------------------------------------------------------------------------------

    @property
    def instances(self) -> int:
        """Batches that may run at once."""
        return self.limits.slots

    @property
    def places(self) -> list[tuple[str, float]]:
        """The device of each slot, and what a run takes there as a multiple of the device that was quickest at load."""
        devices, speeds = self.devices, self.speeds
        factors = [1.0] if speeds is None else speeds.factors
        return [(devices[slot % len(devices)], factors[slot % len(devices)]) for slot in range(self.instances)]

    @property
    def build(self) -> Build | None:
        """The change to another provider that is under way or over; None if none is due."""
        return self.session.build

    @property
    def worker_restarts(self) -> int:
        """How often the process that it runs in was started again; 0 if it runs in the server."""
        return int(self.session.facts.get("restarts", 0))

    @property
    def max_queue_size(self) -> int:
        """Rows that may wait."""
        return self.limits.max_queue_size

    @property
    def latency_target_s(self) -> float | None:
        """The longest time that a request should take; None if none is set."""
        return self.limits.latency_target_s

    @property
    def provider(self) -> str:
        """The execution provider that comes first, as the runtime names it; "" if the runtime names none."""
        return next(iter(self.session.providers), "")

    @property
    def max_queue_delay_s(self) -> float | None:
        """How long a part-filled batch is held; None for `auto`."""
        return self.limits.max_queue_delay_s

    # --- how it does ----------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals since it was loaded."""
        return self._policy.counters

    @property
    def cost(self) -> CostModel:
        """What its runs are learnt to cost; only to be read."""
        return self._policy.cost

    @property
    def sizing(self) -> Sizing:
        """How large its batches should be; only to be read."""
        return self._policy.sizing

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._policy.queue.rows

    @property
    def queued_requests(self) -> int:
        """Requests of which nothing has been started."""
        return self._policy.queued_requests

    @property
    def running_requests(self) -> int:
        """Requests that were started and have not ended."""
        return self._policy.running_requests

    @property
    def oldest_arrival_s(self) -> float | None:
        """Arrival of the request that has waited longest (monotonic seconds), None if nothing waits."""
        oldest = self._policy.queue.oldest()
        return None if oldest is None else oldest.ticket.request.arrival_s

    @property
    def is_stuck(self) -> bool:
        """True while a run of it does not come back."""
        return self._policy.slots.is_stuck

    def gauges(self, now: float) -> Gauges:
        """Read what its scheduler thinks at a moment (monotonic seconds)."""
        return gauges_of(self._policy, self._watch, now)

    @property
    def is_draining(self) -> bool:
        """True once it takes no more work."""
        return self._policy.is_draining

    # --- requests -------------------------------------------------------------------------------------------------

    def submit(self, request: Request, reply: Reply, release: Release | None = None) -> Ticket:
        """Queue a request; see `Scheduler.submit`.

        Raises:
            RequestError: Refused at the door, counted; neither `reply` nor `release` will be called.
        """
        for hear in self._arrived:
            hear(self, request)
        return self._scheduler.submit(request, reply, release)

    def cancel(self, ticket: Ticket) -> None:
        """Drop a request whose client left; its reply is not called any more. Nothing happens if it has ended."""
        self._scheduler.cancel(ticket)

    async def infer(self, request: Request) -> Response:
        """Queue a request and wait for its answer.

        If the caller is cancelled here, the request is: it leaves the queue at once.

        Raises:
            RequestError: Refused, expired, failed or drained out.
        """
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        ticket = self.submit(request, partial(_settle, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.exception()  # it ended in the turn in which its waiter was cancelled: nobody will read it
            self._scheduler.cancel(ticket)
            raise

    async def profile(self, batches: int, timeout_s: float) -> bytes:
        """Let the runtime write down the next batches, which run on a session of their own.

        Args:
            batches: How many.
            timeout_s: Seconds after which what was seen so far is enough.

        Returns:
            JSON in the form of Chrome's traces.

        Raises:
            ModelLoadError: The model cannot be profiled.
            InvalidRequest: A profile of it is being made already.
            DeadlineExceeded: No batch ran in that time.
        """
        if self._is_profiled:
            raise InvalidRequest(f"model '{self.name}' is being profiled already: wait for the other's answer")
        self._is_profiled = True
        try:
            return await profile(self.name, self.session, self._scheduler.use, batches, timeout_s)
        finally:
            self._is_profiled = False

    def count_invalid(self) -> None:
        """Count a request that the frontend found invalid before it was submitted."""
        self._policy.count_invalid()

    def count_refused(self, reason: str) -> None:
        """Count a request that the frontend turned away before it was submitted."""
        self._policy.count_refused(reason)

    # --- its configuration and its end --------------------------------------------------------------------------------

    def reconfigure(self, config: ModelConfig) -> Changes:
        """Put in force what may change while it serves (batching.md section 10); the rest waits for the next load.

        Args:
            config: What the configuration says now.
        """
        changes, self._asked = compare(self._asked, config)
        chosen = self.config
        self.config = replace(self._asked, instances=chosen.instances, intra_op_threads=chosen.intra_op_threads)
        if changes.applied:
            limits = limits_of(self.config, self.limits.slots, self.signature.max_batch_size, self.limits.pad)
            self.limits = self.limits.reconfigured(limits)
            self._scheduler.reconfigure(self.limits)
        return changes

    def start_drain(self, timeout_s: float) -> None:
        """Take no more work from now on; what still waits after `timeout_s` is refused."""
        self._scheduler.start_drain(timeout_s)

    async def drained(self) -> None:
        """Wait until everything that was admitted has ended."""
        await self._scheduler.drained()

    async def close(self) -> None:
        """End its threads and give its memory back. Only when drained."""
        await self._scheduler.close()
        if self._keeper is not None:
            await self._keeper.close()
        await asyncio.to_thread(self.session.close)

    def _batch_ended(self, event: BatchEnded) -> None:
        if self._keeper is not None:
            run_s = event.run_end_s - event.run_start_s
            # What is shorter runs in place, so often that this would be felt; the first run pays for more than itself.
            if run_s > MAX_IN_PLACE_S and event.ok and self._policy.counters.executions > 1:
                factor = 1.0 if self.speeds is None else self.speeds.of(event.instance)
                self.observed.observe(event.tokens, run_s / factor, event.done_s - event.cut_s - run_s)
            self._keeper.learnt(event.done_s)
        if event.done_s >= self._look_s:
            self._look_s = event.done_s + LOOK_EVERY_S
            if self._watch.look(self._policy, event.done_s):
                self._tell_target(event.done_s)
        for listener in self._listeners:
            listener.batch_ended(self, event)

    def _tell_target(self, now: float) -> None:
        gauges, name = self.gauges(now), f"{self.name}/{self.version}"
        if gauges.is_attainable:
            logger.info("model %s: its latency_target of %g ms can be held again", name, gauges.target_s * 1e3)
            return
        logger.warning(
            "model %s: its latency_target of %.3g ms cannot be held: one row takes %.3g ms, and a batch of %d, as the "
            "load needs, %.3g ms; the smallest target that would work now is %.3g ms",
            *(name, gauges.target_s * 1e3, gauges.row_s * 1e3, gauges.sustaining_rows),
            *((gauges.smallest_target_s - gauges.row_s) * 1e3, gauges.smallest_target_s * 1e3),
        )

    def _requests_ended(self, event: RequestsEnded) -> None:
        for listener in self._listeners:
            listener.requests_ended(self, event)


def _settle(future: asyncio.Future[Response], result: Response | RequestError) -> None:
    if future.done():  # the waiting task was cancelled in this very turn of the loop
        return
    if isinstance(result, RequestError):
        future.set_exception(result)
    else:
        future.set_result(result)
