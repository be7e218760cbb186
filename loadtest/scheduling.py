"""What the scheduler's rules are worth, simulated: fills the tables of docs/scheduling.md.

    python loadtest/scheduling.py [--only PART...] [--rows N] [--anew] [--ours] [--tables]

Parts: `rates` (the largest rate each set of rules carries, in 16 scenarios), `overload`, `lengths`, `neighbours`,
`ablation`. Rows that docs/data/scheduling.json has are not simulated again, so a run can be broken off and taken up
again; `--anew` forgets those of the parts first, `--ours` only what this server's own rules did there, as it must be
after a change of them. Then the tables of the page are written. Nothing depends on the machine: the same version gives
the same figures. All parts take about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.core.curves import line
from batchserve.core.device import Device
from batchserve.core.simulator import Member, simulate
from batchserve.core.traffic import poisson
from loadtest import lengths
from loadtest.ablation import ABLATIONS
from loadtest.rates import CURVES, KINDS, REQUESTS, Scenario, compared, largest, share_within
from loadtest.scheduling_tables import fill
from loadtest.simulated import offline_limit, untuned

__all__ = ["DATA", "PAGE", "PARTS", "main"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "data" / "scheduling.json"
PAGE = ROOT / "docs" / "scheduling.md"


OURS, OTHERS = "batchserve", "rates of others"
"""A set of rules, and a part: what `--ours` keeps of `rates` until the scenario was simulated again."""


def rates() -> Iterator[dict[str, Any]]:
    """Find the largest rate of every set of rules in every scenario."""
    for slots, device, kind in product((1, 2), CURVES, KINDS):
        scenario = Scenario(kind, device, slots)
        if _known("rates", scenario=str(scenario)):
            continue
        row: dict[str, Any] = {"scenario": str(scenario)}
        others = next((one for one in _figures().get(OTHERS, []) if one["scenario"] == str(scenario)), {})
        for name, settings in compared(scenario).items():
            if name in others:
                row[name] = others[name]
                continue
            best, make = largest(scenario, settings)
            row[name] = {"load": round(best.load, 4), "setting": best.setting, "tried": best.tried}
            if name == OURS:
                lower = (0.02, 0.1, 0.3, 0.6, 0.8)
                shares = [share_within(scenario, make, best.load * part) for part in lower]
                row[name]["least_below"] = round(min(shares), 4)
        yield row


def overload() -> Iterator[dict[str, Any]]:
    """Give the goodput of every set of rules up to and beyond the limit, each in its best setting for `rates`."""
    for device in CURVES:
        scenario = Scenario("Poisson", device, 1)
        [best] = [row for row in _figures()["rates"] if row["scenario"] == str(scenario)]
        for name, settings in compared(scenario).items():
            if _known("overload", device=device, rules=name):
                continue
            make = dict(settings)[best[name]["setting"]]
            row: dict[str, Any] = {"device": device, "rules": name}
            for load in (0.5, 0.9, 1.0, 1.2, 2.0, 4.0):
                [record] = simulate([Member(make(), scenario.curve, scenario.traffic(load, 1))], seed=1)
                record = record.between(0.2 * REQUESTS / scenario.limit, REQUESTS / scenario.limit)
                row[f"{load:g}"] = round(record.goodput(scenario.target_s) / scenario.limit, 3)
                if load == 2.0:
                    delays_s = record.refusal_delays_s
                    row["told_ms"] = round(float(np.median(delays_s)) * 1e3, 3) if len(delays_s) else None
            yield row


def _figures() -> dict[str, list[dict[str, Any]]]:
    figures: dict[str, list[dict[str, Any]]] = json.loads(DATA.read_text()) if DATA.exists() else {}
    return figures


def _known(part: str, **names: object) -> bool:
    """Tell whether a part's row of these names is among the figures already."""
    return any(all(row[key] == value for key, value in names.items()) for row in _figures().get(part, []))


def _keep(part: str, row: dict[str, Any]) -> None:
    """Add a row to the figures at once, so that a run can be broken off and taken up again."""
    figures = _figures()
    figures.setdefault(part, []).append(row)
    if part == "rates":
        figures[OTHERS] = [one for one in figures.get(OTHERS, []) if one["scenario"] != row["scenario"]]
    _write(figures)
    print(f"{part}: {json.dumps(row)}", file=sys.stderr, flush=True)


def _write(figures: dict[str, list[dict[str, Any]]]) -> None:
    DATA.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: figures[name] for name in (*PARTS, OTHERS) if figures.get(name)}
    devices = list(CURVES)
    kept.get("overload", []).sort(key=lambda row: (devices.index(row["device"]), row["rules"] != OURS))
    DATA.write_text(json.dumps(kept, indent=1) + "\n")


def _forget_ours(parts: list[str]) -> None:
    """Forget what this server's own rules did in some parts: in all but the first two there are no others."""
    figures = _figures()
    kept = {part: rows for part, rows in figures.items() if part not in parts}
    if "rates" in parts:
        kept[OTHERS] = [
            {key: one for key, one in row.items() if key != OURS}
            for row in (*figures.get("rates", []), *figures.get(OTHERS, []))
        ]
    if "overload" in parts:
        kept["overload"] = [row for row in figures.get("overload", []) if row["rules"] != OURS]
    _write(kept)


def mixed_lengths() -> Iterator[dict[str, Any]]:
    """Give what each way to deal with lengths carries, and what it pads."""
    for mix in lengths.MIXES.values():
        for way in lengths.WAYS.values():
            if _known("lengths", lengths=mix.name, way=way.name):
                continue
            load = lengths.carried(way, mix)
            record = lengths.under(way, mix, max(load, 0.02))
            flooded = lengths.under(way, mix, 1.5)
            yield {
                "lengths": mix.name,
                "way": way.name,
                "load": round(load, 3),
                "rows_per_s": round(load * mix.limit),
                "padded": round(record.runs.padded_share, 3),
                "p50_ms": round(record.quantile_s(0.5) * 1e3, 2),
                "rows_per_run": round(float(record.runs.rows.mean()), 1),
                "padded_at_1.5": round(flooded.runs.padded_share, 3),
                "goodput_at_1.5": round(flooded.goodput(lengths.TARGET_S) / mix.limit, 3),
            }


def neighbours() -> Iterator[dict[str, Any]]:
    """Give what two models on one device get: one light beside a flooded one, and two flooded ones."""
    curves = (line(0.002, 0.00025), line(0.003, 0.0001))
    for slots in (1, 2):
        for loads, weights, targets_s in (
            ((3.0, 0.1), (1, 1), (0.04, 0.04)),
            ((3.0, 0.2), (1, 1), (0.04, 0.04)),
            ((2.0, 2.0), (1, 1), (0.06, 0.06)),
            ((2.0, 2.0), (3, 1), (0.06, 0.06)),
            ((2.0, 2.0), (1, 3), (0.06, 0.06)),
        ):
            if _known("neighbours", slots=slots, loads=list(loads), weights=list(weights)):
                continue
            device = Device(slots)
            members = [
                Member(
                    untuned(curve, target_s, device=device, weight=float(weight), slots=slots),
                    curve,
                    poisson(load * offline_limit(curve, 32, slots), 8.0, seed),
                )
                for seed, (curve, load, weight, target_s) in enumerate(
                    zip(curves, loads, weights, targets_s, strict=True), 1
                )
            ]
            records = [record.between(1.0, 8.0) for record in simulate(members, device=device, seed=2)]
            used = [record.runs.device_s for record in records]
            within = [record.within(target) for record, target in zip(records, targets_s, strict=True)]
            yield {
                "slots": slots,
                "loads": loads,
                "weights": weights,
                "within": [round(share, 4) for share in within],
                "time": round(used[0] / used[1], 3),
                "rows_per_run": [round(float(record.runs.rows.mean()), 1) for record in records],
                "p99_ms": [round(record.quantile_s(0.99) * 1e3, 2) for record in records],
            }


def ablation() -> Iterator[dict[str, Any]]:
    """Take every figure with its rule and without it."""
    for one in ABLATIONS:
        for measure in one.measures:
            if _known("ablation", rule=one.rule, what=measure.what):
                continue
            with_rule = measure.take()
            with one.off():
                without = measure.take()
            yield {
                "rule": one.rule,
                "what": measure.what,
                "unit": measure.unit,
                "with": round(with_rule, 3),
                "without": round(without, 3),
                "is_more_better": measure.is_more_better,
            }


PARTS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "rates": rates,
    "overload": overload,
    "lengths": mixed_lengths,
    "neighbours": neighbours,
    "ablation": ablation,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Simulate what the scheduler's rules are worth.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (all)")
    parser.add_argument("--rows", type=int, default=sys.maxsize, help="stop after so many new rows (none)")
    parser.add_argument("--anew", action="store_true", help="forget the figures of these parts first")
    parser.add_argument("--ours", action="store_true", help="forget only what this server's own rules did there")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the page's tables anew")
    return parser


def main() -> int:
    """Run the parts and write the page's tables."""
    arguments = _parser().parse_args()
    if arguments.anew:
        _write({part: rows for part, rows in _figures().items() if part not in arguments.only})
    elif arguments.ours:
        _forget_ours(arguments.only)
    rows = ((part, row) for part in arguments.only for row in PARTS[part]())
    for part, row in islice(rows, 0 if arguments.tables else arguments.rows):
        _keep(part, row)
    PAGE.write_text(fill(PAGE.read_text(), _figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
