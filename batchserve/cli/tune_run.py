"""The steps of `batchserve tune`, one after the other, within the budget."""

from __future__ import annotations

import gc
import hashlib
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchserve.cli.assemble import cache_folder
from batchserve.cli.bench_server import versions
from batchserve.cli.machine import busy_cores, processor
from batchserve.cli.progress import Reporter
from batchserve.cli.tune_server import served
from batchserve.cli.tune_traffic import completed, read_demand
from batchserve.cli.tuned import Facts, Tuned
from batchserve.engine.limits import limits_of
from batchserve.load.prepare import prepare
from batchserve.load.run import apply, run_on_fast_loop
from batchserve.load.scenario import Scenario
from batchserve.load.search import parse_goal
from batchserve.load.target import parse_target
from batchserve.tuning.advice import measured_remedy, remedies
from batchserve.tuning.budget import MEASURING, PREDICTING, Budget
from batchserve.tuning.choose import Predicted, finalists, rank
from batchserve.tuning.confirm import Confirmed, Probe, better, confirm, probe_of
from batchserve.tuning.curves import settings_of
from batchserve.tuning.measure import Opened, free_length, measure, opened, row_bytes
from batchserve.tuning.predict import Predictor
from batchserve.tuning.settings import server_target_s
from batchserve.tuning.state import State, state_file
from batchserve.tuning.written import chosen_keys

if TYPE_CHECKING:
    from batchserve.config import ModelConfig, Settings
    from batchserve.core.limits import Limits
    from batchserve.engine.sources import ModelSource
    from batchserve.tuning.settings import Setting, Way

__all__ = ["Tuning"]

COUNTS = ("spinning", "provider_options", "isolation", "pad", "preprocess", "inputs", "outputs")
"""Fields of the configuration that change what runs take, besides those that are compared."""
RESERVE_S = 1.0
"""What is left for stopping servers and writing."""
BUSY = 0.5
"""Cores that other programs may have wanted before it is worth a word."""
CALM_S, CALM_BYTE_S = 250e-6, 2.5e-9
"""A request, and a byte of it, costs this machine less than so much to send, receive and answer: where the runs do not
limit, real runs begin there. What it does cost, the prediction does not know."""
START_S, RUN_S = 1.5, 1.5
"""What a server needs to start, besides loading the model, and the shortest run on it."""
READY_TIMEOUT_S = 120.0


class Tuning:
    """One tuning of one model. Blocks; to be run once.

    Args:
        settings: The configuration.
        source: The model.
        arguments: Those of `serve` that serve it, and nothing else.
        options: Those of the command, by name.

    Raises:
        ConfigError: The target or the traffic is none.
    """

    def __init__(
        self, settings: Settings, source: ModelSource, arguments: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        self._busy = busy_cores()
        self._budget = Budget(options["budget_s"])
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._settings, self._source, self._options = settings, source, options
        self._arguments = arguments
        self._config = settings.model(source.name, source.folder)
        self._goal = parse_goal(options["goal"])
        self._demand = read_demand(source.name, self._goal, options)
        self._state: State
        self._facts: Facts

    def run(self) -> Tuned:
        """Measure, predict, confirm, and choose.

        Raises:
            ConfigError: There is no runtime, or no such provider.
            ModelLoadError: The model cannot be loaded.
            BackendError: It cannot be run.
            LoadError: A server did not start.
        """
        with Reporter(is_quiet=self._options["quiet"]) as reporter:
            is_measured = self._measure(reporter)
            gc.collect()  # the sessions' memory and threads go before servers come
            predictor = self._predictor()
            predicted = self._predict(predictor, reporter)
            last = finalists(predicted)
            confirmed = self._confirm(last, reporter)
            chosen = better(confirmed) if any(confirmed) else 0
            tuned = Tuned(
                source=self._source,
                config=self._config,
                demand=self._demand,
                facts=self._facts,
                curves=self._state.curves,
                is_measured=is_measured,
                predicted=predicted,
                finalists=last,
                confirmed=confirmed,
                chosen=chosen,
                budget_s=self._budget.seconds,
                started=self._started,
            )
            if not tuned.is_forecast:
                reporter.begin("What would meet the target")
                tuned.remedies = remedies(predictor, last[chosen], lambda: self._budget.left_s > 0)
            elif not tuned.is_held and self._demand.has_rate and (missed := confirmed[chosen]) is not None:
                tuned.remedies = [measured_remedy(missed.best)]
        self._state.forget_probes()
        tuned.spent_s = self._budget.spent_s
        return tuned

    # --- measuring ------------------------------------------------------------------------------------------------

    def _measure(self, reporter: Reporter) -> bool:
        from batchserve.backends.base import ModelFile
        from batchserve.backends.isolated import IsolatingBackend
        from batchserve.backends.onnx import OnnxBackend
        from batchserve.engine.sources import choose_versions

        number = max(choose_versions(self._config.version_policy, list(self._source.versions)))
        file = ModelFile(self._source.name, number, self._source.versions[number])
        providers = self._options["providers"] or _providers(self._config)
        reporter.begin(f"Open {file.name} on {', '.join(providers)}")
        start_s = time.monotonic()
        with opened(IsolatingBackend(OnnxBackend()), file, self._config, providers) as model:
            self._facts = self._look(model, file.path, time.monotonic() - start_s)
            self._demand = completed(self._demand, model.first, self._facts.length, self._options["lengths"])
            if self._busy is not None and self._busy > BUSY:
                reporter.say(f"Other programs wanted {self._busy:.1f} cores in the last minute: they are measured, too")
            if self._state.has_known:
                reporter.say(f"Goes on from {self._state.path}; --fresh measures anew")
            curves = self._state.curves
            reporter.begin("Measure")
            whole_s = self._budget.left_of(MEASURING)

            def tell(way: Way, rows: int) -> None:
                share = 1 - self._budget.left_of(MEASURING) / whole_s if whole_s > 0 else 1.0
                reporter.update(share, f"{way}, {rows} rows")

            return measure(
                model,
                curves,
                length=self._facts.length,
                target_s=self._goal.target_s,
                left_s=lambda: self._budget.left_of(MEASURING),
                tell=tell,
                keep=self._state.write,
            )

    def _look(self, model: Opened, path: Path, load_s: float) -> Facts:
        first, options = model.first, self._options
        length = max(1, sum(options["lengths"]) // 2) if options["lengths"] else free_length(first)
        machine = {
            "processor": processor(),
            "cores": str(first.facts.get("cores", "?")),
            **versions(),
            "runtime": str(first.facts.get("runtime", "?")),
            "busy": "?" if self._busy is None else f"{self._busy:.1f}",
        }
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        key = {
            **{name: machine[name] for name in ("processor", "cores", "runtime", "batchserve")},
            "model": digest,
            "length": str(length),
            **{name: repr(getattr(self._config, name)) for name in COUNTS},
        }
        folder = cache_folder(self._settings.server.cache_dir) / "tune"
        self._state = State(state_file(folder, key), is_fresh=options["fresh"])
        return Facts(
            is_batching=first.batchability.is_batchable,
            why=first.batchability.why,
            pad=first.pad,
            length=length,
            row_bytes=row_bytes(first, length),
            ways=model.ways,
            skipped=model.skipped,
            load_s=load_s,
            machine=machine,
        )

    # --- predicting -----------------------------------------------------------------------------------------------

    def _predictor(self) -> Predictor:
        facts = self._facts

        def limits(setting: Setting, target_s: float) -> Limits:
            config = replace(self._config, latency_target_s=server_target_s(target_s))
            return limits_of(config, setting.way.layout.instances, setting.max_batch_size, facts.pad)

        return Predictor(self._source.name, self._state.curves, self._demand, limits, facts.length)

    def _predict(self, predictor: Predictor, reporter: Reporter) -> list[Predicted]:
        settings = settings_of(self._state.curves, self._facts.ways, is_batching=self._facts.is_batching)
        reporter.begin("Simulate")
        return rank(
            settings,
            predictor,
            has_rate=self._demand.has_rate,
            has_time=lambda: self._budget.left_of(PREDICTING) > 0,
            tell=lambda setting, share: reporter.update(share, str(setting)),
        )

    # --- confirming -----------------------------------------------------------------------------------------------

    def _confirm(self, last: Sequence[Predicted], reporter: Reporter) -> list[Confirmed | None]:
        left_s = self._left_s()
        count = min(len(last), int((left_s - RUN_S) / (START_S + self._facts.load_s)))
        if count < 1 or not any(one.speed for one in last):
            return [None] * len(last)
        reporter.begin("Start servers")
        warmup_s = min(self._config.warmup_budget_s, max(0.2, 0.05 * left_s))
        with ExitStack() as stack:
            urls = [stack.enter_context(self._served(one.setting, warmup_s)) for one in last[:count]]
            reporter.begin("Real runs")
            confirmed = run_on_fast_loop(self._apply(last[:count], urls, reporter))
        return [*confirmed, *[None] * (len(last) - count)]

    def _left_s(self) -> float:
        return self._budget.left_s - RESERVE_S

    def _served(self, setting: Setting, warmup_s: float) -> Any:
        from batchserve.config.schema import MODEL_KEYS

        values = {**chosen_keys(setting, self._goal.target_s), "warmup_budget_s": warmup_s}
        texts = {
            key.name: tomllib.loads(f"value = {key.kind.show(values[key.field])}")["value"]
            for key in MODEL_KEYS.values()
            if key.field in values
        }
        sets = []
        for name, value in texts.items():
            text = ",".join(value) if isinstance(value, list) else value
            sets += ["--set", f'models."{self._source.name}".{name}={text}']
        return served([*self._arguments, *sets], min(READY_TIMEOUT_S, max(5.0, self._left_s())))

    async def _apply(
        self, last: Sequence[Predicted], urls: Sequence[str], reporter: Reporter
    ) -> list[Confirmed | None]:
        demand, state = self._demand, self._state
        natural = demand.at(1.0, demand.fitted(1.0, 1.0))
        prepared = [await prepare(natural, parse_target(url)) for url in urls]
        keys = [self._probe_key(one.setting) for one in last]
        whole_s = self._left_s()

        async def load(index: int, scenario: Scenario, speed: float) -> Probe:
            done = 1 - self._left_s() / whole_s
            reporter.update(done, f"{last[index].setting} at {demand.per_s * speed:,.4g}/s")
            return probe_of(await apply(prepared[index], scenario), self._goal, speed)

        return await confirm(
            [partial(load, index) for index in range(len(last))],
            demand,
            [one.speed for one in last],
            calm_per_s=1 / (CALM_S + CALM_BYTE_S * self._facts.row_bytes * demand.rows),
            known=[state.probes(key) for key in keys],
            left_s=self._left_s,
            keep=lambda index, probe: state.add_probe(keys[index], probe),
        )

    def _probe_key(self, setting: Setting) -> str:
        options = self._options
        asked = (self._goal, self._demand.text, self._demand.per_s, options["rows"], options["lengths"])
        return f"{setting} {asked}"


def _providers(config: ModelConfig) -> list[str]:
    """List the providers to compare: those that are configured, each alone."""
    from batchserve.backends.onnx import require_runtime
    from batchserve.backends.providers import SHORT_NAMES, on_device, resolve

    asked, _ = on_device(config.providers, config.device)
    names = resolve(asked, require_runtime().get_available_providers())
    short = {full: name for name, full in SHORT_NAMES.items()}
    return [short.get(name, name) for name in names]
