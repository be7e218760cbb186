"""What TensorRT's engines are built for and where they are kept; no GPU is needed to say that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import onnx_models as models

from batchserve.backends import engines
from batchserve.backends.engines import EngineFolders, cache_options, has_unknown_lengths, is_inside, model_digest
from batchserve.errors import ModelLoadError

IMAGE = {"pixels": (-1, 3, 224, 224)}
TEXT = {"input_ids": (-1, -1), "attention_mask": (-1, -1), "style": (4,)}
MACHINE = {"gpu": "H100", "driver": "580.1", "onnxruntime": "1.31.0", "tensorrt": "10.9.0"}
LEAST, USUAL, MOST = engines.PROFILE_OPTIONS


def test_rows_go_from_one_to_the_largest_batch_and_kernels_are_sought_for_the_usual_one() -> None:
    assert engines.profile(IMAGE, 32) == {
        LEAST: "pixels:1x3x224x224",
        USUAL: "pixels:32x3x224x224",
        MOST: "pixels:32x3x224x224",
    }
    assert engines.profile(IMAGE, 32, 16)[USUAL] == "pixels:16x3x224x224"
    assert engines.profile(IMAGE, 32, 64)[USUAL] == "pixels:32x3x224x224"


def test_small_batches_leave_room_for_the_runs_of_proofs() -> None:
    assert engines.profile(IMAGE, 2) == {
        LEAST: "pixels:1x3x224x224",
        USUAL: "pixels:2x3x224x224",
        MOST: "pixels:8x3x224x224",
    }


def test_model_without_a_free_axis_has_no_profile() -> None:
    assert engines.profile({"x": (8, 4)}, 0) == {}


def seen(*lengths: int) -> list[list[tuple[int, ...]]]:
    return [[(2, length), (2, length), (4,)] for length in lengths]


def test_lengths_go_from_the_shortest_seen_to_above_the_longest_and_the_median_is_the_usual() -> None:
    assert engines.profile(TEXT, 16, 0, seen(30, 12, 100, 31, 29)) == {
        LEAST: "input_ids:1x12,attention_mask:1x12",
        USUAL: "input_ids:16x30,attention_mask:16x30",
        MOST: "input_ids:16x128,attention_mask:16x128",
    }


def test_lengths_that_must_be_possible_widen_the_range_and_do_not_move_the_middle() -> None:
    options = engines.profile(TEXT, 16, 0, seen(30, 31), also=seen(3, 300))
    assert options[LEAST] == "input_ids:1x3,attention_mask:1x3"
    assert options[USUAL] == "input_ids:16x30,attention_mask:16x30"
    assert options[MOST] == "input_ids:16x512,attention_mask:16x512"


def test_first_axis_of_a_model_that_does_not_batch_is_a_length_like_any_other() -> None:
    assert has_unknown_lengths(IMAGE, 0)
    assert not has_unknown_lengths(IMAGE, 8)
    assert has_unknown_lengths(TEXT, 8)
    assert engines.profile({"x": (-1, 4)}, 0, 0, [[(5, 4)], [(9, 4)]]) == {
        LEAST: "x:5x4",
        USUAL: "x:5x4",
        MOST: "x:16x4",
    }


def test_length_that_nothing_tells_is_an_error_that_names_the_options() -> None:
    with pytest.raises(ModelLoadError, match=r"axis 1 of input 'input_ids' may have any: set trt_profile_min_shapes"):
        engines.profile(TEXT, 8)


def test_profile_is_read_back() -> None:
    options = engines.profile(TEXT, 16, 0, seen(12, 100))
    bounds = engines.profile_bounds(options, TEXT)
    assert bounds == [((1, 12), (16, 128)), ((1, 12), (16, 128)), ((4,), (4,))]

    def run(rows: int, length: int) -> list[Any]:
        return [np.zeros((rows, length)), np.zeros((rows, length)), np.zeros(4)]

    assert is_inside(run(1, 12), bounds)
    assert is_inside(run(16, 128), bounds)
    for rows, length in ((17, 20), (1, 11), (1, 129), (0, 12)):
        assert not is_inside(run(rows, length), bounds)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({MOST: ""}, "trt_profile_max_shapes has no shape for attention_mask, input_ids"),
        ({LEAST: "input_ids:1x1"}, "trt_profile_min_shapes has no shape for attention_mask"),
        ({USUAL: "input_ids:1x1,attention_mask:1x1,other:1"}, "trt_profile_opt_shapes names other"),
        ({MOST: "input_ids:1xN,attention_mask:1x1"}, "has 'input_ids:1xN' in it: expected an input and its shape"),
    ],
)
def test_profile_that_does_not_fit_the_model_is_an_error_that_says_where(changed: dict[str, str], why: str) -> None:
    options = dict.fromkeys(engines.PROFILE_OPTIONS, "input_ids:1x1,attention_mask:1x1")
    with pytest.raises(ModelLoadError, match=why):
        engines.profile_bounds({**options, **changed}, TEXT)


def test_names_of_inputs_may_have_colons_in_them() -> None:
    options = dict.fromkeys(engines.PROFILE_OPTIONS, "serving:x:0:2x3")
    assert engines.profile_bounds(options, {"serving:x:0": (-1, 3)}) == [((2, 3), (2, 3))]


def test_engines_are_kept_apart_by_all_that_they_depend_on(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path, MACHINE)
    options = engines.profile(IMAGE, 32)
    given = cache_options(folders, "digest", options)
    assert {key: given[key] for key in options} == options
    assert (given["trt_engine_cache_enable"], given["trt_timing_cache_enable"]) == ("True", "True")
    places = {given["trt_engine_cache_path"]}
    for name in MACHINE:
        other = EngineFolders(tmp_path, {**MACHINE, name: "another"})
        places.add(str(other.of("digest", options)))
        assert other.timings != folders.timings
    places |= {str(folders.of("other", options)), str(folders.of("digest", engines.profile(IMAGE, 16)))}
    places.add(str(folders.of("digest", {**options, "trt_fp16_enable": "True"})))
    assert len(places) == len(MACHINE) + 4
    assert all(Path(place).parent == tmp_path for place in places)
    assert cache_options(folders, "other", options)["trt_timing_cache_path"] == given["trt_timing_cache_path"]
    assert cache_options(folders, "digest", options) == given, "the same place at the next start"


def test_configured_cache_has_the_last_word(tmp_path: Path) -> None:
    configured = {"trt_engine_cache_path": "elsewhere", "trt_timing_cache_enable": "False"}
    given = cache_options(EngineFolders(tmp_path, MACHINE), "digest", configured)
    assert {key: given[key] for key in configured} == configured


def test_digest_is_of_the_file_and_of_weights_in_other_files(tmp_path: Path) -> None:
    plain = models.save(models.mlp(), tmp_path / "plain.onnx")
    assert model_digest(plain) == model_digest(plain)
    assert model_digest(plain) != model_digest(plain, "prepared otherwise")
    path = tmp_path / "net.onnx"
    onnx.save_model(models.mlp(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = model_digest(path)
    with (tmp_path / "weights.bin").open("ab") as file:
        file.write(b"x")
    assert model_digest(path) != before
    (tmp_path / "weights.bin").unlink()
    assert model_digest(path) != before
