"""Stand-ins for the engine, as far as telemetry can see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from batchserve.backends.base import Build
from batchserve.core.counters import Counters
from batchserve.core.limits import Limits
from batchserve.engine.events import BatchEnded, ModelState
from batchserve.engine.gauges import Gauges
from batchserve.telemetry.gpu import GpuReading
from batchserve.telemetry.metrics import Metrics


@dataclass(eq=False)
class FakeModel:
    """The part of `engine.model.Model` that telemetry reads."""

    name: str = "digits"
    version: int = 1
    counters: Counters = field(default_factory=Counters)
    queued_rows: int = 0
    queued_requests: int = 0
    running_requests: int = 0
    oldest_arrival_s: float | None = None
    load_s: float = 0.5
    instances: int = 1
    max_queue_size: int = 1024
    latency_target_s: float | None = None
    provider: str = "CPUExecutionProvider"
    limits: Limits = field(default_factory=lambda: Limits(max_batch_size=8, timeout_s=60.0, max_queue_size=1024))
    state: Gauges = field(default_factory=Gauges)
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    build: Build | None = None
    worker_restarts: int = 0
    devices: Sequence[tuple[str, float]] = (("cpu", 1.0),)

    @property
    def places(self) -> list[tuple[str, float]]:
        return [self.devices[slot % len(self.devices)] for slot in range(self.instances)]

    def gauges(self, now: float) -> Gauges:
        return self.state


GPU = GpuReading(
    "0",
    "NVIDIA H100 80GB HBM3",
    "GPU-5f0d",
    {
        "batchserve_gpu_utilization_ratio": 0.5,
        "batchserve_gpu_memory_used_bytes": 2.0**30,
        "batchserve_gpu_memory_bytes": 2.0**36,
        "batchserve_gpu_power_watts": 350.0,
        "batchserve_gpu_energy_joules_total": 1000.0,
    },
)


def full_metrics() -> Metrics:
    """Metrics in which every family has samples."""
    build = Build("swapped", "runs on cuda since it was built", 3.0, swaps=1)
    metrics, model = Metrics("1.31.1"), FakeModel(instances=2, latency_target_s=0.025, build=build)
    metrics.watch_http(dict, dict)
    metrics.watch_gpus(lambda: [GPU])
    metrics.model_state("digits", 1, ModelState.READY, "", model)  # type: ignore[arg-type]
    metrics.batch_ended(model, batch(3))  # type: ignore[arg-type]
    return metrics


def fake_nvml(gpus: int = 1, *, refuses: Sequence[str] = (), init_fails: bool = False) -> ModuleType:
    """A driver's library with as many GPUs; `refuses` names questions that it does not support."""
    nvml = ModuleType("pynvml")
    nvml.calls = []  # type: ignore[attr-defined]

    class NVMLError(Exception):
        pass

    class NotSupportedError(NVMLError):
        pass

    class NoPermissionError(NVMLError):
        pass

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}abc",
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H100",
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=40 + handle),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3 << 30, total=80 << 30),
        "nvmlDeviceGetPowerUsage": lambda handle: 412_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: (
            7_000_000 if nvml.calls.count("nvmlDeviceGetTotalEnergyConsumption") == 1 else 7_002_500
        ),
    }

    def make(name: str) -> object:
        def ask(*arguments: object) -> object:
            nvml.calls.append(name)
            if name in refuses:
                raise NotSupportedError(name)
            if init_fails and name == "nvmlInit":
                raise NVMLError("no driver")
            return answers[name](*arguments)

        return ask

    for name in answers:
        setattr(nvml, name, make(name))
    nvml.NVMLError = NVMLError  # type: ignore[attr-defined]
    nvml.NVMLError_NotSupported = NotSupportedError  # type: ignore[attr-defined]
    nvml.NVMLError_NoPermission = NoPermissionError  # type: ignore[attr-defined]
    return nvml


class FakeClock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def batch(
    requests: int = 1,
    *,
    rows: int | None = None,
    start_s: float = 1000.0,
    decode_s: float = 0.001,
    queue_s: float = 0.002,
    gather_s: float = 0.003,
    run_s: float = 0.010,
    scatter_s: float = 0.004,
    instance: int = 0,
    ok: bool = True,
    encode_s: float = 0.005,
    trace_ids: Sequence[str] = (),
    **more: float,
) -> BatchEnded:
    """One execution whose requests all had the same durations."""
    admitted_s = start_s - queue_s
    done_s = start_s + gather_s + run_s + scatter_s
    answered = requests if ok else 0
    return BatchEnded(
        rows=requests if rows is None else rows,
        requests=requests,
        reason="full",
        instance=instance,
        ok=ok,
        start_s=start_s,
        run_start_s=start_s + gather_s,
        run_end_s=start_s + gather_s + run_s,
        done_s=done_s,
        arrivals_s=[admitted_s - decode_s] * answered,
        admissions_s=[admitted_s] * answered,
        completed_rows=answered,
        late=0,
        answered_s=done_s + encode_s,
        trace_ids=trace_ids,
        **more,
    )


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a page in the text format: value by sample name and labels."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is on the page twice"
            found[key] = sample.value
    return found


def value(page: bytes, name: str, **labels: str) -> float | None:
    """Return one sample of a page, None if it is not there."""
    return samples(page).get((name, frozenset(labels.items())))
