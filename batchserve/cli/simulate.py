"""`batchserve simulate`: what would become of traffic on this machine, in seconds and without a load."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchserve.cli.bench import DURATION
from batchserve.cli.options import load_settings, model_paths, settings_options
from batchserve.errors import ConfigError, LoadError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.load.scenario import Scenario
    from batchserve.load.whatif import Prediction

__all__ = ["simulate"]

HEADINGS = ("model", "offered/s", "in time/s", "in time", "p50", "p99", "turned away", "rows/run", "busy")


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
@click.option("--noise", type=float, help="Standard deviation of a run's time, of its mean.  [default: as seen]")
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

    from batchserve.cli.simulation import load_models, simulated
    from batchserve.engine.sources import find_models
    from batchserve.load.whatif import traffic_by_model

    sources = find_models(paths)
    settings.check_model_names([source.name for source in sources])
    scenario = _scenario(options, [source.name for source in sources])
    names = {stream.model for stream in scenario.streams if stream.model}
    if missing := names - {source.name for source in sources}:
        raise ConfigError(f"the traffic asks for {', '.join(sorted(missing))}, which is not among the models given")
    try:
        models = asyncio.run(load_models(settings, [source for source in sources if source.name in names]))
    except (LoadError, ModelLoadError) as error:
        raise click.ClickException(str(error)) from error
    if unknown := [name for name, one in models.items() if not one.observed]:
        click.echo(
            f"Nothing is known of {', '.join(unknown)} in service, only what runs take at load: no server has kept a "
            "profile that fits, the runs are too short to be noted, or the machine is not as fast as it was then.",
            err=True,
        )
    if (target_s := options["target_s"]) is not None:
        models = {name: one.with_target(target_s) for name, one in models.items()}
    traffic = traffic_by_model(scenario, {name: one.limits.pad for name, one in models.items()})
    predictions = simulated(
        models, traffic, scenario, slots=options["slots"], noise=options["noise"], seed=options["seed"]
    )
    _print(predictions)
    if json_file is not None:
        document = {
            "kind": "simulation",
            "options": {name: str(value) for name, value in options.items()},
            "models": {
                name: {"points": one.points, "ratios": one.ratios, "observed": one.observed}
                for name, one in models.items()
            },
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
