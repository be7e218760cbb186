"""Sums samples of several rounds up, and holds them against what is wanted: Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.report import DISTURBED_SHARE

__all__ = ["Finding", "Sample", "Wanted", "compare", "finding_table", "sample_table"]

COLUMNS: dict[str, tuple[str, str]] = {
    "p50_us": ("p50 µs", ",.0f"),
    "p99_us": ("p99 µs", ",.0f"),
    "server_cpu_us": ("server CPU µs/request", ",.1f"),
    "client_cpu_us": ("client CPU µs/request", ",.1f"),
    "others_share": ("others' CPU", ".0%"),
}
"""Heading and form of what a table of samples shows beside the throughput, by the value's name."""


@dataclass(frozen=True)
class Sample:
    """What was measured once.

    Attributes:
        variant: What was measured, of those that are compared.
        connections: How many were loaded at once.
        round: Counted from 0; samples of the same round were taken right after one another.
        values: Figures by name, which ends in the unit.
    """

    scenario: str
    variant: str
    connections: int
    round: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Wanted:
    """A bound that a figure is to keep.

    Attributes:
        bound: In the figure's unit.
        is_least: True if the figure is to be at least so large, False if at most.
    """

    bound: float
    is_least: bool = True

    def is_met(self, figure: float) -> bool:
        """Hold a figure against the bound."""
        return figure >= self.bound if self.is_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Finding:
    """One figure that a scenario was run for: per round, and its bound if it has one.

    Attributes:
        unit: What the figures count, "x" for ratios.
        figures: One for each round, in their order.
        note: What a reader must know beside it.
    """

    scenario: str
    what: str
    unit: str
    figures: tuple[float, ...]
    wanted: Wanted | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.figures)

    @property
    def verdict(self) -> str:
        """Say whether the median keeps the bound; "" without one."""
        if self.wanted is None:
            return ""
        return "met" if self.wanted.is_met(self.median) else "NOT met"


def compare(
    samples: Sequence[Sample],
    variant: str,
    base: str,
    connections: int,
    value: str = "requests_per_s",
    how: Callable[[float, float], float] = lambda ours, theirs: ours / theirs,
) -> tuple[float, ...]:
    """Compare two variants within each round, at one number of connections.

    Args:
        samples: Of one scenario; those at other numbers of connections are left out.
        variant: Whose figures are asked about.
        base: What they are compared with.
        connections: The one number of connections.
        value: The figure to compare.
        how: Makes one figure of the variant's and the base's; their ratio if nothing is said.

    Returns:
        One figure for each round in which both were measured.
    """
    points = [sample for sample in samples if sample.connections == connections]
    bases = {sample.round: sample.values[value] for sample in points if sample.variant == base}
    ours = {sample.round: sample.values[value] for sample in points if sample.variant == variant}
    return tuple(how(ours[turn], bases[turn]) for turn in sorted(ours.keys() & bases.keys()))


def sample_table(samples: Sequence[Sample]) -> str:
    """Write one line for each scenario, variant and number of connections: medians, and the range of the throughput.

    A `!` stands where something else on the machine took more than a tenth of its processor time.
    """
    headings = ["scenario", "connections", "variant", "requests/s (range)", *(name for name, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(headings)} |", f"|---|---:|---|{'---:|' * (len(headings) - 3)}"]
    groups: dict[tuple[str, int, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.scenario, sample.connections, sample.variant), []).append(sample)
    for (scenario, connections, variant), group in groups.items():
        rates = [sample.values["requests_per_s"] for sample in group]
        cells = [scenario, str(connections), variant]
        cells.append(f"{_number(statistics.median(rates))} ({_number(min(rates))}-{_number(max(rates))})")
        cells += [_cell(group, name, form) for name, (_, form) in COLUMNS.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def finding_table(findings: Sequence[Finding]) -> str:
    """Write one line for each finding."""
    lines = ["| scenario | figure | median (range) | wanted | |", "|---|---|---:|---:|---|"]
    for one in findings:
        spread = f"{_number(min(one.figures))}-{_number(max(one.figures))}"
        wanted = "" if one.wanted is None else f"{one.wanted} {one.unit}"
        verdict = " ".join(part for part in (one.verdict, one.note) if part)
        lines.append(
            f"| {one.scenario} | {one.what} | {_number(one.median)} ({spread}) {one.unit} | {wanted} | {verdict} |"
        )
    return "\n".join(lines)


def _cell(group: Sequence[Sample], name: str, form: str) -> str:
    """Write the median of one value; "" if it was not measured."""
    if any(name not in sample.values for sample in group):
        return ""
    median = statistics.median(sample.values[name] for sample in group)
    mark = " !" if name == "others_share" and median > DISTURBED_SHARE else ""
    return f"{median:{form}}{mark}"


def _number(value: float) -> str:
    """Write a figure with three digits at least."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
