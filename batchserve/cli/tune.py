"""`batchserve tune`: which settings hold a latency target, by measurement, simulation and real runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from batchserve.cli.bench import DURATION, SPAN
from batchserve.cli.options import load_settings, settings_options
from batchserve.errors import BackendError, ConfigError, LoadError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.engine.sources import ModelSource

__all__ = ["tune"]


@click.command(
    epilog="Without --traffic it looks for the most requests a second that hold the target. docs/tune.md says how to "
    "read what it prints."
)
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@settings_options
@click.option("--target", "goal", metavar="pNN=DURATION", required=True, help="Latency to be held, such as p99=20ms.")
@click.option(
    "--traffic",
    metavar="TRACE|SCHEDULE",
    help="What comes: a recording (server.record), a scenario file (TOML), or a schedule such as poisson:500.",
)
@click.option("--rows", type=SPAN, default="1", show_default=True, help="Rows of a request of a schedule.")
@click.option("--lengths", type=SPAN, help="Length of its free dimensions.  [default: 64 where the model takes that]")
@click.option("--budget", "budget_s", type=DURATION, default="2m", show_default=True, help="Time for everything.")
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", help="To be compared: cpu, cuda, …; repeatable."
)
@click.option("--output", type=click.Path(path_type=Path), default="model.toml", show_default=True, metavar="FILE")
@click.option("--force", is_flag=True, help="Replace an --output that was not written by tune.")
@click.option("--fresh", is_flag=True, help="Measure anew what earlier runs have measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
@click.option("--quiet", is_flag=True, help="Say nothing about the progress.")
def tune(
    path: Path, config_file: Path | None, sets: tuple[str, ...], output: Path, json_file: Path | None, **options: Any
) -> None:
    """Find the settings of MODEL that hold a latency target, and write them down with the evidence.

    MODEL is a .onnx file or the folder of one model. Measures runs of every number of instances, threads and rows on
    every provider, simulates the traffic on what was measured, and puts real load on the best two. What was measured is
    kept: a run that was ended goes on where it was. Exit status: 0 if the target is held, 1 if it cannot be or nothing
    could be measured, 2 for wrong options.
    """
    settings = load_settings(config_file, sets)
    _check_output(output, may_replace=options["force"])

    from batchserve.cli.tune_report import document, evidence, report
    from batchserve.cli.tune_run import Tuning
    from batchserve.engine.sources import find_models
    from batchserve.telemetry.logging import set_up_logging
    from batchserve.tuning.written import model_toml

    sources = find_models([path])
    settings.check_model_names([source.name for source in sources])
    set_up_logging("error", settings.server.log_format)
    signal.signal(signal.SIGTERM, _ended)  # as Ctrl-C does: servers and files in the making are not left behind
    arguments = [str(path), *(("--config", str(config_file)) if config_file else ())]
    arguments += [part for one in sets for part in ("--set", one)]
    try:
        tuned = Tuning(settings, _only(sources, path), arguments, options).run()
    except (LoadError, ModelLoadError, BackendError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(report(tuned)))
    text = model_toml(tuned.chosen_keys, tuned.config, evidence(tuned))
    _write(output, text)
    if json_file is not None:
        _write(json_file, document(tuned))
    if tuned.source.folder is None:
        click.echo(f"It is read from beside the versions of a repository: models/{tuned.source.name}/{output.name}, ")
        click.echo(f"with the model in models/{tuned.source.name}/1/model.onnx.")
    if not tuned.is_held:
        raise click.exceptions.Exit(1)


def _only(sources: list[ModelSource], path: Path) -> ModelSource:
    if len(sources) != 1:
        names = ", ".join(source.name for source in sources)
        raise ConfigError(f"{path} holds {len(sources)} models ({names}), and one at a time is tuned: name its folder")
    return sources[0]


def _check_output(output: Path, *, may_replace: bool) -> None:
    """Refuse to replace a file that somebody wrote, before anything is measured.

    Raises:
        ConfigError: There is one.
    """
    from batchserve.tuning.written import is_ours

    try:
        if not may_replace and output.exists() and not is_ours(output.read_text(encoding="utf-8")):
            raise ConfigError(f"{output} was not written by tune: name another --output, or replace it by --force")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{output} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


def _ended(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
