"""Provider names: short, full, auto, unknown, missing."""

from __future__ import annotations

import pytest

from batchserve.backends.providers import (
    CPU,
    CUDA,
    SHORT_NAMES,
    TENSORRT,
    automatic,
    check_in_use,
    check_options,
    cuda_devices,
    device_for,
    on_device,
    options,
    resolve,
)
from batchserve.errors import ModelLoadError

PLAIN = ["AzureExecutionProvider", CPU]
OPENVINO, DNNL = SHORT_NAMES["openvino"], SHORT_NAMES["dnnl"]
GPU = [TENSORRT, CUDA, CPU]


@pytest.mark.parametrize(
    ("asked", "available", "device", "wanted"),
    [
        (("auto",), PLAIN, True, (CPU,)),
        (("auto",), GPU, False, (CPU,)),
        (("auto",), GPU, True, (CUDA, CPU)),
        ((), GPU, True, (CUDA, CPU)),
        (("auto",), [OPENVINO, CPU], False, (OPENVINO, CPU)),
        (("auto",), [DNNL, CUDA, CPU], False, (DNNL, CPU)),
        (("auto",), [OPENVINO, CUDA, CPU], True, (CUDA, CPU)),
        (("cpu",), GPU, True, (CPU,)),
        (("tensorrt", "auto"), GPU, True, (TENSORRT, CUDA, CPU)),
        (("cuda", "cuda", "cpu"), GPU, True, (CUDA, CPU)),
        (("AzureExecutionProvider",), PLAIN, False, ("AzureExecutionProvider",)),
    ],
)
def test_names_become_the_runtimes(asked: tuple[str, ...], available: list[str], device: bool, wanted: tuple[str, ...]):
    assert resolve(asked, available, lambda: device) == wanted


@pytest.mark.parametrize(
    ("available", "has_device", "has_tensorrt", "tried"),
    [
        (PLAIN, True, True, ()),
        ([OPENVINO, CPU], False, False, (OPENVINO, CPU)),
        ([DNNL, CPU], False, False, (DNNL, CPU)),
        ([CUDA, CPU], True, True, ()),
        (GPU, True, False, ()),
        (GPU, True, True, (TENSORRT, "auto")),
        (GPU, False, True, ()),
    ],
)
def test_auto_tries_beside_the_serving(
    available: list[str], has_device: bool, has_tensorrt: bool, tried: tuple[str, ...]
):
    assert automatic(available, lambda: has_device, lambda: has_tensorrt) == tried


def test_the_driver_is_asked_only_for_auto_with_cuda_compiled_in():
    def never() -> bool:
        raise AssertionError("asked")

    assert resolve(("auto",), PLAIN, never) == (CPU,)
    assert resolve(("cuda",), GPU, never) == (CUDA,)


@pytest.mark.parametrize("name", ["cuda", CUDA, "tensorrt"])
def test_nvidia_provider_that_is_missing_names_the_extra(name: str):
    with pytest.raises(ModelLoadError) as caught:
        resolve((name,), PLAIN)
    text = str(caught.value)
    assert repr(name) in text
    assert CPU in text
    assert "batchserve[gpu]" in text


@pytest.mark.parametrize("name", ["openvino", "DnnlExecutionProvider", "BrandNewExecutionProvider"])
def test_other_provider_that_is_missing_says_what_is_there(name: str):
    with pytest.raises(
        ModelLoadError, match=r"which has AzureExecutionProvider, CPUExecutionProvider: install an ONNX"
    ):
        resolve((name,), PLAIN)


@pytest.mark.parametrize(
    ("word", "near"), [("cudda", "cuda"), ("CPU", "cpu"), ("tensor_rt", "tensorrt"), ("Auto", "auto")]
)
def test_misspelt_name_gets_the_nearest(word: str, near: str):
    with pytest.raises(ModelLoadError, match=rf"unknown provider '{word}': did you mean '{near}'\? expected auto, cpu"):
        resolve((word,), PLAIN)


def test_provider_asked_for_by_name_must_be_in_use():
    check_in_use(("cuda",), (CUDA,), [CUDA, CPU])
    check_in_use(("auto",), (CUDA, CPU), [CPU])
    for asked in (("cuda",), (CUDA,), ("auto", "cuda")):
        with pytest.raises(ModelLoadError, match=r"CUDAExecutionProvider could not be started.*cuDNN"):
            check_in_use(asked, (CUDA, CPU), [CPU])


def test_short_names_are_distinct():
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)


def test_cuda_does_not_search_algorithms_for_every_batch_size():
    assert options(CUDA, is_dynamic=True) == {"cudnn_conv_algo_search": "HEURISTIC"}
    assert options(CUDA, is_dynamic=False) == {}
    assert options(CPU, is_dynamic=True) == {}


def test_a_numbered_device_is_told_to_the_providers_that_have_several():
    assert options(CUDA, is_dynamic=True, device_number=2) == {
        "device_id": "2",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    assert options(TENSORRT, is_dynamic=True, device_number=1) == {"device_id": "1"}
    assert options(CPU, is_dynamic=True, device_number=1) == {}


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [
        (("auto",), None, (("auto",), 0)),
        (("auto",), "cpu", (("cpu",), 0)),
        ((), "cuda:1", (("cuda",), 1)),
        (("cuda", "cpu"), "cuda:3", (("cuda", "cpu"), 3)),
        (("tensorrt", "cuda"), "cuda:1", (("tensorrt", "cuda"), 1)),
        ((CPU,), "cpu", ((CPU,), 0)),
    ],
)
def test_device_chooses_the_provider_and_its_number(
    asked: tuple[str, ...], device: str | None, wanted: tuple[tuple[str, ...], int]
):
    assert on_device(asked, device) == wanted


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        (("auto",), "cudda", "device = 'cudda' is of no known kind: did you mean 'cuda'?"),
        (("auto",), "xyz", "expected a device such as cuda:1"),
        (("auto",), "cpu:1", "write 'cpu'"),
        (("cpu",), "cuda:1", r"providers = ['cpu'] does not run on device = 'cuda:1': expected 'cuda' first"),
        (("auto", "cpu"), "cuda", "does not run on device = 'cuda'"),
    ],
)
def test_device_that_cannot_be_used_says_what_can(asked: tuple[str, ...], device: str, words: str):
    with pytest.raises(ModelLoadError) as caught:
        on_device(asked, device)
    assert words in str(caught.value)


def test_device_goes_along_to_providers_that_run_on_it():
    assert device_for(("cuda", "cpu"), "cuda:1") == "cuda:1"
    assert device_for(("cpu",), "cuda:1") is None
    assert device_for(("cpu",), None) is None


def test_counting_devices_never_fails():
    assert cuda_devices() >= 0


def test_no_driver_means_no_devices(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr("batchserve.backends.providers.ctypes.CDLL", missing)
    assert cuda_devices() == 0


def test_configured_options_reach_their_provider_and_have_the_last_word():
    configured = {"cuda": {"cudnn_conv_algo_search": "DEFAULT", "gpu_mem_limit": "1024"}, TENSORRT: {"x": "y"}}
    assert options(CUDA, is_dynamic=True, configured=configured) == configured["cuda"]
    assert options(TENSORRT, is_dynamic=True, configured=configured) == {"x": "y"}
    assert options(CPU, is_dynamic=True, configured=configured) == {}


@pytest.mark.parametrize(
    ("configured", "wanted", "said"),
    [
        (
            {"cuda": {"device_id": "1"}},
            (CPU,),
            r"'cuda', but the model runs on CPU.*: name the provider",
        ),
        ({"cud": {}}, (CUDA,), r"'cud', but .* did you mean 'cuda'\?"),
        ({"cuda": {"enable_cuda_graph": "1"}}, (CUDA, CPU), "needs fixed shapes and addresses: set cuda_graphs = true"),
    ],
)
def test_options_that_reach_nobody_or_cannot_work_are_refused(
    configured: dict[str, dict[str, str]], wanted: tuple[str, ...], said: str
):
    with pytest.raises(ModelLoadError, match=said):
        check_options(configured, wanted)
    check_options({"cuda": {"enable_cuda_graph": "0"}}, (CUDA, CPU))
