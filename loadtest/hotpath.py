"""How fast the frontend is: against aiohttp, a bare echo and mosec, and against what docs/benchmarks.md asks of it.

    python loadtest/hotpath.py [--only NAME...] [--rounds N] [--seconds S] [--mosec-python PATH]

Needs wrk. Every scenario runs in rounds; a round starts its servers afresh and measures every variant right after the
other, in the other order in the next round, after comparing answers with ONNX Runtime's own. Prints two tables and
writes everything to a JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

if not __package__:  # run as a script: its own folder is on the path, but the package's parent is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batchserve.config import SERVER_KEYS
from loadtest import contest, machine, wrk
from loadtest.client import LoadError
from loadtest.findings import Finding, Sample, finding_table, sample_table
from loadtest.hotpath_scenarios import FAST_PATH_KEY, Options, Scenario, contests
from loadtest.idle import IDLE_SCENARIO
from loadtest.questions import WrongAnswerError
from loadtest.report import RESULTS, write_json
from loadtest.server import ServerError
from loadtest.soak import SOAK_SCENARIO
from loadtest.watching_scenarios import WATCHING_SCENARIO
from loadtest.wire import WireError

__all__ = ["SCENARIOS", "main"]

SCENARIOS: dict[str, Scenario] = {
    **contests(),
    "watching": WATCHING_SCENARIO,
    "idle": IDLE_SCENARIO,
    "soak": SOAK_SCENARIO,
}
"""Every part by name."""

DEFAULT = tuple(name for name in SCENARIOS if name != "soak")
"""What runs if nothing is said: all that takes no more than minutes."""


def main() -> int:
    """Run what is asked for; 1 if anything could not be measured or was wrong, whatever the figures are."""
    arguments = _parser().parse_args()
    options = Options(arguments.mosec_python, arguments.minutes, dict(arguments.set))
    samples: list[Sample] = []
    findings: list[Finding] = []
    error = ""
    try:
        facts = _facts(options)
        for name in arguments.only:
            new = _run(SCENARIOS[name], options, arguments.rounds, arguments.seconds)
            samples += new
            findings += SCENARIOS[name].findings(new)
    except (LoadError, ServerError, WireError, WrongAnswerError) as caught:
        error = " ".join([str(caught), *getattr(caught, "__notes__", ())])
        if not samples:
            print(f"error: {error}", file=sys.stderr)
            return 1
    parts = {"findings": [_fields(one) for one in findings], "samples": [dataclasses.asdict(one) for one in samples]}
    path = write_json("hotpath", facts | {"error": error} | parts, arguments.results)
    print(sample_table(samples), finding_table(findings), path, sep="\n\n")
    if error:
        print(f"error: {error}", file=sys.stderr)
    return 1 if error else 0


def _run(scenario: Scenario, options: Options, rounds: int, seconds: int) -> list[Sample]:
    """Run all rounds of a scenario."""
    print(f"== {scenario.summary}", file=sys.stderr, flush=True)
    run_round = scenario.prepare(options)
    return [sample for turn in range(rounds if scenario.is_repeated else 1) for sample in run_round(turn, seconds)]


def _facts(options: Options) -> dict[str, object]:
    """Gather what a reader of the result must know, and say aloud what is left out.

    Raises:
        LoadError: wrk is not there, or the Python named for mosec has none.
    """
    facts: dict[str, object] = {
        **machine.facts(),
        "wrk": wrk.version(),
        "check_s": contest.CHECK_S,
    }
    left_out = []
    if options.mosec_python is None:
        left_out.append("mosec: --mosec-python names no Python that has it")
    else:
        facts["mosec"] = _mosec_versions(options.mosec_python)
    if FAST_PATH_KEY not in SERVER_KEYS:
        left_out.append(f"batchserve without its fast path: this version has no server.{FAST_PATH_KEY}")
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return facts | {"left_out": left_out}


def _mosec_versions(python: Path) -> str:
    """Ask the other Python what it has.

    Raises:
        LoadError: It does not run, or has no mosec.
    """
    code = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('mosec', 'onnxruntime', 'numpy')))"
    try:
        answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise LoadError(f"--mosec-python {python} cannot be run: {error}") from error
    if answer.returncode != 0:
        raise LoadError(f"--mosec-python {python} has no mosec, onnxruntime or numpy; pip install them there")
    return answer.stdout.strip()


def _fields(finding: Finding) -> dict[str, object]:
    return {**dataclasses.asdict(finding), "median": finding.median, "verdict": finding.verdict}


def _setting(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='; expected KEY=VALUE")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure how fast the frontend is.",
        epilog="scenarios: " + "; ".join(f"{name}: {one.summary}" for name, one in SCENARIOS.items()),
    )
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, default=DEFAULT, metavar="NAME", help="scenarios (all but soak)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="measured, for each point (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the soak (%(default)s)")
    parser.add_argument("--mosec-python", type=Path, help="a Python with mosec, onnxruntime and numpy (mosec left out)")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="KEY=VALUE", help="configure batchserve (nothing)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
