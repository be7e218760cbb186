"""Measures a server over HTTP: single runs, runs at several speeds, or the search for the largest rate in time."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

import batchserve
from batchserve.cli.progress import Reporter
from batchserve.errors import ConfigError, LoadError
from batchserve.load.arrivals import Steady, parse_arrivals
from batchserve.load.prepare import Prepared, ask, prepare
from batchserve.load.recording import read_streams
from batchserve.load.run import apply, run_on_fast_loop
from batchserve.load.scenario import Scenario, Stream, read_scenario
from batchserve.load.search import Found, Goal, find_rate, parse_goal
from batchserve.load.svg import format_count, format_seconds
from batchserve.load.table import text_table
from batchserve.load.target import Target, parse_target

if TYPE_CHECKING:
    from batchserve.load.generator import Progress
    from batchserve.load.result import Result

__all__ = ["measure_server", "versions"]

DEFAULT_CONNECTIONS = (1, 8, 64)
GUESS_S = 1.5
"""Length of the run over one connection from which the search takes its first rate."""

HEADINGS = ("run", "offered/s", "answered/s", "in time/s", "p50", "p90", "p99", "max", "failed")


@dataclass(frozen=True)
class _Run:
    """A run and what it is called."""

    label: str
    result: Result


def versions() -> dict[str, str]:
    """Return what the measurement was made with."""
    return {"batchserve": batchserve.__version__, "Python": platform.python_version(), "system": platform.platform()}


def measure_server(url: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Measure a server, print a table, and return everything.

    Args:
        url: Its address.
        options: Those of the command, by name.

    Returns:
        What `--json` writes, and False if the target was missed.

    Raises:
        ConfigError: Options contradict each other or a scenario cannot be used.
        LoadError: The server cannot be measured.
    """
    goal = parse_goal(options["goal"]) if options["goal"] else None
    scenario = _scenario(options, goal)
    target = parse_target(url, may_be_remote=options["yes_remote"])
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with Reporter(is_quiet=options["quiet"]) as reporter:
        bench = _Bench(target, scenario, goal, reporter)
        search = goal if goal is not None and not scenario.is_open_loop and not _speeds(options) else None
        runs, found = run_on_fast_loop(bench.run(list(_scenarios(scenario, options)), search))
    document = _document(bench, runs, found, started)
    click.echo(text_table(HEADINGS, [_row(run) for run in runs]))
    last = runs[-1].result
    for line in [*_failures(last), *_phases(last), *document["warnings"], *(_verdict(found) if found else ())]:
        click.echo(line)
    is_good = found.rate > 0 if found else all(_is_held(run.result, goal) for run in runs)
    return document, is_good


def _speeds(options: Mapping[str, Any]) -> bool:
    """Say whether the command line names speeds; a scenario file does so by its arrivals."""
    return any(options[name] for name in ("rate", "arrivals", "connections"))


def _scenario(options: Mapping[str, Any], goal: Goal | None) -> Scenario:
    """Make the scenario that the options describe, without its speed."""
    target_s = goal.target_s if goal else None
    if options["replay"]:
        return _replay(options, target_s)
    if options["scenario"] is not None:
        if options["model"]:
            raise ConfigError("--model and --scenario: the scenario names its models; leave --model out")
        scenario = read_scenario(options["scenario"])
        return scenario.with_(target_s=target_s) if target_s else scenario
    if not options["model"]:
        raise ConfigError("--model is missing; name the model to ask, or give a --scenario")
    stream = Stream(
        options["model"],
        options["model"],
        rows=options["rows"],
        lengths=options["lengths"],
        form=options["form"],
        variants=options["variants"],
        is_checked=options["check"],
    )
    return Scenario(
        [stream],
        duration_s=options["duration"],
        warmup_s=options["warmup"],
        timeout_s=options["timeout"],
        target_s=target_s,
        tick_s=options["tick"],
        seed=options["seed"],
    )


def _replay(options: Mapping[str, Any], target_s: float | None) -> Scenario:
    """Make the scenario of a recording; it is as long as the recording is, and counted whole."""
    if options["model"] or options["scenario"] or options["rate"] or options["arrivals"]:
        raise ConfigError("--replay says which models are asked and when; leave --model and other speeds out")
    streams, seconds = read_streams(options["replay"], options["speed"])
    return Scenario(
        streams,
        duration_s=seconds + 0.001,
        warmup_s=0.0,
        timeout_s=options["timeout"],
        target_s=target_s,
        tick_s=options["tick"],
        seed=options["seed"],
    )


def _scenarios(scenario: Scenario, options: Mapping[str, Any]) -> Iterator[tuple[str, Scenario]]:
    """Give the scenario each speed that the options name, with a label."""
    rates, connections = options["rate"], options["connections"]
    if sum(map(bool, (rates, options["arrivals"], options["scenario"]))) > 1:
        raise ConfigError("--rate, --arrivals and --scenario exclude each other: each says how fast")
    if (rates or options["arrivals"] or options["replay"]) and connections:
        if len(connections) > 1:
            raise ConfigError("--connections: several numbers are closed loops; an open loop takes one, the most")
        scenario = scenario.with_(connections=connections[0])
    if options["replay"]:
        yield f"replay x {options['speed']:g}", scenario
    elif options["scenario"] is not None:
        yield options["scenario"].stem, scenario
    elif options["arrivals"]:
        yield options["arrivals"], scenario.with_(arrivals=parse_arrivals(options["arrivals"]))
    elif rates:
        for rate in rates:
            yield f"{format_count(rate)}/s", scenario.with_(arrivals=Steady(rate))
    else:
        for count in connections or DEFAULT_CONNECTIONS:
            yield f"{count} connections", scenario.with_(connections=count)


class _Bench:
    """One measurement of a server."""

    def __init__(self, target: Target, scenario: Scenario, goal: Goal | None, reporter: Reporter) -> None:
        self.target = target
        self.scenario = scenario
        self.goal = goal
        self.server: Mapping[str, Any] = {}
        self._reporter = reporter
        self._runs: list[_Run] = []

    async def run(self, scenarios: list[tuple[str, Scenario]], search: Goal | None) -> tuple[list[_Run], Found | None]:
        """Run one scenario after the other, or search for a rate.

        Raises:
            LoadError: The server cannot be measured.
        """
        self.server = await _server_metadata(self.target)
        prepared = await prepare(self.scenario, self.target)
        if search is not None:
            return self._runs, await self._search(prepared, search)
        for label, scenario in scenarios:
            await self._apply(prepared, label, scenario)
        return self._runs, None

    async def _apply(self, prepared: Prepared, label: str, scenario: Scenario) -> Result:
        self._reporter.begin(label)

        def observe(progress: Progress) -> None:
            text = f"{progress.answered:,} answered, {progress.failed:,} failed"
            self._reporter.update(progress.elapsed_s / progress.duration_s, text)

        result = await apply(prepared, scenario, observe)
        self._runs.append(_Run(label, result))
        return result

    async def _search(self, prepared: Prepared, goal: Goal) -> Found:
        guess = self.scenario.with_(connections=1, duration_s=GUESS_S, warmup_s=0.5)
        alone = await self._apply(prepared, "one connection", guess)
        if not alone.total.answered:
            raise LoadError(f"{self.target.url} gave no right answer over one connection: {dict(alone.total.failed)}")

        async def at(rate: float, seed: int) -> Result:
            scenario = self.scenario.with_(arrivals=Steady(rate), seed=self.scenario.seed + 1 + seed)
            result = await self._apply(prepared, f"{format_count(rate)}/s", scenario)
            held = "held" if goal.is_held(result.total.within, result.offered) else "missed"
            share = f"{result.total.within_share:.2%} within {format_seconds(goal.target_s)}"
            self._reporter.say(f"{format_count(rate)}/s: {held}, {share}")
            return result

        return await find_rate(at, goal, first_rate=alone.answered_per_s)


async def _server_metadata(target: Target) -> Mapping[str, Any]:
    """Ask what server it is; empty if it does not say."""
    request = f"GET {target.prefix}/v2 HTTP/1.1\r\nHost: {target.authority}\r\nConnection: close\r\n\r\n"
    head, body = await ask(target, request.encode())
    try:
        found = msgspec.json.decode(body) if head.status == 200 else {}
    except msgspec.DecodeError:
        return {}
    return {name: found[name] for name in ("name", "version") if name in found} if isinstance(found, dict) else {}


def _document(bench: _Bench, runs: list[_Run], found: Found | None, started: str) -> dict[str, Any]:
    """Put everything together that `--json` writes."""
    chosen = len(runs) - 1
    if found is not None and not found.rate:
        chosen = max(range(len(runs)), key=lambda index: runs[index].result.total.within_share)
    document: dict[str, Any] = {
        "kind": "server",
        "command": " ".join(["batchserve", *sys.argv[1:]]),
        "started": started,
        "versions": {**versions(), **({"server": " ".join(map(str, bench.server.values()))} if bench.server else {})},
        "url": bench.target.url,
        "model": ", ".join(dict.fromkeys(stream.model or stream.path for stream in bench.scenario.streams)),
        "chosen": chosen,
        "warnings": list(_warnings(runs[chosen].result)),
        "runs": [{"label": run.label, **run.result.to_json()} for run in runs],
    }
    if found is not None:
        document["search"] = {
            "share": found.goal.share,
            "target_s": found.goal.target_s,
            "rate": found.rate,
            "missed_rate": found.missed_rate if found.missed_rate < float("inf") else None,
            "confirmed_share": found.share,
            "confirmed_shares": list(found.shares),
            "is_limited_by_load": found.is_limited_by_load,
        }
    return document


def _row(run: _Run) -> tuple[str, ...]:
    result = run.result
    latency = result.total.latency_s
    return (
        run.label,
        format_count(result.offered_per_s),
        format_count(result.answered_per_s),
        format_count(result.goodput_per_s),
        *(format_seconds(latency[name]) if latency else "-" for name in ("p50", "p90", "p99", "max")),
        format_count(sum(result.total.failed.values())),
    )


def _failures(result: Result) -> Iterator[str]:
    for kind, count in result.total.failed.items():
        said = result.examples.get(kind, "")
        yield f"failed: {count:,} x {kind}{f' ({said[:120]})' if said else ''}"


def _phases(result: Result) -> Iterator[str]:
    """Say where the server says the time of the median request went."""
    phases = [f"{name} {format_seconds(one['p50'])}" for name, one in result.phases_s.items() if one]
    if phases:
        yield f"on the server (p50): {', '.join(phases)}"
    if result.batch_rows:
        rows = sum(size * count for size, count in result.batch_rows.items()) / sum(result.batch_rows.values())
        yield f"rows that ran with a request: {format_count(rows)} on average"


def _warnings(result: Result) -> Iterator[str]:
    if result.is_load_late:
        yield (
            f"The load itself was late by {format_seconds(result.lag_s['p99'])} (p99): this machine is the limit, and "
            "latencies hold some of its own. Lower the rate, or load from another machine."
        )


def _verdict(found: Found) -> Iterator[str]:
    goal = f"p{found.goal.share * 100:g} within {format_seconds(found.goal.target_s)}"
    if not found.rate:
        yield f"No rate holds {goal}: not even {format_count(found.missed_rate)}/s does."
        return
    shares = ", ".join(f"{share:.2%}" for share in found.shares)
    above = f"; {format_count(found.missed_rate)}/s missed it" if found.missed_rate < float("inf") else ""
    confirmed = f"{shares} in time in {len(found.shares)} more runs"
    yield f"Largest rate with {goal}: {format_count(found.rate)}/s ({confirmed}){above}"
    if found.is_limited_by_load:
        yield "The load could not offer more than that in time: the server may be able to do more."


def _is_held(result: Result, goal: Goal | None) -> bool:
    return goal is None or goal.is_held(result.total.within, result.offered)
