"""What `batchserve simulate` knows of models, and what the server's rules make of traffic with that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchserve.backends.base import ModelFile
from batchserve.backends.onnx import OnnxBackend, require_runtime
from batchserve.backends.several import SeveralDevices
from batchserve.cli.assemble import cache_folder
from batchserve.core.cost import CostModel, size_class
from batchserve.core.curves import Curve, Run, through
from batchserve.core.device import Device
from batchserve.core.policy import Policy
from batchserve.core.simulator import Member, simulate
from batchserve.core.speeds import Speeds
from batchserve.engine.devices import Devices, device_name
from batchserve.engine.loading import load_model
from batchserve.engine.profiles import Profiles
from batchserve.engine.sources import choose_versions
from batchserve.errors import LoadError
from batchserve.load.whatif import predicted

if TYPE_CHECKING:
    from batchserve.config import Settings
    from batchserve.core.limits import Limits
    from batchserve.core.traffic import Traffic
    from batchserve.engine.model import Model
    from batchserve.engine.observed import Observation
    from batchserve.engine.sources import ModelSource
    from batchserve.load.scenario import Scenario
    from batchserve.load.whatif import Prediction

__all__ = ["Known", "load_models", "simulated"]

HAND_OVER_S = 60e-6
"""What a batch spends on the way to its run and back is taken to be until it was learnt in service."""

UNKNOWN_NOISE = 0.05

ENOUGH = 5
"""Batches of about a size whose mean is taken for better than what the scheduler believes now."""


@dataclass(frozen=True)
class Known:
    """What is known of a model.

    Attributes:
        limits: Its limits.
        points: Rows, or tokens if it pads, and the seconds of a run, as the scheduler begins with.
        q: Upper factor of the runs' times, as the scheduler begins with.
        observed: What batches in service took on average; empty if that is not known.
        ratios: What the latest of them took, as shares of the mean, in their order.
        device: Where it runs.
        slots: Batches that may run there at once.
        factors: What runs take on each of several devices, as multiples of the first; empty on one.
    """

    limits: Limits
    points: tuple[tuple[float, float], ...]
    q: float
    observed: tuple[Observation, ...]
    ratios: tuple[float, ...]
    device: str
    slots: int
    factors: tuple[float, ...] = ()

    def with_target(self, target_s: float) -> Known:
        """Return the same with a latency target."""
        return replace(self, limits=replace(self.limits, latency_target_s=target_s, shed=True))

    def cost(self) -> CostModel:
        """Make a cost model that begins with what is known."""
        cost = CostModel(self.points, self.limits.horizon_s)
        cost.q = self.q
        return cost

    def curve(self) -> Curve:
        """Make the curve that the simulated runs follow: as observed, and as learnt where too little was."""
        points = {size_class(round(size)): (size, seconds) for size, seconds in self.points}
        points |= {size_class(round(one.size)): (one.size, one.run_s) for one in self.observed if one.batches >= ENOUGH}
        cost = CostModel(points.values(), self.limits.horizon_s)
        return lambda run: cost.run(self._size(run))

    def way(self) -> Curve:
        """Make the curve of what batches spend on the way to their runs and back."""
        seconds = through([(one.size, one.way_s) for one in self.observed] or [(1.0, HAND_OVER_S)])
        return lambda run: seconds(Run(self._size(run)))

    def _size(self, run: Run) -> float:
        """Return what costs go by."""
        return run.rows if self.limits.pad is None else run.rows * max(1, run.longest)


async def load_models(settings: Settings, sources: Sequence[ModelSource]) -> dict[str, Known]:
    """Load and measure the highest version of each model that would be served, and let go of it.

    Raises:
        ConfigError: There is no runtime.
        ModelLoadError: One cannot be served.
        LoadError: Nothing was measured.
    """
    require_runtime()
    server, devices = settings.server, Devices()
    folder = cache_folder(server.cache_dir) / "profiles"
    # What servers learnt stays theirs: a moment in which the machine is busy would replace what minutes have shown.
    profiles = Profiles(folder, is_read_only=True) if server.profile_cache else None
    backend = SeveralDevices(OnnxBackend())
    models: list[Model] = []
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        try:
            for source in sources:
                config = settings.model(source.name, source.folder)
                number = max(choose_versions(config.version_policy, list(source.versions)))
                file = ModelFile(source.name, number, source.versions[number])
                models.append(
                    await load_model(file, config, backend, executor=executor, devices=devices, profiles=profiles)
                )
            return {model.name: _known(model, devices) for model in models}
        finally:
            for model in models:
                await model.close()


def _known(model: Model, devices: Devices) -> Known:
    """Read off what is known of a model.

    Raises:
        LoadError: Nothing.
    """
    cost = model.learnt
    if not cost.points:
        raise LoadError(f"nothing is known of the cost of {model.name}: its warmup_budget is 0")
    where = device_name(model.session, model.config)
    observed = model.observed
    factors: tuple[float, ...] = ()
    if model.speeds is None:
        slots = devices.group(where).device.slots
    else:  # its slots are its own
        where, slots, factors = f"{where} for {model.name}", model.limits.slots, tuple(model.speeds.factors)
    ratios = tuple(observed.ratios)
    return Known(model.limits, cost.points, cost.q, observed.observations, ratios, where, slots, factors)


def simulated(
    models: Mapping[str, Known],
    traffic: Mapping[str, Traffic],
    scenario: Scenario,
    *,
    slots: int | None = None,
    noise: float | None = None,
    seed: int = 0,
) -> list[Prediction]:
    """Simulate each device with the models on it.

    Args:
        models: All that are asked, by name.
        traffic: What each is asked.
        scenario: Where the traffic is from.
        slots: Batches that may run at once, of each model and on each device; None for as it is.
        noise: Standard deviation of a run's time, as a share of its mean; None for what was seen in service.
        seed: Of the noise, or where in what was seen it begins.
    """
    predictions = []
    for where in dict.fromkeys(one.device for one in models.values()):
        here = {name: one for name, one in models.items() if one.device == where}
        lanes = slots or max(one.slots for one in here.values())
        device = Device(lanes)
        members = []
        for name, one in here.items():
            limits, factors = replace(one.limits, slots=slots or one.limits.slots), one.factors
            members.append(
                Member(
                    Policy(name, limits, one.cost(), device, Speeds(len(factors), factors) if factors else None),
                    one.curve(),
                    traffic[name],
                    UNKNOWN_NOISE if noise is None else noise,
                    one.way(),
                    key_of=_shape if limits.pad is None else _any_length,
                    factors=one.ratios if noise is None else (),
                    speeds=[factors[slot % len(factors)] for slot in range(limits.slots)] if factors else (),
                )
            )
        records = dict(zip(here, simulate(members, device=device, seed=seed), strict=True))
        targets = {name: one.limits.latency_target_s for name, one in here.items()}
        predictions += predicted(records, scenario.duration_s, scenario.warmup_s, lanes, targets)
    return predictions


def _shape(number: int) -> int:
    return number


def _any_length(length: int) -> int:
    return 0
