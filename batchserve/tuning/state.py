"""Keeps what was measured on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchserve.engine.whole_files import write_whole
from batchserve.tuning.confirm import Probe
from batchserve.tuning.curves import Curves

__all__ = ["State", "state_file"]

FORMAT = 1

logger = logging.getLogger(__name__)


def state_file(folder: Path, key: Mapping[str, str]) -> Path:
    """Name the file of what is known about one model on one machine, by all that its costs depend on."""
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"


class State:
    """Measurements and real runs, in memory and in a file. One thread.

    Args:
        path: The file; its folder need not exist.
        is_fresh: True to begin anew, whatever is in it.

    Attributes:
        curves: What runs take.
        has_known: True if anything was read.
    """

    def __init__(self, path: Path, *, is_fresh: bool = False) -> None:
        self.path = path
        self.curves = Curves()
        self.has_known = False
        self._probes: dict[str, list[Probe]] = {}
        if not is_fresh:
            self._read()

    def probes(self, key: str) -> list[Probe]:
        """Return the real runs of a setting, by all that they depend on."""
        return list(self._probes.get(key, ()))

    def add_probe(self, key: str, probe: Probe) -> None:
        """Take a real run in, and write everything."""
        self._probes.setdefault(key, []).append(probe)
        self.write()

    def forget_probes(self) -> None:
        """Drop all real runs, and write the rest: they are for going on, and a new tuning wants new ones."""
        self._probes.clear()
        self.write()

    def write(self) -> None:
        """Put everything in the place of what the file holds. A reader sees the old file or the new one, whole.

        That it cannot be written is logged: only going on later is lost.
        """
        value = {
            "curves": self.curves.to_json(),
            "probes": {key: [probe.to_json() for probe in probes] for key, probes in self._probes.items()},
        }
        try:
            write_whole(self.path, value)
        except OSError as error:
            logger.warning("what was measured cannot be kept in %s: %s", self.path, error.strerror)

    def _read(self) -> None:
        try:
            value: Any = json.loads(self.path.read_text(encoding="ascii"))
            curves = Curves.from_json(value["curves"])
            probes = {key: [Probe.from_json(one) for one in ones] for key, ones in value["probes"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is not used, for it is not what it should be: %.200s", self.path, error)
            return
        self.curves, self._probes = curves, probes
        self.has_known = bool(curves.ways)
