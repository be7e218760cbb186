"""Models that share a device: whose turn it is, and what each can count on (batching.md section 8)."""

from __future__ import annotations

import pytest
from support.core_requests import make_request
from support.policies import LINE, make_policy

from batchserve.core.batch import Batch
from batchserve.core.device import Device
from batchserve.core.policy import Policy
from batchserve.errors import Refused

FULL_S = 0.012
"""One full batch of LINE."""


class Run:
    """A device with one or more slots, driven by a virtual clock: the batches of one step start together."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.now = 0.0
        self.running: list[tuple[Policy, Batch]] = []
        self.device_s: dict[str, float] = {}

    def decide(self) -> list[tuple[str, int]]:
        started = []
        for policy, decision in self.device.decide(self.now):
            for batch in decision.batches:
                self.running.append((policy, batch))
                started.append((policy.name, batch.rows))
        return started

    def finish_next(self) -> None:
        policy, batch = min(self.running, key=lambda pair: pair[1].cut_s + pair[1].predicted_s)
        self.running.remove((policy, batch))
        self.now = max(self.now, batch.cut_s + batch.predicted_s)
        self.device_s[policy.name] = self.device_s.get(policy.name, 0.0) + batch.predicted_s
        policy.finish(batch, self.now, ok=True, took_s=batch.predicted_s)


def top_up(policy: Policy, now: float, rows: int = 96) -> None:
    """Keep a model backlogged."""
    while policy.queue.rows < rows:
        policy.arrive(make_request(arrival_s=now), now)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("heavy", "light"), [(3.0, 1.0), (1.0, 1.0), (8.0, 1.0)])
def test_overloaded_models_get_device_time_by_weight(slots: int, heavy: float, light: float) -> None:
    device = Device(slots)
    models = [
        make_policy(LINE, device, "heavy", weight=heavy, slots=slots),
        make_policy(LINE, device, "light", weight=light, slots=slots),
    ]
    run = Run(device)
    for _ in range(600):
        for model in models:
            top_up(model, run.now)
        run.decide()
        run.finish_next()
    assert run.device_s["heavy"] / run.device_s["light"] == pytest.approx(heavy / light, rel=0.05)


def test_idle_time_earns_no_credit() -> None:
    """Invariant 12: who comes back after a pause does not get the device for as long as the pause was."""
    device = Device(1)
    steady, late = make_policy(LINE, device, "steady"), make_policy(LINE, device, "late")
    run = Run(device)
    for _ in range(200):
        top_up(steady, run.now)
        run.decide()
        run.finish_next()
    served = []
    for _ in range(20):
        top_up(steady, run.now)
        top_up(late, run.now)
        served += [name for name, _ in run.decide()]
        run.finish_next()
    assert late.virtual_s >= device.virtual_s - 3 * FULL_S
    assert 8 <= served.count("steady") <= 12


def test_urgent_model_goes_first_while_both_are_near_their_share() -> None:
    device = Device(1)
    patient, urgent = make_policy(LINE, device, "patient"), make_policy(LINE, device, "urgent", latency_target_s=0.05)
    patient.arrive(make_request(), 0.0)
    urgent.arrive(make_request(), 0.0)
    assert Run(device).decide() == [("urgent", 1)]


def test_model_without_an_idle_instance_does_not_keep_the_device_idle() -> None:
    device = Device(2)
    one, other = make_policy(LINE, device, "one"), make_policy(LINE, device, "other", slots=2)
    run = Run(device)
    top_up(one, 0.0)
    assert run.decide() == [("one", 32)]
    top_up(other, 0.0, 32)
    assert run.decide() == [("other", 32)]


def test_models_with_a_slot_each_do_not_wait_for_each_other() -> None:
    device = Device(2)
    make_policy(LINE, device, "a")
    make_policy(LINE, device, "b")
    assert not device.is_contended
    make_policy(LINE, device, "c")
    assert device.is_contended


def test_share_is_what_the_weight_gives_or_what_others_leave() -> None:
    device = Device(1)
    busy, idle = make_policy(LINE, device, "busy"), make_policy(LINE, device, "idle")
    assert device.share(busy, 0.0) == 1.0  # the other one wants nothing
    for step in range(4000):
        busy.arrivals.note(1, step * 0.001)
    assert device.share(idle, 4.0) == pytest.approx(1 - 1000 * FULL_S / 32, rel=0.1)
    for step in range(4000):
        busy.arrivals.note(10, 4 + step * 0.001)
    assert device.share(idle, 8.0) == 0.5


def test_neighbours_work_counts_when_a_request_is_judged() -> None:
    device = Device(1)
    flooded = make_policy(LINE, device, "flooded")
    judged = make_policy(LINE, device, "judged", latency_target_s=0.030)
    run = Run(device)
    top_up(flooded, 0.0)
    run.decide()
    alone = device.ahead_of(judged, 0.020, 0.0, 0.0)
    top_up(flooded, 0.0, 320)
    run.now = 0.001
    with_many = device.ahead_of(judged, 0.020, 0.010, 0.001)
    assert alone == 0.0  # nobody is in a greater hurry, and nothing of its own is ahead
    assert with_many == pytest.approx(0.010)  # for each second of its own the other gets one


def test_light_model_keeps_its_target_beside_a_flooded_one() -> None:
    device = Device(1)
    flooded = make_policy(LINE, device, "flooded", latency_target_s=0.060)
    light = make_policy(LINE, device, "light", latency_target_s=0.060)
    run = Run(device)
    tickets, next_light_s = [], 0.0
    while run.now < 5.0:
        for _ in range(120):
            try:
                flooded.arrive(make_request(arrival_s=run.now), run.now)
            except Refused:
                break
        if run.now >= next_light_s:
            tickets.append(light.arrive(make_request(arrival_s=run.now), run.now))
            next_light_s += 0.05
        run.decide()
        run.finish_next()
    assert light.counters.late == 0
    assert light.counters.expired == 0
    assert light.counters.completed >= len(tickets) - 1


def test_leaving_model_gives_its_place_back() -> None:
    device = Device(1)
    one, other = make_policy(LINE, device, "one"), make_policy(LINE, device, "other")
    assert device.is_contended
    device.leave(other)
    assert device.members == [one]
    assert not device.is_contended
