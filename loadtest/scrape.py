"""Numbers from a server's /metrics page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from loadtest.conversation import Conversation
from loadtest.wire import get_request

__all__ = ["Page", "quantile", "scrape"]

Labels = frozenset[tuple[str, str]]


class Page:
    """A page of metrics as it was at one moment.

    Args:
        text: The page in Prometheus' text format.
    """

    def __init__(self, text: str) -> None:
        self.numbers: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Add up all series of a name that have these labels; 0 if there is none."""
        wanted = frozenset(labels.items())
        return sum(value for (one, having), value in self.numbers.items() if one == name and wanted <= having)

    def values(self, name: str, label: str) -> set[str]:
        """List the values that a label has in the series of a name."""
        return {value for one, having in self.numbers if one == name for key, value in having if key == label}

    def buckets(self, name: str) -> dict[float, float]:
        """Read a histogram that has no labels: how many observations are at most so large, by bucket."""
        return {
            float(dict(having)["le"]): value for (one, having), value in self.numbers.items() if one == f"{name}_bucket"
        }


def scrape(port: int) -> Page:
    """Read a server's page.

    Raises:
        LoadError: There is no answer.
        WireError: It is no HTTP.
    """
    with Conversation(port) as conversation:
        answer = conversation.ask(get_request("/metrics", "127.0.0.1"))
    return Page(answer.partition(b"\r\n\r\n")[2].decode())


def quantile(share: float, before: Mapping[float, float], after: Mapping[float, float]) -> float:
    """Estimate a quantile of what a histogram observed between two pages.

    Args:
        share: From 0 to 1.
        before: Counts up to each bound, at the beginning.
        after: The same at the end.

    Returns:
        A point inside the bucket that holds it, as if that bucket's observations lay evenly; nan without any.
    """
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not bounds or not counts[-1]:
        return math.nan
    rank, below, floor = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank and count > below:
            return floor if math.isinf(bound) else floor + (bound - floor) * (rank - below) / (count - below)
        below, floor = count, bound
    return floor
