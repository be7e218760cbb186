"""`batchserve convert`: make a smaller or faster model of a model, and say what that costs and gains."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchserve.errors import BackendError, ConfigError, ConversionError, ModelLoadError

if TYPE_CHECKING:
    from batchserve.backends.base import Session
    from batchserve.conversion.comparison import Accuracy, Speed
    from batchserve.core.tensors import Array

__all__ = ["convert"]

RANDOM_ROWS = (1, 2, 4, 8, 16, 32)
"""Random runs of these sizes are compared where the original batches."""
DEFAULT_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Report:
    """What is known of a conversion.

    Attributes:
        method: How it was made.
        inputs: What answers are compared on, in words; runs are timed on rows of the same kind.
        original: Facts of the original: `file`, `size_bytes`, `load_s` (opening it), `batches`, `why`.
        converted: The same of the converted model.
        runs_on: Provider and threads.
        accuracy: One entry for each output.
        speed: One entry for each batch size.
        warnings: What a person should know, each a sentence.
    """

    method: str
    inputs: str
    original: dict[str, Any]
    converted: dict[str, Any]
    runs_on: str
    accuracy: list[Accuracy]
    speed: list[Speed]
    warnings: list[str]


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The model to write.")
@click.option("--int8", type=click.Choice(["dynamic", "static"]), help="Quantise to 8-bit integers.")
@click.option("--fp16", is_flag=True, help="Compute in half precision, for GPUs; inputs and outputs stay FP32.")
@click.option("--optimize", is_flag=True, help="Save the graph as the runtime optimises it, which loads faster.")
@click.option(
    "--calibration",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="--int8 static: a folder of .npz files with typical inputs, an array for each input.",
)
@click.option(
    "--inputs",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Compare on the .npz files of a folder.  [default: random inputs]",
)
@click.option(
    "--batch-size", "sizes", type=click.IntRange(1, 1 << 20), multiple=True, help="Rows of a timed run; repeatable."
)
@click.option("--force", is_flag=True, help="Replace the file that --out names.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write everything as JSON.")
def convert(model: Path, out: Path, force: bool, json_file: Path | None, **options: Any) -> None:
    """Make another model of MODEL with ONNX Runtime's tools, and compare the two.

    Prints how far answers are apart, rows per second, file sizes, and whether both can be batched. Exit status: 0 if
    the model was written, 1 if it could not be, 2 for wrong options.
    """
    method = _method(options)
    if out.resolve() == model.resolve():
        raise ConfigError("--out names the model itself; expected another file, so that the original stays")
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; expected a new file; give --force to replace it")

    from batchserve.backends.runtime import require_runtime

    runtime = require_runtime()
    try:
        report = _convert(model, out, method, options)
    except (ConversionError, ModelLoadError, BackendError) as error:
        raise click.ClickException(str(error)) from error
    _print(report)
    if json_file is not None:
        from batchserve.cli.bench_server import versions

        document = {
            "kind": "conversion",
            "command": " ".join(["batchserve", *sys.argv[1:]]),
            "versions": {**versions(), "onnxruntime": str(runtime.__version__)},
            **asdict(report),
        }
        try:
            json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{json_file} cannot be written: {error.strerror}") from error


def _method(options: dict[str, Any]) -> str:
    given = [name for name in ("int8", "fp16", "optimize") if options[name]]
    if len(given) != 1:
        raise ConfigError("give one of --int8, --fp16 and --optimize: what is to be done to the model?")
    method = f"int8-{options['int8']}" if options["int8"] else given[0]
    if (method == "int8-static") != (options["calibration"] is not None):
        raise ConfigError(
            "--int8 static needs --calibration FOLDER, typical inputs whose ranges are measured"
            if method == "int8-static"
            else "--calibration is for --int8 static only"
        )
    return method


def _convert(model: Path, out: Path, method: str, options: dict[str, Any]) -> Report:
    """Convert beside `out`, compare, and put the file in its place.

    Raises:
        ConversionError: It cannot be converted, or the two cannot be compared; nothing is left behind.
        ModelLoadError: The original cannot be loaded.
        BackendError: A run failed.
    """
    from batchserve.conversion.recorded import read_folder
    from batchserve.conversion.tools import convert as apply
    from batchserve.conversion.tools import whole_size_bytes

    original = _load(model)
    try:
        calibration = read_folder(options["calibration"], original.inputs) if options["calibration"] else []
        given = read_folder(options["inputs"], original.inputs) if options["inputs"] else None
        try:
            folder = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
        except OSError as error:
            raise ConversionError(f"{out.parent} cannot be written: {error.strerror}") from error
        with folder as name:
            made = Path(name) / out.name
            apply(model, made, method, calibration)
            try:
                converted = _load(made)
            except ModelLoadError as error:
                raise ConversionError(f"the converted model cannot be served, so it was not kept: {error}") from error
            try:
                report = _compare(original, converted, method, given, options["sizes"])
            finally:
                converted.close()
            report.original.update(file=model.name, size_bytes=whole_size_bytes(model))
            report.converted.update(file=out.name, size_bytes=whole_size_bytes(made))
            made.replace(out)
        return report
    finally:
        original.close()


def _load(path: Path) -> Session:
    from batchserve.backends.base import ModelFile
    from batchserve.backends.onnx import OnnxBackend
    from batchserve.config import ModelConfig

    return OnnxBackend().load(ModelFile(path.stem, 1, path), ModelConfig(instances=1))


def _compare(
    original: Session, converted: Session, method: str, given: Sequence[dict[str, Array]] | None, sizes: Sequence[int]
) -> Report:
    """Hold one against the other; files and sizes are still to be filled in.

    Raises:
        ConversionError: They cannot be compared.
        BackendError: A run failed.
    """
    from batchserve.conversion.comparison import compare_answers, compare_loads, compare_speed
    from batchserve.conversion.questions import Questions

    can_batch = original.batchability.is_batchable
    if sizes and not can_batch:
        raise ConversionError(f"the model cannot be batched: {original.batchability.why}; leave --batch-size out")
    questions = Questions(original, given)
    random_rows = RANDOM_ROWS if can_batch else (1,)
    count, kind = (sum(random_rows), "random row") if given is None else (len(given), "file")
    inputs = f"{count} {kind}{'' if count == 1 else 's'}{'' if given is None else ' of --inputs'}"
    accuracy = compare_answers(original, converted, questions.for_answers(random_rows))
    speed = [
        compare_speed(original, converted, questions.of_rows(rows), rows)
        for rows in (sizes or (DEFAULT_SIZES if can_batch else (1,)))
    ]
    threads = converted.facts.get("intra_op_threads", "?")
    runs_on = f"{' then '.join(converted.providers)}, intra_op_threads {threads}"
    warnings = list(_warnings(original, converted, method, accuracy, is_random=given is None))
    before_s, after_s = compare_loads(original, converted)
    facts = _facts(original, before_s), _facts(converted, after_s)
    return Report(method, inputs, *facts, runs_on=runs_on, accuracy=accuracy, speed=speed, warnings=warnings)


def _facts(session: Session, load_s: float) -> dict[str, Any]:
    return {"load_s": load_s, "batches": session.batchability.is_batchable, "why": session.batchability.why}


def _warnings(
    original: Session, converted: Session, method: str, accuracy: Sequence[Accuracy], *, is_random: bool
) -> Iterator[str]:
    if original.batchability.is_batchable and not converted.batchability.is_batchable:
        if method == "int8-dynamic":
            yield (
                "dynamic int8 takes its scales over the whole batch, so rows change each other's answers: the server "
                "will run one request at a time, whatever the speed of batches above; --int8 static does not do that"
            )
        else:
            yield f"the converted model will be served one request at a time: {converted.batchability.why}"
    if method == "fp16" and set(converted.providers) == {"CPUExecutionProvider"}:
        yield "a CPU computes half precision no faster than single: measure it on the GPU that is to serve it"
    for one in accuracy:
        if one.not_finite:
            yield (
                f"{one.not_finite} numbers of output {one.output!r} are finite in one of the two models only: "
                "its values are too large for what it was converted to"
            )
    if is_random:
        yield "random inputs say little about accuracy: give typical ones by --inputs"


def _print(report: Report) -> None:
    from batchserve.load.svg import format_count, format_seconds
    from batchserve.load.table import text_table

    before, after = report.original, report.converted
    click.echo(f"{before['file']} -> {after['file']}: {report.method}")
    share = after["size_bytes"] / before["size_bytes"]
    click.echo(f"size      {before['size_bytes']:,} -> {after['size_bytes']:,} bytes ({share:.2f} times)")
    click.echo(f"load      {format_seconds(before['load_s'])} -> {format_seconds(after['load_s'])}")
    for name, facts in (("original", before), ("converted", after)):
        click.echo(f"{name:<10}{'can' if facts['batches'] else 'cannot'} be batched: {facts['why']}")
    click.echo(f"\nanswers on {report.inputs}")
    click.echo(
        text_table(("output", "max diff", "mean diff", "relative", "top-1 or same"), list(map(_cells, report.accuracy)))
    )
    click.echo(f"\nrows/s on {report.runs_on}; medians of rounds in turns")
    rows = [
        (
            str(one.rows),
            format_count(one.original),
            format_count(one.converted),
            f"{one.converted / one.original:.2f}",
            f"{one.spread:.2f}",
        )
        for one in report.speed
    ]
    click.echo(text_table(("batch", "original", "converted", "times", "spread"), rows))
    for warning in report.warnings:
        click.echo(f"batchserve: warning: {warning}", err=True)


def _cells(one: Accuracy) -> tuple[str, ...]:
    share = one.same if one.top1 is None else one.top1
    agreement = "-" if share is None else f"{share:.2%}"
    if one.same is not None:
        return one.output, "-", "-", "-", agreement
    relative = "-" if one.relative is None else f"{one.relative:.2g}"
    return one.output, f"{one.max_difference:.2g}", f"{one.mean_difference:.2g}", relative, agreement
