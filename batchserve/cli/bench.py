"""`batchserve bench`: measure a server over HTTP, or a model file in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchserve.config.units import BadValueError, parse_duration
from batchserve.errors import ConfigError, LoadError

__all__ = ["DURATION", "SPAN", "bench"]


class _Duration(click.ParamType[float]):
    """A duration with its unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except BadValueError as error:
            self.fail(f"{value!r} {error.reason}; expected a duration such as 500ms, 10s or 1m", param, ctx)


class _Numbers(click.ParamType[Any]):
    """Numbers above 0, separated by commas."""

    def __init__(self, kind: type[int | float]) -> None:
        self._kind = kind
        self.name = "n[,n...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list):
            return value
        try:
            numbers: list[Any] = [self._kind(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 < number < float("inf") for number in numbers):
            self.fail(f"{value!r}: expected numbers above 0, separated by commas", param, ctx)
        return numbers


DURATION = _Duration()


class _Span(_Numbers):
    """A whole number, or a least and a most one: `8-128`."""

    def __init__(self) -> None:
        super().__init__(int)
        self.name = "n[-n]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        low, dash, high = str(value).partition("-")
        if low.isdecimal() and (high.isdecimal() or not dash) and 1 <= int(low) <= int(high or low):
            return int(low), int(high or low)
        return self.fail(f"{value!r}: expected a whole number, or two such as 8-128", param, ctx)


SPAN = _Span()


@click.command(
    epilog="Without --rate, --arrivals, --connections, --target and --scenario a server is asked over 1, 8 and 64 "
    "connections in turns. docs/loadtest.md says how to read the figures."
)
@click.argument("target", metavar="URL|MODEL.onnx")
@click.option("--model", metavar="NAME", help="Model to ask. Needed for a URL unless --scenario names models.")
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE", help="Scenario file (TOML).")
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Send what a server recorded (server.record): a file or a folder; repeatable.",
)
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Of --replay.  [default: 1]")
@click.option("--rate", type=_Numbers(float), help="Open loop: requests a second (Poisson); several run in turns.")
@click.option("--arrivals", metavar="SCHEDULE", help="Open loop: such as bursts:2000,on=1s,off=1s.")
@click.option(
    "--connections", type=_Numbers(int), help="Closed loop: connections; several run in turns. Open loop: the most."
)
@click.option("--target", "goal", metavar="pNN=DURATION", help="Latency to be held. Alone: find the largest rate.")
@click.option("--duration", type=DURATION, default="10s", show_default=True, help="Length of each run.")
@click.option("--warmup", type=DURATION, default="1s", show_default=True, help="How much of that is not counted.")
@click.option("--timeout", type=DURATION, default="30s", show_default=True, help="When a request has failed.")
@click.option("--rows", type=SPAN, default="1", show_default=True, help="Rows of a request.")
@click.option("--lengths", type=SPAN, default="1", show_default=True, help="Length of free dimensions.")
@click.option("--format", "form", type=click.Choice(("binary", "json")), default="binary", show_default=True)
@click.option("--variants", type=click.IntRange(1, 1024), default=16, show_default=True, help="Different requests.")
@click.option("--check/--no-check", default=True, show_default=True, help="Compare answers with those given alone.")
@click.option(
    "--tick",
    type=DURATION,
    help="Open loop: look at clock and sockets only so often.  [default: a 40th of the median, at most 1ms]",
)
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True, help="Of all that is drawn.")
@click.option("--batch-sizes", type=_Numbers(int), help="MODEL.onnx: rows in a run.  [default: 1,2,4,8,16,32]")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="MODEL.onnx: cpu, cuda, …; repeatable.")
@click.option("--threads", type=click.IntRange(1, 1024), help="MODEL.onnx: threads of a run.  [default: all cores]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots.")
@click.option("--yes-remote", is_flag=True, help="Load a server that is not on this machine.")
@click.option("--quiet", is_flag=True, help="Say nothing about the progress.")
@click.pass_context
def bench(ctx: click.Context, /, target: str, json_file: Path | None, html_file: Path | None, **options: Any) -> None:
    """Measure a server over HTTP, or a model in this process.

    URL is any server of the Open Inference Protocol, http://HOST:PORT. Exit status: 0 if all was measured, 1 if it
    could not be or --target was missed, 2 for wrong options.
    """
    _refuse_what_means_nothing(ctx, target, options)
    try:
        if "://" in target:
            from batchserve.cli.bench_server import measure_server

            document, is_good = measure_server(target, options)
        else:
            from batchserve.cli.bench_model import measure_model

            document, is_good = measure_model(Path(target), options)
    except LoadError as error:
        raise click.ClickException(str(error)) from error
    _write(document, json_file, html_file)
    if not is_good:
        raise click.exceptions.Exit(1)


_REQUESTS = ("rows", "lengths", "form", "variants", "check")
_MODEL_ONLY = ("batch_sizes", "providers", "threads")
_SERVER_ONLY = (
    *("model", "scenario", "replay", "speed", "rate", "arrivals", "connections", "goal", "warmup", "timeout", "tick"),
    *("seed", "yes_remote", *_REQUESTS),
)
_IN_SCENARIO = ("connections", "duration", "warmup", "timeout", "tick", "seed", *_REQUESTS)
_IN_RECORDING = ("duration", "warmup", *_REQUESTS)


def _refuse_what_means_nothing(ctx: click.Context, target: str, options: dict[str, Any]) -> None:
    """Refuse options that the other ones leave without a meaning: who gives one expects it to count.

    Raises:
        ConfigError: There is one.
    """
    refused: list[tuple[tuple[str, ...], str]] = []
    if "://" not in target:
        refused.append((_SERVER_ONLY, f"means nothing for a model in this process; {target!r} is no URL"))
    else:
        refused.append((_MODEL_ONLY, "means nothing for a server, which runs its models as it is configured"))
        if options["scenario"] is not None:
            refused.append((_IN_SCENARIO, "the scenario says that; change it there"))
        if options["replay"]:
            refused.append((_IN_RECORDING, "the recording says that; leave it out"))
    for names, why in refused:
        wrong = [name for name in names if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
        if wrong:
            flags = {"goal": "target", "form": "format", "providers": "provider"}
            raise ConfigError(f"{', '.join('--' + flags.get(one, one).replace('_', '-') for one in wrong)}: {why}")


def _write(document: dict[str, Any], json_file: Path | None, html_file: Path | None) -> None:
    """Write the files that were asked for."""
    import json

    from batchserve.load.html import model_page, server_page

    page = model_page if document["kind"] == "model" else server_page
    try:
        if json_file is not None:
            json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            click.echo(f"wrote {json_file}", err=True)
        if html_file is not None:
            html_file.write_text(page(document), encoding="utf-8")
            click.echo(f"wrote {html_file}", err=True)
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from error
