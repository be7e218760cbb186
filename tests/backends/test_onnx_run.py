"""Running models: arrays in, arrays out, errors, threads, closing."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from support import onnx_models as models

from batchserve.backends.onnx_session import OnnxSession
from batchserve.core.tensors import DATATYPES
from batchserve.errors import BackendError, OutOfMemory


def test_outputs_come_in_the_models_order_for_every_mask(load):
    session = load(models.several_tensors())
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array([[1, 2], [3, 4]])
    expected = [a.sum(axis=1, keepdims=True), b * 2, a]
    for mask in (*range(1, 8), *range(1, 8)):  # twice: the second time by remembered names
        outputs = session.run([a, b], mask)
        wanted = [expected[i] for i in range(3) if mask >> i & 1]
        assert len(outputs) == len(wanted)
        for output, want in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(output, want)


def test_outputs_are_the_callers_own_and_inputs_are_left_alone(load):
    session = load(models.identity())
    rows = np.arange(8).reshape(2, 4)
    rows.flags.writeable = False
    (first,) = session.run([rows], 1)
    first[:] = -1
    (second,) = session.run([rows], 1)
    np.testing.assert_array_equal(second, np.arange(8).reshape(2, 4))


@pytest.mark.parametrize("name", [name for name in DATATYPES if name != "BYTES"])
def test_every_number_type_passes_unchanged(load, name):
    datatype = DATATYPES[name]
    element = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}.get(name, name)
    session = load(models.identity(TensorProto.DataType.Value(element)))
    assert session.inputs[0].datatype is datatype
    assert session.outputs[0].datatype is datatype
    assert session.batchability.is_batchable, session.batchability.why
    rows = np.array([[0, 1, 1, 0], [1, 0, 1, 1]], dtype=datatype.dtype)
    (output,) = session.run([rows], 1)
    assert output.dtype == datatype.dtype
    np.testing.assert_array_equal(output, rows)


def test_strings_are_str_in_and_out(load):
    class Word(str):
        __slots__ = ()

    session = load(models.string_suffix("!"))
    rows = np.array([["a", ""], ["naïve 漢字", Word("sub")]], dtype=object)
    (output,) = session.run([rows], 1)
    assert output.dtype == object
    assert output.tolist() == [["a!", "!"], ["naïve 漢字!", "sub!"]]
    assert {type(word) for word in output.ravel()} == {str}


def test_scalars_are_arrays_without_axes(load):
    session = load(models.scalars())
    assert [spec.shape for spec in (*session.inputs, *session.outputs)] == [(), (), ()]
    (output,) = session.run([np.array(1.5, np.float32), np.array(2, np.float32)], 1)
    assert isinstance(output, np.ndarray)
    assert output.shape == ()
    assert output == 3.5


def test_string_scalar_passes(load):
    session = load(models.one_op("Identity", element=TensorProto.STRING, shape=(), out=()))
    word = np.array("word", dtype=object)
    (output,) = session.run([word], 1)
    assert output.shape == ()
    assert output[()] == "word"


def test_zero_rows_run(load):
    (output,) = load(models.mlp()).run([np.empty((0, 16), np.float32)], 1)
    assert output.shape == (0, 4)


def test_failing_row_raises_and_the_session_stays_usable(load):
    session = load(models.lookup(10))
    with pytest.raises(BackendError, match=r"Gather.*out of data bounds"):
        session.run([np.array([[1], [99]])], 1)
    (output,) = session.run([np.array([[7]])], 1)
    np.testing.assert_array_equal(output, np.full((1, 4), 7, np.float32))


def test_error_text_holds_no_path(load, tmp_path: Path):
    session = load(models.baked_batch(hidden=True))
    with pytest.raises(BackendError) as caught:
        session.run([np.ones((3, 4), np.float32)], 1)
    text = str(caught.value)
    assert "Reshape" in text
    assert str(tmp_path) not in text
    assert "onnxruntime" not in text
    assert "/" not in text


def test_failing_runs_print_nothing(load, capfd):
    session = load(models.lookup(10))
    with pytest.raises(BackendError):
        session.run([np.array([[99]])], 1)
    assert capfd.readouterr() == ("", "")


def test_wrong_dtype_is_an_error_not_a_crash(load):
    with pytest.raises(BackendError, match="int32"):
        load(models.identity()).run([np.ones((1, 4), np.int32)], 1)


def test_many_threads_share_one_session(load):
    session = load(models.identity(width=8), instances=2)
    start = threading.Barrier(4)

    def work(worker: int) -> bool:
        start.wait(10)
        for i in range(100):
            rows = np.full((1 + i % 5, 8), worker * 1000 + i)
            (output,) = session.run([rows], 1)
            if not np.array_equal(output, rows):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_close_frees_the_runtimes_session(load):
    session = load(models.mlp())
    held = weakref.ref(session._session)
    session.close()
    gc.collect()
    assert held() is None
    with pytest.raises(BackendError, match="closed"):
        session.run([np.ones((1, 16), np.float32)], 1)


def test_facts_say_how_it_runs(load):
    import onnxruntime

    session = load(models.mlp(), intra_op_threads=1, spinning="short")
    facts = session.facts
    assert facts["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert facts["intra_op_threads"] == "1"
    assert facts["spinning"] == "short"
    assert int(facts["cores"]) >= 1
    assert float(facts["session_load_s"]) >= 0
    assert facts["producer"] == "batchserve-tests"
    assert all(isinstance(value, str) for value in facts.values())
    assert session.providers == ("CPUExecutionProvider",)


def test_samples_are_random_repeatable_and_accepted(load):
    session = load(models.masked_mean())
    for rows in (1, 2, 7):
        ids, mask = session.sample(rows)
        assert ids.shape == mask.shape
        assert ids.shape[0] == rows
        assert ids.dtype == np.int64
        np.testing.assert_array_equal(ids, session.sample(rows)[0])
        assert session.run([ids, mask], 1)[0].shape == (rows, 3)
    assert len(np.unique(session.sample(50)[0])) == 2


def test_sample_keeps_the_length_that_the_model_needs(load):
    session = load(models.fixed_length_inside(64))
    assert session.sample(3)[0].shape == (3, 64)
    assert session.batchability.is_batchable


def test_sample_of_a_model_without_batch_axis_is_one_whole_run(load):
    session = load(models.fixed_batch(2))
    (rows,) = session.sample(5)
    assert rows.shape == (2, 4)
    session.run([rows], 1)


def test_sample_says_when_no_inputs_are_known(load):
    session = load(models.picky_lookup(5, 9))
    with pytest.raises(BackendError, match=r"no inputs are known.*Gather"):
        session.sample(1)
    (output,) = session.run([np.array([[7]])], 1)  # its users know what it takes
    assert output[0, 0] == 7


def test_run_without_memory_is_told_apart_and_the_session_goes_on(load):
    session = load(models.hungry(most_rows=3))
    assert session.batchability.is_batchable
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        session.run([np.ones((4, 1), np.float32)], 1)
    np.testing.assert_array_equal(session.run([np.full((3, 1), 7, np.float32)], 1)[0], np.full((3, 1), 7))


def test_run_that_is_interrupted_ends_alone_and_its_thread_runs_on(load):
    """Two runs that would take years: one is ended, then the other, and both threads go on with short ones."""
    session = load(models.counting())
    ends, go_on = {}, threading.Event()

    def run(name: str) -> None:
        try:
            session.run([np.array([1 << 60])], 1)
        except BackendError as error:
            ends[name] = str(error)
        go_on.wait(20)
        ends[f"{name} again"] = int(session.run([np.array([5])], 1)[0][0])

    threads = {name: threading.Thread(target=run, args=(name,), daemon=True) for name in "ab"}
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        assert name not in ends
        while name not in ends:
            assert thread.is_alive()
            session.interrupt(thread.ident)  # before the run has begun it does nothing
            thread.join(0.01)
        assert "terminate" in ends[name]
    go_on.set()
    for thread in threads.values():
        thread.join(20)
    assert (ends["a again"], ends["b again"]) == (5, 5)


def test_interrupting_a_thread_without_a_run_changes_nothing(load):
    session = load(models.identity())
    session.interrupt(threading.get_ident())
    session.run([np.zeros((1, 4), np.int64)], 1)
    session.interrupt(threading.get_ident())
    assert session.run([np.ones((1, 4), np.int64)], 1)[0].sum() == 4


def test_memory_is_asked_back_after_a_run_far_larger_than_those_of_late(load, monkeypatch: pytest.MonkeyPatch):
    """The arena would keep what the largest run ever took; runs of usual size go without the cost of shrinking."""
    session = load(models.identity(width=8))
    real, asked = session._session, []

    class Recorder:
        def run(self, names: list[str], feed: dict[str, np.ndarray], options: onnxruntime.RunOptions) -> object:
            try:
                asked.append(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
            except Exception:  # noqa: BLE001  # the runtime's way to say that it is not set
                asked.append(None)
            return real.run(names, feed, options)

    monkeypatch.setattr(session, "_session", Recorder())
    session._usual_bytes = 0.0
    for rows in (4, 8, 3, 17, 17, 35, 1, 40):
        session.run([np.zeros((rows, 8), np.int64)], 1)
    assert asked == [None, None, None, "cpu:0", None, "cpu:0", None, None]
    for _ in range(3000):
        session.run([np.zeros((1, 8), np.int64)], 1)
    session.run([np.zeros((40, 8), np.int64)], 1)
    assert asked[-1] == "cpu:0", "40 rows were usual once"


@pytest.mark.parametrize(
    ("first", "number", "arenas"),
    [
        ("CPUExecutionProvider", 0, "cpu:0"),
        ("CUDAExecutionProvider", 0, "cpu:0;gpu:0"),
        ("CUDAExecutionProvider", 1, "cpu:0;gpu:1"),
    ],
)
def test_memory_is_asked_back_of_the_device_that_the_session_runs_on(load, first: str, number: int, arenas: str):
    """The runtime fails a run that names an arena of another device."""
    plain = load(models.identity(width=8))
    asked: list[str] = []

    class OnDevice:
        def get_providers(self) -> list[str]:
            return [first]

        def run(self, names: list[str], feed: dict[str, np.ndarray], options: onnxruntime.RunOptions) -> list[object]:
            with contextlib.suppress(Exception):  # the runtime's way to say that it is not set
                asked.append(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
            return list(feed.values())

    opened = replace(plain._opened, session=OnDevice(), device_number=number)
    session = OnnxSession(
        opened, plain._config, plain._graph_inputs, plain._graph_outputs, plain.facts, plain._findings
    )
    for rows in (1, 9):
        session.run([np.zeros((rows, 8), np.int64)], 1)
    assert asked == [arenas]
