"""A straight line fitted to the run times, and a wait for more, as BentoML does it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from batchserve.core.ticket import Ticket
from loadtest.policies.base import FifoPolicy

__all__ = ["RegressionWithHold"]

_KEPT_RUNS = 50
_REFRESH_S = 5.0
_TICK_S = 0.001
_DECAY = 0.95
_SKIPPED_RUNS = 2


class RegressionWithHold(FifoPolicy):
    """Fit `a · rows + b` to the last runs; drop heads that cannot make it; wait while the wait pays on average.

    BentoML's idea, by its public source (bentoml/BentoML, `src/bentoml/_internal/marshal/dispatcher.py`,
    `CorkDispatcher` and `Optimizer`): 50 runs are kept and fitted at most every 5 s; a head whose predicted latency
    passes the maximum is cancelled if others wait behind it; with `n` waiting, the newest `wn` old, the batch is held
    for another tick of 1 ms while `n · (wn + tick + a)` is at most 0.95 of the mean wait of the runs kept. Kinder than
    the original: first come, first served (the original takes the newest first), the prediction counts no more rows
    than a batch takes, and the training of the first six runs is left out but for its two skipped ones.

    Args:
        others: As `FifoPolicy` takes it, `latency_target_s` among it.
    """

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        assert self.latency_target_s is not None, "the rule needs a maximum latency"
        self._runs: deque[tuple[int, float, float]] = deque(maxlen=_KEPT_RUNS)
        self._per_row_s = min(2.0, self.latency_target_s * 2 / 30)
        self._fixed_s = min(1.0, self.latency_target_s / 30)
        self._wait_s = 0.01
        self._skipped = 0
        self._now = self._last_wait_s = 0.0
        self._refresh_at_s = 0.0

    def drop(self, now: float) -> list[Ticket]:
        """Cancel heads that are predicted to be late, while others wait."""
        self._now = now
        target_s = self.latency_target_s
        assert target_s is not None
        dropped = []
        while len(self.queue) > 1:
            rows = min(len(self.queue), self.max_batch_size)
            if self.waited_s(now) + self._per_row_s * rows + self._fixed_s < target_s:
                break
            dropped.append(self.expire_head())
        return dropped

    def choose(self, now: float) -> tuple[int, float | None]:
        """Hold for a tick if that pays on average, else take all that fits."""
        waiting = len(self.queue)
        newest_s = now - self.queue[-1].ticket.request.arrival_s
        if waiting < self.max_batch_size and waiting * (newest_s + _TICK_S + self._per_row_s) <= self._wait_s * _DECAY:
            return 0, now + _TICK_S
        self._last_wait_s = self.waited_s(now)
        return self.most(self.max_batch_size), None

    def learn(self, rows: int, took_s: float) -> None:
        """Keep the run, and fit the line anew now and then."""
        if self._skipped < _SKIPPED_RUNS:
            self._skipped += 1
            return
        self._runs.append((rows, took_s, self._last_wait_s))
        if self._now < self._refresh_at_s:
            return
        self._refresh_at_s = self._now + _REFRESH_S
        table = np.array([(rows, 1.0) for rows, _, _ in self._runs])
        slope, fixed = np.linalg.lstsq(table, np.array([took for _, took, _ in self._runs]), rcond=None)[0]
        self._per_row_s, self._fixed_s = max(1e-6, float(slope)), max(0.0, float(fixed))
        self._wait_s = float(np.mean([wait for _, _, wait in self._runs]))
