"""`batchserve simulate`: what would become of traffic on this machine, in seconds and without a load."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchserve.cli.bench import DURATION
from batchserve.cli.options import load_settings, model_paths, settings_options
from batchserve.errors import ConfigError, LoadError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.config import Settings
    from batchserve.core.limits import Limits
    from batchserve.engine.sources import ModelSource
    from batchserve.load.scenario import Scenario
    from batchserve.load.whatif import Prediction

__all__ = ["simulate"]

HAND_OVER_S = 60e-6
"""Between a decision and its run: what a hand-over to an instance's thread is taken to cost until it is measured."""

HEADINGS = ("model", "offered/s", "in time/s", "in time", "p50", "p99", "turned away", "rows/run", "busy")


@dataclass(frozen=True)
class _Loaded:
    """What is known of a model: its limits, its curve, where it runs, and the slots there."""

    limits: Limits
    points: tuple[tuple[int, float], ...]
    device: str
    slots: int


@click.command(epilog="The latencies are those on the server: HTTP and the network come on top.")
@model_paths(required=True)
@settings_options
@click.option("--replay", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="Recorded traffic.")
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE", help="Scenario file (TOML), open loop.")
@click.option("--arrivals", metavar="SCHEDULE", help="Made-up traffic for the one model, such as poisson:500.")
@click.option("--load", default=1.0, type=click.FloatRange(min=0, min_open=True), help="How much faster.  [default: 1]")
@click.option("--slots", type=click.IntRange(1, 1024), help="Batches of each model that may run at once.")
@click.option("--target", "target_s", type=DURATION, help="latency_target of every model.")
@click.option("--duration", type=DURATION, default="30s", show_default=True, help="Of --arrivals.")
@click.option("--noise", default=0.05, show_default=True, help="Standard deviation of a run's time, of its mean.")
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
def simulate(
    paths: tuple[Path, ...], config_file: Path | None, sets: tuple[str, ...], json_file: Path | None, **options: Any
) -> None:
    """Say what would become of traffic for the models under PATH.

    Loads and measures each model as serve does, then lets the server's own rules decide on the traffic by a virtual
    clock. Exit status: 0 if it was simulated, 1 if a model cannot be served, 2 for wrong options.
    """
    settings = load_settings(config_file, sets)

    from batchserve.engine.sources import find_models
    from batchserve.load.whatif import traffic_by_model

    sources = find_models(paths)
    settings.check_model_names([source.name for source in sources])
    scenario = _scenario(options, [source.name for source in sources])
    traffic = traffic_by_model(scenario)
    asked = [source for source in sources if source.name in traffic]
    if missing := traffic.keys() - {source.name for source in asked}:
        raise ConfigError(f"the traffic asks for {', '.join(sorted(missing))}, which is not among the models given")
    try:
        loaded = asyncio.run(_load(settings, asked))
    except (LoadError, ModelLoadError) as error:
        raise click.ClickException(str(error)) from error
    if options["target_s"] is not None:
        loaded = {
            name: replace(one, limits=replace(one.limits, latency_target_s=options["target_s"], shed=True))
            for name, one in loaded.items()
        }
    predictions = _simulate(loaded, traffic, scenario, options)
    _print(predictions)
    if json_file is not None:
        document = {
            "kind": "simulation",
            "options": {name: str(value) for name, value in options.items()},
            "predictions": [asdict(one) for one in predictions],
        }
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _scenario(options: dict[str, Any], models: list[str]) -> Scenario:
    """Make the traffic that the options describe, `--load` times as fast."""
    from batchserve.load.arrivals import Faster, parse_arrivals
    from batchserve.load.recording import read_streams
    from batchserve.load.scenario import Scenario, Stream, read_scenario

    given = [name for name in ("replay", "scenario", "arrivals") if options[name]]
    if len(given) != 1:
        raise ConfigError("give one of --replay, --scenario and --arrivals: which traffic is to be simulated?")
    if options["replay"]:
        streams, seconds = read_streams(options["replay"], options["load"])
        return Scenario(streams, duration_s=seconds + 1e-3, warmup_s=0.0, seed=options["seed"])
    if options["scenario"]:
        if options["load"] != 1:
            raise ConfigError("--load changes the speed of --replay and --arrivals; a scenario names its own")
        return read_scenario(options["scenario"]).with_(seed=options["seed"])
    if len(models) != 1:
        raise ConfigError(f"--arrivals is for one model, and there are {len(models)}; give a --scenario")
    arrivals = Faster(parse_arrivals(options["arrivals"]), options["load"])
    stream = Stream(models[0], models[0])
    return Scenario([stream], arrivals, duration_s=options["duration"], warmup_s=0.0, seed=options["seed"])


async def _load(settings: Settings, sources: list[ModelSource]) -> dict[str, _Loaded]:
    """Load and measure the highest version of each model that would be served, and let go of it.

    Raises:
        ModelLoadError: One cannot be served.
        LoadError: Nothing was measured.
    """
    from batchserve.backends.base import ModelFile
    from batchserve.backends.onnx import OnnxBackend, require_runtime
    from batchserve.cli.assemble import cache_folder
    from batchserve.engine.devices import Devices, device_name
    from batchserve.engine.loading import load_model
    from batchserve.engine.profiles import Profiles
    from batchserve.engine.sources import choose_versions

    require_runtime()
    server, devices = settings.server, Devices()
    profiles = Profiles(cache_folder(server.cache_dir) / "profiles") if server.profile_cache else None
    models = []
    with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:
        try:
            for source in sources:
                config = settings.model(source.name, source.folder)
                number = max(choose_versions(config.version_policy, list(source.versions)))
                file = ModelFile(source.name, number, source.versions[number])
                models.append(
                    await load_model(file, config, OnnxBackend(), executor=executor, devices=devices, profiles=profiles)
                )
            found = {}
            for model in models:
                if not model.curve:
                    raise LoadError(f"nothing is known of the cost of {model.name}: its warmup_budget is 0")
                where = device_name(model.session, model.config)
                slots = devices.group(where).device.slots
                found[model.name] = _Loaded(model.limits, tuple(model.curve), where, slots)
            return found
        finally:
            for model in models:
                await model.close()


def _simulate(
    loaded: dict[str, _Loaded], traffic: dict[str, Any], scenario: Scenario, options: dict[str, Any]
) -> list[Prediction]:
    """Simulate each device with the models on it."""
    from batchserve.core.cost import CostModel
    from batchserve.core.curves import through
    from batchserve.core.device import Device
    from batchserve.core.policy import Policy
    from batchserve.core.simulator import Member
    from batchserve.core.simulator import simulate as simulated
    from batchserve.load.whatif import predicted

    predictions = []
    for where in dict.fromkeys(one.device for one in loaded.values()):
        here = {name: one for name, one in loaded.items() if one.device == where}
        slots = options["slots"] or max(one.slots for one in here.values())
        device = Device(slots)
        members = []
        for name, one in here.items():
            limits = replace(one.limits, slots=options["slots"] or one.limits.slots)
            cost = CostModel(one.points, limits.horizon_s)
            policy = Policy(name, limits, cost, device)
            members.append(
                Member(
                    policy,
                    through(one.points),
                    traffic[name],
                    options["noise"],
                    HAND_OVER_S,
                    key_of=lambda shape: shape,
                )
            )
        records = dict(zip(here, simulated(members, device=device, seed=options["seed"]), strict=True))
        targets = {name: one.limits.latency_target_s for name, one in here.items()}
        predictions += predicted(records, scenario.duration_s, scenario.warmup_s, slots, targets)
    return predictions


def _print(predictions: list[Prediction]) -> None:
    from batchserve.load.svg import format_count, format_seconds
    from batchserve.load.table import text_table

    rows = [
        (
            one.model,
            format_count(one.offered_per_s),
            format_count(one.goodput_per_s),
            f"{one.within_share:.1%}",
            *("-" if seconds is None else format_seconds(seconds) for seconds in (one.p50_s, one.p99_s)),
            f"{one.turned_away:.1%}",
            f"{one.rows_per_run:.1f}",
            f"{one.busy_share:.0%}",
        )
        for one in predictions
    ]
    click.echo(text_table(HEADINGS, rows))
