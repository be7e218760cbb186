"""The engine around the core: real threads, a real loop, a backend that a test can hold."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.core_requests import make_request

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.cost import CostModel
from batchserve.core.counters import REFUSAL_BOUNDS_S
from batchserve.core.request import Request, Response
from batchserve.core.ticket import Outcome
from batchserve.engine import placement
from batchserve.engine.events import BatchEnded, NullListener, RequestsEnded
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.engine.placement import Placement
from batchserve.errors import DeadlineExceeded, Draining, ExecutionFailed, QueueFull, RequestError, WorkerDied

FILE = ModelFile("m", 1, Path("m.onnx"))


class Recorder(NullListener):
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.batches: list[BatchEnded] = []
        self.ended: list[RequestsEnded] = []

    def batch_ended(self, model: Model, event: BatchEnded) -> None:
        self.batches.append(event)

    def requests_ended(self, model: Model, event: RequestsEnded) -> None:
        self.ended.append(event)


Load = Callable[..., "asyncio.Future[Model]"]


@pytest.fixture
async def load() -> AsyncIterator[Callable[..., object]]:
    """Load a model on a backend; it is drained and closed after the test, and no thread of it is left."""
    models: list[Model] = []

    async def load_one(backend: FakeBackend, listeners: Sequence[NullListener] = (), **config: object) -> Model:
        settings = {"warmup_budget_s": 0.0, **config}
        model = await load_model(FILE, ModelConfig(**settings), backend, executor=None, listeners=listeners)  # type: ignore[arg-type]
        models.append(model)
        return model

    yield load_one
    for model in models:
        if isinstance(gate := model.session._backend.gate, threading.Event):  # type: ignore[attr-defined]
            gate.set()
        await drain(model, 0.0)
        await model.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("m/1#")]


def request(value: int = 0, rows: int = 1, **more: object) -> Request:
    return make_request(rows, value=value, arrival_s=time.monotonic(), **more)  # type: ignore[arg-type]


async def held_model(
    load: Load, **config: object
) -> tuple[Model, FakeBackend, threading.Event, asyncio.Task[Response]]:
    """A model whose only slot is busy until the gate is opened."""
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    model = await load(backend, **config)
    blocker = asyncio.create_task(model.infer(request(value=-1)))
    await asyncio.to_thread(backend.wait_for_runs, 1)
    return model, backend, gate, blocker


async def drain(model: Model, timeout_s: float) -> None:
    model.start_drain(timeout_s)
    await model.drained()


async def queued(model: Model, count: int) -> None:
    """Wait until so many requests are in the queue. Turns of the loop, not time."""
    while model.queued_requests != count:  # noqa: ASYNC110  # the engine has no event for it, and needs none
        await asyncio.sleep(0)


async def test_every_answer_belongs_to_its_request(load: Load) -> None:
    model = await load(FakeBackend(), instances=2)
    sizes = [1 + value % 5 for value in range(200)]
    answers = await asyncio.gather(*(model.infer(request(value, rows)) for value, rows in enumerate(sizes)))
    for value, (rows, answer) in enumerate(zip(sizes, answers, strict=True)):
        assert (answer.outputs[0] == np.full((rows, 4), value)).all()
    counters = model.counters
    assert (counters.received, counters.completed, counters.rows) == (200, 200, sum(sizes))


async def test_requests_that_arrive_while_the_slot_is_busy_run_together(load: Load) -> None:
    model, backend, gate, blocker = await held_model(load)
    waiting = [asyncio.create_task(model.infer(request(value))) for value in range(5)]
    await queued(model, 5)
    gate.set()
    answers = await asyncio.gather(*waiting)
    await blocker
    assert [run.rows for run in backend.runs] == [1, 5]
    assert [answer.batch_rows for answer in answers] == [5] * 5


async def test_phases_are_in_order_and_shared_by_the_batch(load: Load) -> None:
    model = await load(FakeBackend())
    answers = await asyncio.gather(*(model.infer(request(value)) for value in range(3)))
    for answer in answers:
        phases = answer.phases
        moments = [
            *(phases.arrival_s, phases.admitted_s, phases.start_s),
            *(phases.run_start_s, phases.run_end_s, phases.done_s),
        ]
        assert moments == sorted(moments)
    assert len({answer.phases.run_start_s for answer in answers}) == 1


async def test_disconnected_request_is_removed_before_its_batch_is_cut(load: Load) -> None:
    model, backend, gate, blocker = await held_model(load)
    waiting = [asyncio.create_task(model.infer(request(value))) for value in range(3)]
    await queued(model, 3)
    waiting[1].cancel()
    await queued(model, 2)
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    await blocker
    assert isinstance(results[1], asyncio.CancelledError)
    assert [run.inputs[0][:, 0].tolist() for run in backend.runs] == [[-1], [0, 2]]
    assert (model.counters.cancelled, model.counters.completed) == (1, 3)


async def test_request_cancelled_while_running_costs_its_neighbours_nothing(load: Load) -> None:
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    model = await load(backend)
    tasks = [asyncio.create_task(model.infer(request(value))) for value in range(3)]
    await asyncio.to_thread(backend.wait_for_runs, 1)
    tasks[0].cancel()
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [int(result.outputs[0][0, 0]) for result in results[1:]] == [1, 2]  # type: ignore[union-attr]


async def test_deadline_answers_within_five_milliseconds_of_it_while_the_slot_is_busy(load: Load) -> None:
    """The timer expires it, not the slot: the slot stays busy until after the answer. The bound in the test is wide;
    batching.md section 10 asks for 5 ms, which a loaded machine cannot promise."""
    model, _, gate, blocker = await held_model(load)
    with pytest.raises(DeadlineExceeded, match="timeout of 20 ms"):
        await model.infer(request(timeout_s=0.02))
    assert not blocker.done()
    assert model.counters.expired == 1
    gate.set()
    await blocker


async def test_classic_timer_releases_a_part_filled_batch(load: Load) -> None:
    recorder = Recorder()
    model = await load(FakeBackend(), (recorder,), max_queue_delay_s=0.01, warmup_budget_s=1.0)
    started = time.monotonic()
    await model.infer(request())
    assert time.monotonic() - started >= 0.01
    assert [event.reason for event in recorder.batches] == ["timer"]


async def test_full_queue_refuses(load: Load) -> None:
    model, _, gate, blocker = await held_model(load, max_queue_size=2)
    waiting = asyncio.create_task(model.infer(request(rows=2)))
    await queued(model, 1)
    with pytest.raises(QueueFull):
        await model.infer(request())
    gate.set()
    await asyncio.gather(waiting, blocker)


async def test_bad_row_fails_alone_and_its_neighbours_are_answered(load: Load) -> None:
    recorder = Recorder()
    backend = FakeBackend(fails=lambda inputs: bool((inputs[0] == 13).any()))
    model = await load(backend, (recorder,))
    results = await asyncio.gather(*(model.infer(request(value)) for value in range(32)), return_exceptions=True)
    for value, result in enumerate(results):
        if value == 13:
            assert isinstance(result, ExecutionFailed)
            assert "'m'" in str(result)
        else:
            assert isinstance(result, Response)
            assert (result.outputs[0] == value).all()
    assert len(backend.runs) <= 1 + 2 * 5 + 1
    assert [(event.outcome, len(event.arrivals_s)) for event in recorder.ended] == [("failed", 1)]
    assert model.counters.failed_executions == sum(not event.ok for event in recorder.batches)


@pytest.mark.parametrize(
    "function",
    [
        lambda inputs, mask: [inputs[0][:-1]],
        lambda inputs, mask: [],
        lambda inputs, mask: [np.int64(3)],
        lambda inputs, mask: 1 / 0,
    ],
    ids=["rows missing", "output missing", "scalar", "crash"],
)
async def test_backend_that_breaks_its_promise_fails_the_request_not_the_server(
    load: Load, function: Callable[..., object]
) -> None:
    backend = FakeBackend()
    model = await load(backend)
    good, backend.function = backend.function, function  # type: ignore[assignment]
    with pytest.raises(ExecutionFailed):
        await model.infer(request())
    backend.function = good
    assert (await model.infer(request(5))).outputs[0][0, 0] == 5


async def test_split_request_is_joined_in_row_order_across_instances(load: Load) -> None:
    model = await load(FakeBackend(), instances=3, max_batch_size=4)
    array = np.arange(50 * 4, dtype=np.int64).reshape(50, 4)
    ask = Request((array,), 50, ((4,),), 1, time.monotonic())
    answer = await model.infer(ask)
    assert (answer.outputs[0] == array).all()
    assert model.counters.completed == 1


async def test_split_request_whose_parts_do_not_join_fails_and_says_what_to_do(load: Load) -> None:
    def ragged(inputs: Sequence[np.ndarray], mask: int) -> list[np.ndarray]:
        return [np.zeros((len(inputs[0]), int(inputs[0][0, 0]) + 1))]

    model = await load(FakeBackend(function=ragged), max_batch_size=2)
    array = np.arange(4, dtype=np.int64).reshape(4, 1)
    with pytest.raises(ExecutionFailed, match="different shapes: send at most max_batch_size rows"):
        await model.infer(Request((array,), 4, ((1,),), 1, time.monotonic()))
    assert (model.counters.failed, model.running_requests, model.queued_requests) == (1, 0, 0)


async def test_only_the_outputs_somebody_asked_for_are_computed(load: Load) -> None:
    spec = FakeBackend().outputs[0]
    backend = FakeBackend(outputs=[spec, spec, spec])
    model = await load(backend)
    await asyncio.gather(model.infer(request(output_mask=0b001)), model.infer(request(output_mask=0b100)))
    assert [run.output_mask for run in backend.runs] == [0b101]


async def test_drain_finishes_what_was_admitted_and_refuses_the_rest(load: Load) -> None:
    model, _, gate, blocker = await held_model(load)
    waiting = [asyncio.create_task(model.infer(request(value))) for value in range(3)]
    await queued(model, 3)
    draining = asyncio.create_task(drain(model, 30.0))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await model.infer(request())
    assert not draining.done()
    gate.set()
    await draining
    assert [int(answer.outputs[0][0, 0]) for answer in await asyncio.gather(*waiting)] == [0, 1, 2]
    await blocker


async def test_drain_gives_up_what_waits_when_its_time_is_over(load: Load) -> None:
    model, _, gate, blocker = await held_model(load)
    waiting = asyncio.create_task(model.infer(request()))
    await queued(model, 1)
    draining = asyncio.create_task(drain(model, 0.01))
    with pytest.raises(Draining):
        await waiting
    assert not draining.done(), "the running batch is awaited"
    gate.set()
    await draining
    assert (await blocker).outputs[0][0, 0] == -1


async def test_reply_that_raises_does_not_keep_others_from_their_answers(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    model = await load(FakeBackend())

    def broken(result: Response | RequestError) -> None:
        raise OSError("connection lost")

    model.submit(request(1), broken)
    assert (await model.infer(request(2))).outputs[0][0, 0] == 2
    assert "could not be delivered" in caplog.text


async def test_reply_comes_exactly_once_and_never_inside_submit(load: Load) -> None:
    model = await load(FakeBackend())
    answers: list[Response | RequestError] = []
    arrived = asyncio.Event()

    def reply(result: Response | RequestError) -> None:
        answers.append(result)
        arrived.set()

    model.submit(request(1), reply)
    assert answers == []
    await arrived.wait()
    await model.infer(request(2))
    assert len(answers) == 1


async def test_event_tells_the_times_rows_and_reason_of_a_batch(load: Load) -> None:
    recorder = Recorder()
    model = await load(FakeBackend(), (recorder,))
    await asyncio.gather(model.infer(request(rows=2)), model.infer(request(rows=3)))
    (event,) = recorder.batches
    assert (event.rows, event.requests, event.completed_rows, event.reason, event.ok) == (5, 2, 5, "idle", True)
    assert len(event.arrivals_s) == len(event.admissions_s) == 2
    assert event.start_s <= event.run_start_s <= event.run_end_s <= event.done_s


async def test_warm_up_measures_sizes_and_a_failing_size_lowers_the_limit(load: Load) -> None:
    model = await load(FakeBackend(), warmup_budget_s=5.0, max_batch_size=6)
    assert [rows for rows, _ in model.curve] == [1, 2, 3, 4, 6]
    lowered = await load(FakeBackend(fails=lambda inputs: len(inputs[0]) > 4), warmup_budget_s=5.0)
    assert lowered.signature.max_batch_size == 4


# --- where a batch runs -----------------------------------------------------------------------------------------------


async def test_run_shorter_than_a_hand_over_is_done_on_the_loops_thread(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("FIRST_HOP_S", "MAX_IN_PLACE_S", "MAX_LAG_S"):
        monkeypatch.setattr(placement, limit, 60.0)  # however slow this machine is now
    backend = FakeBackend(may_run_in_place=True)
    model = await load(backend, warmup_budget_s=1.0)
    backend.runs.clear()
    answers = await asyncio.gather(*(model.infer(request(value, 1 + value % 5)) for value in range(100)))
    assert all((answer.outputs[0] == value).all() for value, answer in enumerate(answers))
    assert {run.thread for run in backend.runs} == {threading.get_ident()}
    assert model.counters.in_place == len(backend.runs)


async def test_run_longer_than_a_hand_over_is_handed_over(load: Load) -> None:
    backend = FakeBackend(may_run_in_place=True, function=lambda inputs, mask: [_spin(0.001, inputs[0])])
    model = await load(backend, warmup_budget_s=1.0, max_batch_size=2)
    backend.runs.clear()
    await asyncio.gather(*(model.infer(request(value)) for value in range(10)))
    assert threading.get_ident() not in {run.thread for run in backend.runs}
    assert model.counters.in_place == 0


def _spin(seconds: float, array: np.ndarray) -> np.ndarray:
    """Compute for a while: a run that takes its time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return array.copy()


def test_late_loop_runs_nothing_in_place() -> None:
    placement = Placement(CostModel([(1, 10e-6)], 60.0))
    assert placement.is_in_place(1, lag_s=0.0)
    assert not placement.is_in_place(1, lag_s=0.1)


def test_nothing_is_run_in_place_before_it_was_measured() -> None:
    assert not Placement(CostModel([], 1e-6)).is_in_place(1, lag_s=0.0)


def test_slow_hand_overs_never_put_a_long_run_on_the_loop() -> None:
    placement = Placement(CostModel([(1, 300e-6)], 60.0))
    for _ in range(200):
        placement.observe_hop(0.01)
    assert not placement.is_in_place(1, lag_s=0.0)


async def test_bad_row_of_an_in_place_batch_fails_alone(load: Load) -> None:
    backend = FakeBackend(may_run_in_place=True, fails=lambda inputs: bool((inputs[0] == 13).any()))
    model = await load(backend, warmup_budget_s=1.0)
    results = await asyncio.gather(*(model.infer(request(value)) for value in range(32)), return_exceptions=True)
    assert [value for value, result in enumerate(results) if isinstance(result, ExecutionFailed)] == [13]


# --- whose memory -----------------------------------------------------------------------------------------------------


class Owner:
    """Notes in which order a request was answered and its memory given back."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.released = asyncio.Event()

    def reply(self, result: Response | RequestError) -> None:
        self.heard.append("reply")

    def release(self) -> None:
        self.heard.append("release")
        self.released.set()


@pytest.mark.parametrize("in_place", [True, False])
async def test_memory_goes_back_once_after_the_answer(load: Load, in_place: bool) -> None:
    model = await load(FakeBackend(may_run_in_place=in_place), warmup_budget_s=1.0)
    owner = Owner()
    model.submit(request(), owner.reply, owner.release)
    await asyncio.wait_for(owner.released.wait(), 10)
    await model.infer(request())
    assert owner.heard == ["reply", "release"]


async def test_memory_of_a_request_that_left_the_queue_goes_back_at_once(load: Load) -> None:
    model, _, gate, blocker = await held_model(load)
    owner = Owner()
    ticket = model.submit(request(), owner.reply, owner.release)
    model.cancel(ticket)
    assert owner.heard == ["release"]
    gate.set()
    await blocker


async def test_memory_of_a_request_that_left_while_running_goes_back_when_the_run_ends(load: Load) -> None:
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    model = await load(backend)
    owner = Owner()
    ticket = model.submit(request(), owner.reply, owner.release)
    await asyncio.to_thread(backend.wait_for_runs, 1)
    model.cancel(ticket)
    assert owner.heard == []
    gate.set()
    await asyncio.wait_for(owner.released.wait(), 10)
    assert owner.heard == ["release"]


async def test_memory_of_a_split_request_waits_for_the_part_that_still_runs(load: Load) -> None:
    """One part expires while another runs: the client has its error at once, the memory is read until the run ends."""
    gate = threading.Event()
    backend = FakeBackend(gate=gate)
    model = await load(backend, max_batch_size=2)
    owner = Owner()
    model.submit(request(rows=4, timeout_s=0.05), owner.reply, owner.release)
    await asyncio.to_thread(backend.wait_for_runs, 1)
    while not owner.heard:  # noqa: ASYNC110  # turns of the loop until the deadline's timer
        await asyncio.sleep(0)
    assert owner.heard == ["reply"]
    gate.set()
    await asyncio.wait_for(owner.released.wait(), 10)
    assert owner.heard == ["reply", "release"]


async def test_memory_goes_back_when_the_model_fails_or_the_deadline_passes(load: Load) -> None:
    model = await load(FakeBackend(fails=lambda inputs: True))
    failed = Owner()
    model.submit(request(), failed.reply, failed.release)
    await asyncio.wait_for(failed.released.wait(), 10)
    held, _, gate, blocker = await held_model(load)
    expired = Owner()
    held.submit(request(timeout_s=0.01), expired.reply, expired.release)
    await asyncio.wait_for(expired.released.wait(), 10)
    assert failed.heard == expired.heard == ["reply", "release"]
    gate.set()
    await blocker


async def test_new_limits_hold_from_the_next_decision_and_deadlines_given_out_stay(load: Load) -> None:
    model, _, gate, blocker = await held_model(load, max_queue_size=2, timeout_s=30.0, max_batch_size=2)
    waiting = request()
    ticket = model.submit(waiting, lambda result: None)
    wanted = replace(model.config, max_queue_size=1, latency_target_s=0.5, instances=3, intra_op_threads=0)
    changes = model.reconfigure(wanted)
    assert (changes.applied, list(changes.not_applied)) == (("latency_target", "max_queue_size"), ["instances"])
    assert ticket.deadline_s == waiting.arrival_s + 30.0
    assert (model.limits.max_queue_size, model.limits.latency_target_s, model.limits.shed) == (1, 0.5, True)
    assert (model.config.instances, model.config.max_queue_size) == (1, 1)
    with pytest.raises(QueueFull):
        model.submit(request(), lambda result: None)
    gate.set()
    await blocker
    await drain(model, 1.0)
    assert ticket.outcome is Outcome.COMPLETED


async def test_a_batch_held_by_the_old_delay_goes_when_the_new_one_is_over(load: Load) -> None:
    """Without a decision at the change it would wait for the old timer, an hour."""
    backend = FakeBackend()
    model = await load(backend, max_queue_delay_s=3600.0, timeout_s=7200.0, max_batch_size=4, warmup_budget_s=5.0)
    warmed = len(backend.runs)
    waiting = asyncio.create_task(model.infer(request()))
    await queued(model, 1)
    model.reconfigure(replace(model.config, max_queue_delay_s=0.0))
    async with asyncio.timeout(20):
        await waiting
    assert len(backend.runs) == warmed + 1


@pytest.mark.parametrize("rows", [1, 5])
async def test_an_ended_request_leaves_nothing_for_the_garbage_collector(load: Load, rows: int) -> None:
    """Its arrays go at once: rows of 1 ride in one batch, those of 5 are split."""
    backend = FakeBackend(function=lambda inputs, mask: [inputs[0] + 1], may_run_in_place=True)
    model = await load(backend, max_batch_size=2)
    await model.infer(request())
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            asked = request(rows=rows)
            left = weakref.ref(asked.inputs[0])
            owner = Owner()
            model.submit(asked, owner.reply, owner.release)
            await asyncio.wait_for(owner.released.wait(), 10)
            del asked
            backend.runs.clear()
            await asyncio.to_thread(lambda: None)  # the instance's thread has let go of the batch, too
            assert left() is None
    finally:
        gc.enable()


async def test_time_until_a_refusal_is_counted_from_the_requests_last_byte(load: Load) -> None:
    model, _, _, _ = await held_model(load, max_queue_size=1)
    model.submit(request(), lambda result: None)
    late = make_request(1, arrival_s=time.monotonic() - 0.3)
    with pytest.raises(QueueFull):
        model.submit(late, lambda result: None)
    counters = model.counters
    assert sum(counters.refusal_delays) == sum(counters.refused.values()) == 1
    assert counters.refusal_delays[REFUSAL_BOUNDS_S.index(0.512)] == 1
    assert 0.3 <= counters.refusal_delay_s < 0.512


async def test_rows_that_fail_are_counted(load: Load) -> None:
    backend = FakeBackend(fails=lambda inputs: bool((inputs[0] == 13).any()))
    model = await load(backend)
    with pytest.raises(ExecutionFailed):
        await model.infer(request(13, rows=3))
    assert (model.counters.failed, model.counters.failed_rows) == (1, 3)


async def test_target_that_cannot_be_held_is_warned_of_with_one_that_would_work(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    model = await load(FakeBackend(), latency_target_s=1e-9, shed=False, warmup_budget_s=5.0)
    await model.infer(request())
    assert not model.gauges(time.monotonic()).is_attainable
    (record,) = [record for record in caplog.records if "latency_target" in record.getMessage()]
    assert "cannot be held: one row takes" in record.getMessage()
    assert "the smallest target that would work now is" in record.getMessage()


# --- a process that dies with a batch ---------------------------------------------------------------------------------


async def test_batch_that_crashed_its_process_is_not_run_again_in_halves(load: Load) -> None:
    """Each half with the guilty row would crash it once more, and take the time of a restart."""
    backend = FakeBackend()
    model = await load(backend, max_batch_size=8)

    def crash(inputs: Sequence[np.ndarray]) -> bool:
        if (inputs[0] == 66).any():
            raise WorkerDied("killed")
        return False

    backend.fails = crash
    answers = await asyncio.gather(*(model.infer(request(value)) for value in (1, 66, 3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ExecutionFailed] * 3
    assert len(backend.runs) == 1
    assert (await model.infer(request(4))).outputs[0].tolist() == [[4] * 4]
