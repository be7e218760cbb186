"""GPU metrics, against a library that answers as NVIDIA's does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from support.telemetry_fakes import fake_nvml, value

from batchserve.telemetry.gpu import GpuReading, GpuWatch
from batchserve.telemetry.metrics import Metrics

PATIENCE_S = 20.0


@contextmanager
def watching(library: ModuleType, visible: str = "0,1,2,3", period_s: float = 60.0) -> Iterator[GpuWatch]:
    watch = GpuWatch(library, visible, period_s)
    watch.start()
    try:
        assert watch.heard.wait(PATIENCE_S)
        yield watch
    finally:
        watch.stop()
        assert watch._thread is not None
        watch._thread.join(PATIENCE_S)
        assert not watch._thread.is_alive()


def test_what_the_driver_says_is_on_the_page_in_base_units() -> None:
    with watching(fake_nvml(2)) as watch:
        metrics = Metrics()
        metrics.watch_gpus(lambda: watch.readings)
        page, _ = metrics.render()
    assert value(page, "batchserve_gpu_utilization_ratio", gpu="1") == pytest.approx(0.41)
    assert value(page, "batchserve_gpu_memory_used_bytes", gpu="0") == 3 << 30
    assert value(page, "batchserve_gpu_memory_bytes", gpu="0") == 80 << 30
    assert value(page, "batchserve_gpu_power_watts", gpu="0") == pytest.approx(412.5)
    assert b'batchserve_gpu_info{gpu="1",name="NVIDIA H100",uuid="GPU-1abc"} 1.0' in page


def test_energy_is_counted_from_the_first_reading() -> None:
    with watching(fake_nvml(), period_s=0.0) as watch:
        later = _wait_for_energy(watch)
    assert later == 2.5  # the driver's own counter stood at 7000 J


def _wait_for_energy(watch: GpuWatch) -> float:
    """Read until the counter has moved; a turn of the watch takes microseconds."""
    while True:
        for reading in watch.readings:
            if energy := reading.values["batchserve_gpu_energy_joules_total"]:
                return energy


def test_a_question_that_a_gpu_does_not_support_leaves_only_its_own_number_out() -> None:
    with watching(fake_nvml(refuses=["nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates"])) as watch:
        (reading,) = watch.readings
    assert set(reading.values) == {
        "batchserve_gpu_memory_used_bytes",
        "batchserve_gpu_memory_bytes",
        "batchserve_gpu_energy_joules_total",
    }


def test_no_driver_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with watching(fake_nvml(init_fails=True)) as watch:
        assert watch.readings == ()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.parametrize(
    ("visible", "seen"),
    [("0", "0"), ("1,0", "01"), ("GPU-1a", "1"), ("", ""), ("-1", ""), ("0,-1,1", "0"), ("7", ""), ("NoDevFiles", "")],
)
def test_only_gpus_that_this_process_may_use_are_shown(visible: str, seen: str) -> None:
    with watching(fake_nvml(2), visible) as watch:
        readings: tuple[GpuReading, ...] = watch.readings
    assert "".join(reading.gpu for reading in readings) == seen


def test_a_gpu_that_is_lost_ends_the_numbers_and_not_the_server(caplog: pytest.LogCaptureFixture) -> None:
    nvml = fake_nvml()

    def lost(handle: object) -> object:
        raise nvml.NVMLError("GPU is lost")

    nvml.nvmlDeviceGetMemoryInfo = lost  # type: ignore[attr-defined]
    with watching(nvml) as watch:
        assert watch.readings == ()
    assert "GPU is lost" in caplog.text
    assert nvml.calls[-1] == "nvmlShutdown"
