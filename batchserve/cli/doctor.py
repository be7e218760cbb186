"""`batchserve doctor`: what this machine offers to models, what does not work, and what to do about it."""

from __future__ import annotations

import platform
import sys

import click

import batchserve

__all__ = ["doctor"]


@click.command()
def doctor() -> None:
    """Show runtime packages, drivers, devices and cores; which providers start, and why others do not.

    Exit status: 0 if nothing is wrong, 1 if something is. That an accelerator is not there is not wrong.
    """
    from batchserve.backends import inventory
    from batchserve.backends.cores import cgroup_quota, usable_cores
    from batchserve.backends.runtime import installed_packages, require_runtime
    from batchserve.errors import ConfigError

    problems: list[str] = []
    _say("batchserve", batchserve.__version__)
    _say("Python", f"{platform.python_version()} ({sys.executable})")
    _say("system", platform.platform())
    quota = cgroup_quota()
    _say("cores", f"{usable_cores()} usable; cgroup quota {'none' if quota is None else f'{quota:g}'}")
    installed = installed_packages()
    _say("packages", ", ".join(f"{name} {version}" for name, version in installed) or "no ONNX Runtime")
    if len(installed) > 1:
        names = " and ".join(name for name, _ in installed)
        problems.append(f"{names} overwrite each other's files: uninstall all of them, then install one")
    _say("CUDA driver", f"supports CUDA {version}" if (version := inventory.cuda_driver()) else "none")
    for number, name in enumerate(inventory.cuda_device_names()):
        _say(f"cuda:{number}", name)
    for library in inventory.libraries():
        _say(library.name, f"{library.error or 'loads'} ({library.meaning})")
    try:
        runtime = require_runtime()
    except ConfigError as error:
        problems.append(str(error))
    else:
        _say("runtime", f"ONNX Runtime {runtime.__version__}")
        for state in inventory.start_providers(runtime, runtime.get_available_providers()):
            _say(state.name, state.error or "starts and runs")
            if state.error and state.name == "CPUExecutionProvider":
                problems.append(f"the CPU's provider does not work: {state.error}")
    for problem in problems:
        click.echo(f"PROBLEM: {problem}")
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("Nothing is wrong")


def _say(label: str, text: str) -> None:
    click.echo(f"{label:<26}{text}")
