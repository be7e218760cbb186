"""What was learnt of a model's costs, kept on disk so that the next start is tuned from its first request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from batchserve.engine.observed import LEAST_RATIO, MOST_RATIO, MOST_RATIOS, Observation, Observed
from batchserve.engine.whole_files import write_whole

if TYPE_CHECKING:
    from batchserve.backends.base import ModelFile, Session
    from batchserve.config import ModelConfig
    from batchserve.core.cost import CostModel

__all__ = ["Keeper", "Measured", "Points", "Profile", "ProfileFile", "Profiles"]

FORMAT = 1
"""Of the files. Another one is not read."""

MOST_BYTES = 64 << 10
"""A larger file is none of ours."""

KEEP_EVERY_S = 60.0

MOST_POINTS = 200
LARGEST_ROWS = 1 << 30
LONGEST_RUN_S = 3600.0

_FACTS = ("runtime", "cores", "cpu_affinity", "intra_op_threads", "spinning", "preprocess")

logger = logging.getLogger(__name__)

Points = tuple[tuple[float, float], ...]
Measured = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a model's costs.

    Attributes:
        points: Rows and seconds of the learnt curve, ascending in rows.
        measured: Rows and seconds as the runs at load found them, when nothing else ran; ascending. Later loads compare
            their own with these: runs in service share the machine and may well take longer.
        q: The learnt upper factor (batching.md section 5.1).
        observed: What batches in service took on average, ascending in size.
        ratios: What the latest of them took, as shares of the mean, in their order.
    """

    points: Points
    measured: Measured
    q: float
    observed: tuple[Observation, ...] = ()
    ratios: tuple[float, ...] = ()


class Profiles:
    """A folder of profiles, a file for each model on each way to run it. Any thread.

    Args:
        folder: Need not exist. Files in it may be removed at any time.
        is_read_only: True to leave them as they are.
    """

    def __init__(self, folder: Path, *, is_read_only: bool = False) -> None:
        self._folder = folder
        self._is_read_only = is_read_only

    def place(self, file: ModelFile, config: ModelConfig, session: Session) -> ProfileFile | None:
        """Find where a model's profile is kept, by all that its costs depend on. Blocks: reads the whole model file.

        Returns:
            The place, whether or not there is a file; None if the model file cannot be read, which is logged.
        """
        name = f"{file.name}/{file.version}"
        try:
            with file.path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            logger.warning("model %s: no profile is kept of it, for its file cannot be read: %s", name, error.strerror)
            return None
        key = {
            "format": str(FORMAT),
            "model": digest,
            "providers": ",".join(session.providers),
            "device": config.device or "auto",
            "instances": str(config.instances),
            "pad": "" if session.pad is None else "tokens",  # what the points go by
            **{fact: str(session.facts.get(fact, "")) for fact in _FACTS},
            **({"staging": "used"} if session.facts.get("staging") == "used" else {}),
        }
        return ProfileFile(self._folder, name, key, is_read_only=self._is_read_only)


class ProfileFile:
    """The place of one profile. Any thread; blocks on the disk.

    Args:
        folder: Where it lies.
        name: The model's name and version, for the log.
        key: All that its costs depend on.
        is_read_only: True if nothing is written.
    """

    def __init__(self, folder: Path, name: str, key: Mapping[str, str], *, is_read_only: bool = False) -> None:
        self._name = name
        self._is_read_only = is_read_only
        self._key = dict(key)
        text = json.dumps(self._key, sort_keys=True)
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"

    def read(self) -> Profile | None:
        """Return what is kept; None if there is nothing, or nothing that can be used, which is logged."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            return _checked(content, self._key)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("model %s: its profile cannot be read: %s", self._name, error)
        except (ValueError, RecursionError) as error:
            logger.warning(
                "model %s: the profile %s is not used, for it is not what it should be: %.200s; it is written anew",
                *(self._name, self.path, error),
            )
        return None

    def write(self, profile: Profile) -> None:
        """Put a profile in the place of what is kept. Readers see the old one or the new one, whole.

        That it cannot be written is logged: the server does as well without.
        """
        if self._is_read_only:
            return
        value = {"key": self._key, **{one.name: getattr(profile, one.name) for one in fields(profile)}}
        try:
            write_whole(self.path, value)
        except OSError as error:
            logger.warning(
                "model %s: its profile cannot be kept: %s; set server.cache_dir to a folder that can be written, or "
                "server.profile_cache = false",
                *(self._name, error),
            )


class Keeper:
    """Keeps the profile of a model that serves: at most once a minute, and at its end. Event loop only.

    Args:
        file: Where it is kept.
        cost: What is learnt.
        measured: What was measured at load.
        observed: What batches take on average.
        now: The moment, monotonic seconds.
    """

    def __init__(self, file: ProfileFile, cost: CostModel, measured: Measured, observed: Observed, now: float) -> None:
        self._file = file
        self._observed = observed
        self._cost = cost
        self._measured = measured
        self._has_news = True
        self._due_s = now + KEEP_EVERY_S
        self._writing: asyncio.Future[None] | None = None

    def learnt(self, now: float) -> None:
        """Note that the costs have moved; write them off the loop if that was not done for a minute."""
        self._has_news = True
        if now >= self._due_s and (self._writing is None or self._writing.done()):
            self._due_s = now + KEEP_EVERY_S
            self._has_news = False
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._file.write, self._profile())

    async def close(self) -> None:
        """Write what has not been written yet."""
        if self._writing is not None:
            await self._writing
        if self._has_news and self._cost.points:
            self._has_news = False
            await asyncio.to_thread(self._file.write, self._profile())

    def _profile(self) -> Profile:
        observed = self._observed
        observations = observed.observations[-MOST_POINTS:]
        points, ratios = self._cost.points[-MOST_POINTS:], tuple(observed.ratios)
        return Profile(points, self._measured, self._cost.q, observations, ratios)


def _checked(content: bytes, key: Mapping[str, str]) -> Profile:
    """Read a file that anybody may have written.

    Raises:
        ValueError: It is not a profile for this key, with the reason.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    value = json.loads(content)
    if not isinstance(value, dict) or value.get("key") != dict(key):
        raise ValueError("it is of something else")
    q = value.get("q")
    if not _is_number(q) or not 1 <= q <= 10:
        raise ValueError("its factor q is out of range")
    measured = tuple((round(rows), seconds) for rows, seconds in _points(value.get("measured"), least=0))
    observed, ratios = _observations(value.get("observed", [])), _ratios(value.get("ratios", []))
    return Profile(_points(value.get("points"), least=1), measured, float(q), observed, ratios)


def _points(value: object, least: int) -> Points:
    if not isinstance(value, list) or not least <= len(value) <= MOST_POINTS:
        raise ValueError("its points are no list of points")
    return tuple(sorted(_point(each) for each in value))


def _observations(value: object) -> tuple[Observation, ...]:
    if not isinstance(value, list) or len(value) > MOST_POINTS:
        raise ValueError("its observations are no list of them")
    return tuple(sorted(_observation(each) for each in value))


def _observation(value: object) -> Observation:
    match value:
        case [size, run_s, way_s, int(count)] if _is_number(way_s) and 0 <= way_s <= LONGEST_RUN_S and count > 0:
            return Observation(*_point([size, run_s]), float(way_s), count)
    raise ValueError("one of its observations is out of range")


def _ratios(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) > MOST_RATIOS:
        raise ValueError("its ratios are no list of them")
    if not all(_is_number(each) and LEAST_RATIO <= each <= MOST_RATIO for each in value):
        raise ValueError("one of its ratios is out of range")
    return tuple(map(float, value))


def _point(value: object) -> tuple[float, float]:
    match value:
        case [rows, seconds] if _is_number(rows) and _is_number(seconds):
            if 1 <= rows <= LARGEST_ROWS and 0 < seconds <= LONGEST_RUN_S:
                return float(rows), float(seconds)
    raise ValueError("one of its points is out of range")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # not nan
