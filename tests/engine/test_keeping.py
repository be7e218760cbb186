"""A model that serves keeps what it learns: at its end, and once a minute before."""

from __future__ import annotations

import time
from pathlib import Path

from support.core_requests import make_request

from batchserve.backends.base import ModelFile
from batchserve.backends.fake import FakeBackend
from batchserve.config import ModelConfig
from batchserve.core.cost import CostModel
from batchserve.engine.loading import load_model
from batchserve.engine.model import Model
from batchserve.engine.observed import Observation, Observed
from batchserve.engine.profiles import KEEP_EVERY_S, Keeper, Profile, ProfileFile, Profiles


async def load(folder: Path, profiles: Profiles | None, budget_s: float = 5.0) -> Model:
    file = folder / "m.onnx"
    file.write_bytes(b"a model")
    config = ModelConfig(max_batch_size=4, warmup_budget_s=budget_s)
    return await load_model(ModelFile("m", 1, file), config, FakeBackend(), executor=None, profiles=profiles)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def end(model: Model) -> None:
    model.start_drain(1.0)
    await model.drained()
    await model.close()


async def test_what_a_model_learnt_is_there_when_it_is_loaded_again(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path / "kept")
    first = await load(tmp_path, profiles)
    await first.infer(make_request(2, arrival_s=time.monotonic()))
    await end(first)
    place = profiles.place(ModelFile("m", 1, tmp_path / "m.onnx"), ModelConfig(max_batch_size=4), first.session)
    assert place is not None
    profile = place.read()
    assert profile is not None
    assert (profile.measured, profile.points) == (first.curve, first._policy.cost.points)
    assert [rows for rows, _ in profile.points] == [1, 2, 3, 4]
    assert profile.observed == ()  # its one run was its first, and so short that it is done in place
    observed = (Observation(8.0, 0.5, 0.25, 7),)
    place.write(Profile(((1.0, 0.5), (4.0, 0.75)), ((1, 0.4),), 1.5, observed, (0.5, 2.0)))
    second = await load(tmp_path, profiles, budget_s=0.0)  # no runs, no check: what is kept is what is known
    cost = second._policy.cost
    assert (first.is_known, second.is_known, second.curve) == (False, True, ((1, 0.4),))
    assert (cost.points, cost.q) == (((1.0, 0.5), (4.0, 0.75)), 1.5)
    assert (second.observed.observations, tuple(second.observed.ratios)) == (observed, (0.5, 2.0))
    await end(second)


async def test_without_a_place_nothing_is_kept(tmp_path: Path) -> None:
    await end(await load(tmp_path, None))
    assert names(tmp_path) == ["m.onnx"]


class Counting(ProfileFile):
    """Counts what is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "m/1", {})
        self.written: list[Profile] = []

    def write(self, profile: Profile) -> None:
        self.written.append(profile)


async def test_profile_is_written_once_a_minute_at_most_and_its_last_news_at_the_end(tmp_path: Path) -> None:
    file, cost = Counting(tmp_path), CostModel([(1, 0.001)], 1.0)
    keeper = Keeper(file, cost, ((1, 0.001),), Observed(), now=100.0)
    for offset_s in (0.0, 1.0, KEEP_EVERY_S - 0.1):
        keeper.learnt(100.0 + offset_s)
    assert file.written == []
    cost.observe(2, 0.002)
    keeper.learnt(100.0 + KEEP_EVERY_S)
    keeper.learnt(100.0 + KEEP_EVERY_S + 1)
    await keeper.close()
    assert [len(profile.points) for profile in file.written] == [2, 2]
    await keeper.close()
    assert len(file.written) == 2


async def test_model_of_which_nothing_is_known_leaves_no_profile(tmp_path: Path) -> None:
    file = Counting(tmp_path)
    await Keeper(file, CostModel((), 1.0), (), Observed(), now=0.0).close()
    assert file.written == []
