"""What `batchserve tune` found, for people: on the terminal, as comments of the model.toml, and as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from batchserve.load.svg import format_count, format_seconds
from batchserve.load.table import text_table
from batchserve.tuning.advice import batching_gain, batching_verdict, goal_text
from batchserve.tuning.settings import server_target_s
from batchserve.tuning.written import FIRST_LINE

if TYPE_CHECKING:
    from batchserve.cli.tuned import Tuned
    from batchserve.tuning.choose import Predicted
    from batchserve.tuning.confirm import Confirmed
    from batchserve.tuning.predict import Forecast
    from batchserve.tuning.settings import Setting

__all__ = ["document", "evidence", "report"]

MOST_PREDICTED = 6
DIFFERS = 0.15
"""Predicted and measured rates that differ by more than this are explained."""

_MEASURED = ("setting", "rows", "alone", "busy", "rows/s", "measured")
_SETTING = ("setting", "max rows")
_PREDICTED = (*_SETTING, "requests/s", "in time/s", "in time", "latency", "rows/run", "busy")
_CONFIRMED = (*_SETTING, "requests/s", "in time/s", "in time", "latency", "failed", "predicted/s")


def report(tuned: Tuned) -> list[str]:
    """Write what the terminal shows."""
    return [*_body(tuned), "", *_settled(tuned)]


def evidence(tuned: Tuned) -> list[str]:
    """Write the comments of the model.toml."""
    machine = tuned.facts.machine
    return [
        f"{FIRST_LINE} {machine['batchserve']} on {tuned.started}; edit what you like.",
        f"Command: {_command()}",
        f"Machine: {', '.join((machine['processor'], machine['cores'] + ' cores', machine['system']))}",
        f"Versions: Python {machine['Python']}, {machine['runtime']}; load average before: {machine['busy']}",
        "",
        *_settled(tuned),
        "",
        *_body(tuned),
    ]


def _body(tuned: Tuned) -> list[str]:
    latency = f"latency: p{tuned.demand.goal.share * 100:g} of the answered"
    lines = [
        f"Target: {goal_text(tuned.demand.goal)}. Traffic: {tuned.demand.text}.",
        *(f"Provider {name} was left out: {why}" for name, why in tuned.facts.skipped.items()),
        "",
        "Measured (alone: a run by itself; busy: with all instances busy and an event loop beside them):",
        *_indented(text_table(_MEASURED, _measured(tuned))),
    ]
    if not tuned.is_measured:
        lines.append("The budget ended before everything was measured as often as it should be.")
    lines += [
        "",
        f"Simulated, at the most that holds the target{' and as asked' if tuned.demand.has_rate else ''} ({latency}):",
        *_indented(text_table(_PREDICTED, _predicted(tuned))),
        "",
    ]
    if not any(tuned.confirmed):
        return [*lines, "Not confirmed by real runs: " + _why_not_confirmed(tuned)]
    runs = _confirmed(tuned)
    return [
        *lines,
        f"Real servers on this machine, the load on the same cores ({latency}):",
        *_indented(text_table(_CONFIRMED, runs)),
    ]


def _settled(tuned: Tuned) -> list[str]:
    """Say what was chosen, whether it holds the target, and what follows for batching."""
    best = tuned.finalists[tuned.chosen]
    confirmed = tuned.confirmed[tuned.chosen]
    lines = [f"Chosen: {tuned.setting}."]
    if tuned.is_held:
        lines.append(_held(tuned, best, confirmed))
    else:
        is_unsure = tuned.is_forecast and not tuned.demand.has_rate  # lower rates might hold it
        what = "No real run held the target, for which there may have been too little --budget"
        lines.append(f"{what if is_unsure else 'The target cannot be met'}: {_missed(tuned, best, confirmed)}")
        lines += [f"  {one.text}" for one in tuned.remedies]
    if confirmed is not None:
        lines += _differences(tuned, best, confirmed)
    facts = tuned.facts
    lines.append(batching_verdict(tuned.curves, is_batching=facts.is_batching, why=facts.why))
    inner = format_seconds(server_target_s(tuned.demand.goal.target_s))
    lines.append(f"The server's latency_target is {inner}: the rest of the time is for the way to the client and back.")
    return lines


def _held(tuned: Tuned, best: Predicted, confirmed: Confirmed | None) -> str:
    goal = goal_text(tuned.demand.goal)
    if confirmed is None or confirmed.held is None:
        forecast = best.asked if tuned.demand.has_rate and best.asked else best.most
        assert forecast is not None, "what is held was forecast"
        return f"{goal} is held at {format_count(forecast.offered_per_s)} requests/s, by simulation alone."
    held, runs = confirmed.held, len(confirmed.probes)
    text = (
        f"{goal} is held at {format_count(held.offered_per_s)} requests/s: {held.within_share:.2%} in time, "
        f"latency {format_seconds(held.quantile_s)} ({runs} real {'run' if runs == 1 else 'runs'})."
    )
    if not tuned.demand.has_rate or best.most is None:
        return text
    most = format_count(best.most.offered_per_s)
    return f"{text} By simulation it would be up to {most}/s, {format_count(best.speed)} times this traffic."


def _missed(tuned: Tuned, best: Predicted, confirmed: Confirmed | None) -> str:
    lone_s = min(tuned.curves.run_s(way, tuned.curves.sizes(way)[0]) for way in tuned.curves.ways)
    if lone_s > tuned.demand.goal.target_s:
        return f"a run of one row alone takes {format_seconds(lone_s)}."
    if confirmed is not None:
        probe = confirmed.best
        return (
            f"{probe.within_share:.1%} of {format_count(probe.offered_per_s)} requests/s were in time in real runs, "
            f"{format_count(probe.goodput_per_s)}/s."
        )
    if best.asked is not None:
        return (
            f"{best.asked.within_share:.1%} of {format_count(best.asked.offered_per_s)} requests/s would be in time, "
            f"{format_count(best.asked.goodput_per_s)}/s."
        )
    return "no rate holds it in the simulation."


def _differences(tuned: Tuned, best: Predicted, confirmed: Confirmed) -> list[str]:
    forecast = best.most
    if tuned.demand.has_rate:
        return []
    if confirmed.is_limited_by_load:
        return ["The load itself was late in the runs that missed, for all share the cores: the server may do more."]
    if forecast is None or abs(confirmed.best.goodput_per_s / forecast.goodput_per_s - 1) <= DIFFERS:
        return []
    said = f"The simulation said {format_count(forecast.goodput_per_s)}/s in time"
    return [f"{said}: it knows too little of reading and writing requests, and nothing of the load on the same cores."]


def _why_not_confirmed(tuned: Tuned) -> str:
    if not any(one.speed for one in tuned.finalists):
        return "no setting holds the target in the simulation."
    return "there was no time left; raise --budget."


def _measured(tuned: Tuned) -> list[tuple[str, ...]]:
    curves = tuned.curves
    return [
        (
            str(way),
            str(rows),
            format_seconds(curves.run_s(way, rows)),
            format_seconds(curves.busy_s(way, rows)),
            format_count(curves.rows_per_s(way, rows)),
            str(curves.count(way, rows)),
        )
        for way in tuned.facts.ways
        for rows in curves.sizes(way)
    ]


def _predicted(tuned: Tuned) -> list[tuple[str, ...]]:
    rows = [
        (*_named(one.setting), *_forecast(forecast))
        for one in tuned.predicted[:MOST_PREDICTED]
        for forecast in (one.most, one.asked)
        if forecast is not None
    ]
    return rows or [(*_named(tuned.setting), *("-" * 6))]


def _named(setting: Setting) -> tuple[str, str]:
    return str(setting.way), str(setting.max_batch_size)


def _forecast(one: Forecast) -> tuple[str, ...]:
    return (
        format_count(one.offered_per_s),
        format_count(one.goodput_per_s),
        f"{one.within_share:.2%}",
        _latency(one.quantile_s),
        f"{one.rows_per_run:.1f}",
        f"{one.busy_share:.0%}",
    )


def _latency(seconds: float) -> str:
    return format_seconds(seconds) if math.isfinite(seconds) else "-"


def _confirmed(tuned: Tuned) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one, confirmed in zip(tuned.finalists, tuned.confirmed, strict=True):
        if confirmed is None:
            continue
        forecast = one.asked if tuned.demand.has_rate else one.most
        for probe in confirmed.probes:
            mark = " <" if confirmed.held and probe.speed == confirmed.held.speed else ""
            rows.append(
                (
                    *_named(one.setting),
                    format_count(probe.offered_per_s),
                    format_count(probe.goodput_per_s),
                    f"{probe.within_share:.2%}",
                    _latency(probe.quantile_s),
                    format_count(probe.failed),
                    (format_count(forecast.goodput_per_s) if forecast else "-") + mark,
                )
            )
    return rows


def _indented(text: str) -> Sequence[str]:
    return [f"  {line}" for line in text.splitlines()]


def _command() -> str:
    return " ".join(["batchserve", *sys.argv[1:]])


def document(tuned: Tuned) -> str:
    """Write everything as JSON."""
    goal, facts = tuned.demand.goal, tuned.facts
    single, best = batching_gain(tuned.curves)
    gain = tuned.curves.rows_per_s(*best) / tuned.curves.rows_per_s(*single)
    value: dict[str, Any] = {
        "kind": "tuning",
        "command": _command(),
        "started": tuned.started,
        "machine": dict(facts.machine),
        "model": tuned.source.name,
        "share": goal.share,
        "target_s": goal.target_s,
        "traffic": tuned.demand.text,
        "budget_s": tuned.budget_s,
        "spent_s": tuned.spent_s,
        "is_measured": tuned.is_measured,
        "is_held": tuned.is_held,
        "chosen": _plain_setting(tuned.setting),
        "batching": {"is_batching": facts.is_batching, "best_rows": best[1], "gain": gain},
        "says": _settled(tuned),
        "remedies": [asdict(one) for one in tuned.remedies],
        "measured": tuned.curves.to_json(),
        "predicted": [
            {
                **_plain_setting(one.setting),
                "most": one.most and _plain(asdict(one.most)),
                "asked": one.asked and _plain(asdict(one.asked)),
            }
            for one in tuned.predicted
        ],
        "confirmed": [
            {
                **_plain_setting(one.setting),
                "held": confirmed.held and confirmed.held.to_json(),
                "runs": [probe.to_json() for probe in confirmed.probes],
                "is_limited_by_load": confirmed.is_limited_by_load,
            }
            for one, confirmed in zip(tuned.finalists, tuned.confirmed, strict=True)
            if confirmed is not None
        ],
    }
    return json.dumps(value, indent=1) + "\n"


def _plain_setting(setting: Setting) -> dict[str, Any]:
    layout = setting.way.layout
    return {
        "provider": setting.way.provider,
        "instances": layout.instances,
        "intra_op_threads": layout.threads,
        "max_batch_size": setting.max_batch_size,
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == math.inf else value for name, value in values.items()}
