"""The queue's lazy structures, the cost curve, gathering and scattering."""

from __future__ import annotations

import numpy as np
import pytest
from support.core_requests import make_request

from batchserve.core.batch import Batch, gather, join_parts, scatter
from batchserve.core.cost import CostModel, size_class
from batchserve.core.limits import Limits
from batchserve.core.policy import Policy
from batchserve.core.queue import Queue
from batchserve.core.tensors import DATATYPES
from batchserve.core.ticket import Entry, Ticket
from batchserve.errors import BadBackendOutput


def entry_of(number: int, *, rows: int = 1, width: int = 4, deadline_s: float = 60.0, level: int = 1) -> Entry:
    ticket = Ticket(make_request(rows, width=width, value=number), 0.0, deadline_s, level)
    ticket.entries = (Entry(ticket, 0, rows, number),)
    return ticket.entries[0]


# --- queue ------------------------------------------------------------------------------------------------------------


def held(queue: Queue) -> int:
    """Items in all of the queue's structures together."""
    lanes = [lane for shape in queue._shapes.values() for lane in shape.lanes]
    arrivals = sum(len(shape.arrivals) for shape in queue._shapes.values())
    return len(queue._by_order) + len(queue._by_deadline) + arrivals + sum(len(lane.heap) for lane in lanes)


def test_cancelled_entries_do_not_pile_up_until_their_deadline() -> None:
    """A client that sends and leaves again and again, behind a request that waits, costs no memory."""
    queue = Queue(2)
    queue.push(entry_of(0))
    for number in range(1, 20_000):
        entry = entry_of(number, deadline_s=60.0 - number * 1e-4, level=1 + number % 2)
        queue.push(entry)
        queue.remove(entry)
    assert (queue.entries, queue.rows) == (1, 1)
    assert held(queue) < 400


def test_many_different_shapes_do_not_pile_up() -> None:
    queue = Queue(1)
    for number in range(5_000):
        queue.push(entry_of(number, width=number + 1))
        shape = queue.first()
        assert shape is not None
        queue.take(shape, 8)
    assert held(queue) < 400
    assert len(queue._shapes) < 200


def test_bytes_of_the_parts_of_a_request_add_up() -> None:
    policy = Policy("m", Limits(max_batch_size=3, timeout_s=1.0, max_queue_size=100), CostModel((), 1.0))
    policy.arrive(make_request(10), 0.0)
    assert policy.queue.size_bytes == 10 * 4 * 8
    policy.decide(0.0)
    assert policy.queue.size_bytes == 7 * 4 * 8


def test_oldest_is_by_arrival_whatever_the_order_of_service() -> None:
    queue = Queue(1)
    first, second = entry_of(1, deadline_s=9.0), entry_of(2, deadline_s=1.0)
    queue.push(first)
    queue.push(second)
    assert queue.oldest() is first
    queue.remove(first)
    assert queue.oldest() is second
    queue.remove(second)
    assert queue.oldest() is None


# --- cost -------------------------------------------------------------------------------------------------------------


def test_cost_is_linear_between_the_points_and_follows_the_rules_outside() -> None:
    curve = CostModel([(2, 1.0), (4, 2.0), (8, 3.0)], 60.0)
    assert curve.mean(3) == pytest.approx(1.5)
    assert curve.mean(6) == pytest.approx(2.5)
    assert curve.mean(1) == pytest.approx(0.8)  # y0 * (0.6 + 0.4 * b / b0)
    assert curve.mean(12) == pytest.approx(4.0)  # the slope of the last two points


def test_noise_never_makes_more_rows_cheaper() -> None:
    curve = CostModel([(1, 1.0), (2, 0.5), (4, 0.7)], 60.0)
    assert [curve.mean(rows) for rows in range(1, 9)] == sorted(curve.mean(rows) for rows in range(1, 9))
    assert curve.points == ((1.0, 1.0), (2.0, 1.0), (4.0, 1.0))


def test_one_point_continues_with_a_tenth_of_its_time_per_row() -> None:
    assert CostModel([(2, 1.0)], 60.0).mean(4) == pytest.approx(1.1)


def test_without_a_point_the_guess_comes_from_the_timeout() -> None:
    assert CostModel([], 40.0).mean(2) == pytest.approx(1.2)


# --- gather and scatter -----------------------------------------------------------------------------------------------


def test_lone_request_is_passed_through_without_a_copy() -> None:
    entry = entry_of(7, rows=3)
    (array,) = gather(Batch([entry], "idle", 0))
    assert array is entry.ticket.request.inputs[0]


def test_rows_come_back_to_whom_they_belong_as_views() -> None:
    entries = [entry_of(1, rows=2), entry_of(2, rows=1), entry_of(3, rows=3)]
    batch = Batch(entries, "idle", 0)
    (joined,) = gather(batch)
    assert joined.shape == (6, 4)
    output = joined + 100
    scatter(batch, [output], is_batching=True)
    for entry in entries:
        assert entry.outputs is not None
        assert (entry.outputs[0] == 100 + entry.number).all()
        assert entry.outputs[0].shape == (entry.rows, 4)
        assert entry.outputs[0].base is output


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ([], "0 outputs came back, 1 were asked for"),
        ([np.zeros((5, 2))], r"has shape \[5, 2\], expected 6 rows"),
        ([np.float32(1.0)[()]], "expected 6 rows"),
    ],
)
def test_output_without_the_batch_rows_is_the_backends_fault(outputs: list[np.ndarray], match: str) -> None:
    entries = [entry_of(1, rows=2), entry_of(2, rows=4)]
    with pytest.raises(BadBackendOutput, match=match):
        scatter(Batch(entries, "idle", 0), [np.asarray(o) for o in outputs], is_batching=True)
    assert all(entry.outputs is None for entry in entries)


def test_each_request_gets_only_the_outputs_it_asked_for() -> None:
    first, second = entry_of(1), entry_of(2)
    first.ticket.request.output_mask = 0b100
    second.ticket.request.output_mask = 0b101
    batch = Batch([first, second], "idle", 0)
    assert batch.output_mask == 0b101
    zero, two = np.array([[0], [1]]), np.array([[20], [21]])
    scatter(batch, [zero, two], is_batching=True)
    assert [o.tolist() for o in first.outputs or ()] == [[[20]]]
    assert [o.tolist() for o in second.outputs or ()] == [[[1]], [[21]]]


def split_ticket() -> Ticket:
    ticket = Ticket(make_request(5), 0.0, 1.0, 1)
    ticket.entries = (Entry(ticket, 0, 3, 0), Entry(ticket, 3, 2, 1))
    return ticket


def test_parts_of_a_split_request_are_views_of_its_rows_and_join_in_order() -> None:
    ticket = split_ticket()
    assert [entry.arrays()[0].shape for entry in ticket.entries] == [(3, 4), (2, 4)]
    assert all(entry.arrays()[0].base is ticket.request.inputs[0] for entry in ticket.entries)
    ticket.entries[1].outputs = (np.array([3, 4]),)
    ticket.entries[0].outputs = (np.array([0, 1, 2]),)
    join_parts(ticket)
    assert [output.tolist() for output in ticket.result()] == [[0, 1, 2, 3, 4]]


def test_parts_of_different_shapes_say_what_to_do() -> None:
    ticket = split_ticket()
    ticket.entries[0].outputs = (np.zeros((3, 7)),)
    ticket.entries[1].outputs = (np.zeros((2, 9)),)
    join_parts(ticket)
    assert ticket.outputs is None
    assert "send at most max_batch_size rows" in ticket.fault


def test_datatypes_agree_with_the_wire_table() -> None:
    assert set(DATATYPES) == {
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "BYTES"),
    }
    for name, datatype in DATATYPES.items():
        assert datatype.name == name
        assert datatype.itemsize == (0 if name == "BYTES" else datatype.dtype.itemsize)
        assert datatype.config == ("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")


@pytest.mark.parametrize(("rows", "like"), [(4, 5), (6, 7), (8, 11), (12, 15), (16, 23), (24, 31), (32, 47)])
def test_two_size_classes_for_each_doubling(rows: int, like: int) -> None:
    assert size_class(rows) == size_class(like)
    assert size_class(rows) == size_class(rows - 1) + 1
    assert size_class(like) == size_class(like + 1) - 1


def test_class_moves_a_fifth_of_the_way_towards_each_run() -> None:
    cost = CostModel([(8, 1.0)], 60.0)
    cost.observe(10, 2.0)
    assert cost.recent(11) == pytest.approx(1.2)
    assert cost.points == ((pytest.approx(8.4), pytest.approx(1.2)),)
    assert cost.mean(8.4) == pytest.approx(1.2)  # type: ignore[arg-type]


def test_cost_follows_a_change_of_speed() -> None:
    """Sizes seen before are within 15 % of a doubled time after 15 runs (batching.md section 12)."""
    cost = CostModel([(8, 1.0)], 60.0)
    for _ in range(15):
        cost.observe(8, 2.0)
    assert abs(cost.mean(8) - 2.0) < 0.3
