"""Which place wins, where a value came from, and what `model.toml` and `config.pbtxt` add."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from batchserve.config import (
    DeclaredTensor,
    ModelConfig,
    PadConfig,
    PreprocessConfig,
    ServerConfig,
    Settings,
    show_padding,
    show_preprocessing,
)
from batchserve.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "digits"


def test_nothing_given_is_the_built_in_configuration() -> None:
    settings = Settings.load()
    assert settings.server == ServerConfig()
    assert settings.model("digits") == ModelConfig()
    assert {entry.origin for entry in settings.server_entries.values()} == {"built-in"}


def test_server_flag_wins_over_variable_over_file(tmp_path: Path) -> None:
    file = write(tmp_path / "batchserve.toml", '[server]\nport = 1\nhost = "a"\nmax_body_size = "1MiB"\nadmin = true\n')
    environ = {"BATCHSERVE_SERVER__PORT": "2", "BATCHSERVE_SERVER__HOST": "b", "BATCHSERVE_SERVER__LOG_LEVEL": "debug"}
    settings = Settings.load(file, ["server.max_connections=7"], environ, {"server.port": "3"})
    server = settings.server
    assert (server.port, server.host, server.max_body_size_bytes, server.admin) == (3, "b", 1 << 20, True)
    assert (server.log_level, server.max_connections) == ("debug", 7)
    origins = {
        name: settings.server_entries[name].origin for name in ("port", "host", "max_body_size", "max_connections")
    }
    assert origins == {
        "port": "--port",
        "host": "BATCHSERVE_SERVER__HOST",
        "max_body_size": f"{file}:server.max_body_size",
        "max_connections": "--set server.max_connections",
    }


PLACES = ["set", "variable", "file", "model.toml", "config.pbtxt", "defaults", "built-in"]


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_model_value_comes_from_the_first_place_that_has_it(first: int, tmp_path: Path, folder: Path) -> None:
    """Each place says another `max_batch_size`; those before `first` say nothing."""
    present = PLACES[first:]
    file_text = ""
    if "file" in present:
        file_text += "[models.digits]\nmax_batch_size = 3\n"
    if "defaults" in present:
        file_text += "[defaults]\nmax_batch_size = 6\n"
    if "model.toml" in present:
        write(folder / "model.toml", "max_batch_size = 4\n")
    if "config.pbtxt" in present:
        write(folder / "config.pbtxt", "max_batch_size: 5\n")
    sets = ["models.digits.max_batch_size=1"] if "set" in present else []
    environ = {"BATCHSERVE_MODELS__DIGITS__MAX_BATCH_SIZE": "2"} if "variable" in present else {}
    file = write(tmp_path / "b.toml", file_text)
    resolved = Settings.load(file, sets, environ).resolve("digits", folder)
    expected: list[tuple[int | None, str]] = [
        (1, "--set models.digits.max_batch_size"),
        (2, "BATCHSERVE_MODELS__DIGITS__MAX_BATCH_SIZE"),
        (3, f"{file}:models.digits.max_batch_size"),
        (4, f"{folder / 'model.toml'}:max_batch_size"),
        (5, f"{folder / 'config.pbtxt'}:1:1"),
        (6, f"{file}:defaults.max_batch_size"),
        (None, "built-in"),
    ]
    assert (resolved.config.max_batch_size, resolved.entries["max_batch_size"].origin) == expected[first]


def test_defaults_may_come_from_flag_and_variable_and_stay_below_the_models_own(tmp_path: Path, folder: Path) -> None:
    write(folder / "model.toml", 'timeout = "4s"\n')
    settings = Settings.load(
        write(tmp_path / "b.toml", '[defaults]\ninstances = 2\ntimeout = "1s"\npriority_levels = 5\n'),
        ["defaults.timeout=2s", "defaults.instances=3"],
        {"BATCHSERVE_DEFAULTS__INSTANCES": "4", "BATCHSERVE_DEFAULTS__SPINNING": "short"},
    )
    own, other = settings.model("digits", folder), settings.model("other")
    assert (own.timeout_s, other.timeout_s) == (4.0, 2.0)
    assert (own.instances, own.spinning, own.priority_levels) == (3, "short", 5)


def test_last_set_of_a_key_counts() -> None:
    assert Settings.load(sets=["server.port=1", "server.port=2"]).server.port == 2


def test_values_of_models_are_for_that_model_only() -> None:
    settings = Settings.load(sets=["models.a.instances=2"], environ={"BATCHSERVE_MODELS__B__INSTANCES": "3"})
    assert [settings.model(name).instances for name in "abc"] == [2, 3, None]


def test_auto_in_a_stronger_place_undoes_a_weaker_value(folder: Path) -> None:
    write(folder / "config.pbtxt", "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 500 }")
    settings = Settings.load(sets=["models.digits.max_batch_size=auto", "models.digits.max_queue_delay=auto"])
    config = settings.model("digits", folder)
    assert (config.max_batch_size, config.max_queue_delay_s) == (None, None)


@pytest.mark.parametrize(
    ("written", "name"),
    [('models."a.b".instances=2', "a.b"), ("models.'a.b'.instances=2", "a.b"), ('models."q\\"=".instances=2', 'q"=')],
)
def test_set_takes_quoted_model_names(written: str, name: str) -> None:
    assert Settings.load(sets=[written]).model(name).instances == 2


def test_value_of_set_may_hold_an_equals_sign() -> None:
    assert Settings.load(sets=["server.host=a=b"]).server.host == "a=b"


@pytest.mark.parametrize("name", ["my-model", "my.model", "MY_MODEL", "my model"])
def test_variable_names_a_model_in_upper_case_with_underscores(name: str) -> None:
    settings = Settings.load(environ={"BATCHSERVE_MODELS__MY_MODEL__TIMEOUT": "2s"})
    settings.check_model_names([name, "other"])
    assert settings.model(name).timeout_s == 2.0


def test_variable_splits_the_key_off_at_its_last_double_underscore() -> None:
    settings = Settings.load(environ={"BATCHSERVE_MODELS__A__B__MAX_BATCH_SIZE": "3"})
    settings.check_model_names(["a__b"])
    assert settings.model("a__b").max_batch_size == 3


def test_variable_that_could_mean_two_models_is_refused() -> None:
    settings = Settings.load(environ={"BATCHSERVE_MODELS__A_B__TIMEOUT": "2s"})
    with pytest.raises(ConfigError, match=r"BATCHSERVE_MODELS__A_B__TIMEOUT: may mean any of .*'a-b', 'a\.b'"):
        settings.check_model_names(["a-b", "a.b"])


def test_empty_variable_and_foreign_variables_count_as_not_set() -> None:
    """Kubernetes makes BATCHSERVE_PORT and BATCHSERVE_SERVICE_HOST for a service of that name."""
    environ = {
        "BATCHSERVE_SERVER__PORT": "",
        "BATCHSERVE_PORT": "tcp://10.0.0.1:8000",
        "BATCHSERVE_SERVICE_HOST": "10.0.0.1",
        "HOME": "/",
    }
    settings = Settings.load(environ=environ)
    assert settings.server == ServerConfig()
    assert settings.warnings == ()


def test_single_underscore_before_a_key_is_warned_of() -> None:
    (warning,) = Settings.load(environ={"BATCHSERVE_SERVER_PORT": "9"}).warnings
    assert "BATCHSERVE_SERVER_PORT is ignored" in warning
    assert "BATCHSERVE_SERVER__PORT" in warning


@pytest.mark.parametrize(
    ("place", "kwargs"),
    [
        ("[models.digit]", {}),
        ("--set models.digit.timeout=2s", {"sets": ["models.digit.timeout=2s"]}),
        ("BATCHSERVE_MODELS__DIGIT__TIMEOUT", {"environ": {"BATCHSERVE_MODELS__DIGIT__TIMEOUT": "2s"}}),
    ],
)
def test_settings_for_a_model_that_is_not_served_name_the_nearest(
    place: str, kwargs: dict[str, object], tmp_path: Path
) -> None:
    file = None if kwargs else write(tmp_path / "b.toml", '[models.digit]\ntimeout = "2s"\n')
    settings = Settings.load(file, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        settings.check_model_names(["digits", "language"])
    assert place in str(caught.value)
    assert "did you mean 'digits'? served are 'digits', 'language'" in str(caught.value)


def test_models_drain_no_longer_than_the_server() -> None:
    settings = Settings.load(
        sets=["server.drain_timeout=10s", "models.short.drain_timeout=5s", "models.long.drain_timeout=1m"]
    )
    assert [settings.model(name).drain_timeout_s for name in ("short", "long", "plain")] == [5.0, 10.0, 10.0]
    origin = settings.resolve("long").entries["drain_timeout"].origin
    assert "server.drain_timeout" in origin
    assert "--set models.long.drain_timeout" in origin


def test_models_own_files_are_read_again_for_each_load(folder: Path) -> None:
    settings = Settings.load()
    write(folder / "model.toml", "instances = 2\n")
    assert settings.model("digits", folder).instances == 2
    write(folder / "model.toml", "instances = 3\n")
    assert settings.model("digits", folder).instances == 3


def test_pbtxt_declares_tensors_and_its_unused_fields_make_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        folder / "config.pbtxt",
        """
        name: "digits" platform: "onnxruntime_onnx" max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [ 64 ] }
        output [ { name: "p" } ]
        instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0 ] } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] preserve_ordering: true }
        """,
    )
    with caplog.at_level(logging.WARNING, logger="batchserve.config"):
        config = Settings.load().model("digits", folder)
    assert config.inputs == (DeclaredTensor("x", "TYPE_FP32", (64,), leaves_out_batch=True),)
    assert config.inputs[0].shape == (-1, 64)
    assert config.outputs == (DeclaredTensor("p", leaves_out_batch=True),)
    assert (config.max_batch_size, config.instances, config.preferred_batch_sizes) == (8, 3, (4, 8))
    (record,) = caplog.records
    for name in ("instance_group.kind", "instance_group.gpus", "dynamic_batching.preserve_ordering"):
        assert name in record.getMessage()


@pytest.mark.parametrize(
    ("written", "field", "value"),
    [
        ("latency_target=none", "latency_target_s", None),
        ("latency_target=50ms", "latency_target_s", 0.05),
        ("shed=off", "shed", False),
        ("shed=auto", "shed", None),
        ("weight=2.5", "weight", 2.5),
        ("weight=3", "weight", 3.0),
        ("preferred_batch_sizes=8,4", "preferred_batch_sizes", (4, 8)),
        ("preferred_batch_sizes=[4, 8]", "preferred_batch_sizes", (4, 8)),
        ("preferred_batch_sizes=none", "preferred_batch_sizes", ()),
        ("preferred_batch_sizes=[]", "preferred_batch_sizes", ()),
        ("device=cuda", "device", "cuda:0"),
        ("device=cpu:0", "device", "cpu"),
        ("device=cuda:1", "device", "cuda:1"),
        ("device=auto", "device", None),
        ("device=cuda, cuda:1", "device", "cuda:0,cuda:1"),
        ('device=["cuda:1", "cpu"]', "device", "cuda:1,cpu"),
        ("device_slots=4", "device_slots", 4),
        ("run_timeout=5s", "run_timeout_s", 5.0),
        ("client_weights=b=2,a=0.5", "client_weights", (("a", 0.5), ("b", 2.0))),
        ("client_weights={}", "client_weights", ()),
        ("fair_clients=on", "fair_clients", True),
    ],
)
def test_values_of_the_scheduler_are_read_from_text(written: str, field: str, value: object) -> None:
    """Each replaces another value, which stands in a weaker place."""
    weaker = ["latency_target=1s", "shed=true", "weight=9", "preferred_batch_sizes=2", "device=cpu", "device_slots=9"]
    settings = Settings.load(
        sets=[f"models.a.{written}", *(f"defaults.{each}" for each in (*weaker, "run_timeout=9s"))]
    )
    assert getattr(settings.model("a"), field) == value


def test_largest_version_survives_being_written_as_text() -> None:
    """19 digits: a number was taken that its own written form was not."""
    assert Settings.load(sets=[f"models.a.version_policy={10**18}"]).model("a").version_policy == str(10**18)


PAD_TABLE = """
[models.a.pad]
axes = ["ids", "mask"]
mask = "mask"
outputs = {states = 1, weights = [2, 3]}
values = {ids = 7}
"""


def test_pad_is_a_table_of_its_own_in_the_file(tmp_path: Path) -> None:
    """Names alone mean the axis behind the batch."""
    (tmp_path / "batchserve.toml").write_text(PAD_TABLE)
    pad = Settings.load(tmp_path / "batchserve.toml").model("a").pad
    assert pad == PadConfig(
        axes={"ids": (1,), "mask": (1,)},
        mask="mask",
        outputs={"states": (1,), "weights": (2, 3)},
        multiple=8,
        values={"ids": 7},
    )


@pytest.mark.parametrize(
    "sets",
    [
        ["models.a.pad={axes = ['ids', 'mask'], mask = 'mask', multiple = 4}"],
        ["defaults.pad={axes = {ids = 1, mask = 1}, mask = 'mask', multiple = 4}", "models.a.max_batch_tokens=none"],
    ],
)
def test_pad_is_an_inline_table_as_text(sets: list[str]) -> None:
    config = Settings.load(sets=sets).model("a")
    assert config.pad == PadConfig({"ids": (1,), "mask": (1,)}, "mask", multiple=4)
    assert config.max_batch_tokens is None


def test_pad_of_a_weaker_place_is_taken_away_by_none() -> None:
    sets = ["defaults.pad={axes = 'ids', mask = 'ids'}", "models.a.pad=none"]
    assert Settings.load(sets=sets).model("a").pad is None


def test_shown_pad_is_read_back_with_names_that_need_quotes() -> None:
    pad = PadConfig({"the ids": (1, 2)}, "mask 1", {'"y"': (1,)}, 1, {"the ids": True})
    shown = show_padding(pad)
    assert shown == (
        '{axes = {"the ids" = [1, 2]}, mask = "mask 1", outputs = {"\\"y\\"" = 1}, multiple = 1, '
        'values = {"the ids" = true}}'
    )
    assert Settings.load(sets=[f"models.a.pad={shown}"]).model("a").pad == pad


@pytest.mark.parametrize(
    ("sets", "part"),
    [
        (["models.a.max_batch_tokens=9"], "9 (from --set models.a.max_batch_tokens) limits nothing"),
        (
            ["models.a.pad={axes = 'ids', mask = 'ids'}", "models.a.max_batch_size=1"],
            "joins nothing with max_batch_size",
        ),
    ],
)
def test_pad_that_can_do_nothing_is_warned_of(sets: list[str], part: str) -> None:
    (warning,) = Settings.load(sets=sets).resolve("a").warnings
    assert part in warning


def test_preprocess_is_a_table_of_its_own_in_the_file(tmp_path: Path) -> None:
    """One number may stand where there could be one for each channel."""
    (tmp_path / "batchserve.toml").write_text(
        '[models.a.preprocess]\nscale = 0.5\nmean = [1, 2.5]\nstd = 2\nresize = "linear"\n'
    )
    found = Settings.load(tmp_path / "batchserve.toml").model("a").preprocess
    assert found == PreprocessConfig(scale=0.5, mean=(1.0, 2.5), std=(2.0,), resize="linear")


def test_preprocess_in_a_models_own_folder(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('preprocess = {input = "pixels", layout = "NCHW"}\n')
    found = Settings.load().model("a", tmp_path).preprocess
    assert found == PreprocessConfig(input="pixels", layout="NCHW")


@pytest.mark.parametrize(
    "given", [PreprocessConfig(), PreprocessConfig('"x"', "NHWC", 1 / 255, (0.485, 0.456), (0.1, 3.0), "nearest")]
)
def test_shown_preprocess_is_read_back(given: PreprocessConfig) -> None:
    shown = show_preprocessing(given)
    assert Settings.load(sets=[f"models.a.preprocess={shown}"]).model("a").preprocess == given


@pytest.mark.parametrize(
    ("given", "cores"),
    [("0-3,6", (0, 1, 2, 3, 6)), ("4, 2 - 3", (4, 2, 3)), ("5", (5,)), ("none", ()), ("0-1,4-5", (0, 1, 4, 5))],
)
def test_cores_are_read_from_text_and_written_back(given: str, cores: tuple[int, ...]) -> None:
    assert Settings.load(sets=[f"models.a.cpu_affinity={given}"]).model("a").cpu_affinity == cores


def test_cores_are_a_list_or_one_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "batchserve.toml").write_text("defaults.cpu_affinity = 3\nmodels.a.cpu_affinity = [0, '2-3']\n")
    settings = Settings.load(tmp_path / "batchserve.toml")
    assert settings.model("a").cpu_affinity == (0, 2, 3)
    assert settings.model("b").cpu_affinity == (3,)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["hint=latency", "instances=2"], ['hint = "latency" (from', "chooses nothing beside instances = 2 (from"]),
        (
            ["build=background", "providers=cpu"],
            ['"background" (from', 'builds nothing with providers = ["cpu"] (from'],
        ),
        (
            ["build=background", "device=cpu"],
            ['"background" (from', "builds nothing beside device =", "while providers is auto"],
        ),
        (["staging=off", "cuda_graphs=true"], ['staging = "off" (from', "beside cuda_graphs = true (from"]),
        (["hint=throughput", "cuda_graphs=true"], ['hint = "throughput" (from', "beside cuda_graphs = true (from"]),
        (["spinning=on", "intra_op_threads=1"], ['spinning = "on" (from', "intra_op_threads = 1 (from", "has none"]),
        (["retry_crashed=true"], ["retry_crashed = true (from", "runs nothing again"]),
    ],
)
def test_key_that_changes_nothing_beside_another_is_warned_of(given: list[str], parts: list[str]) -> None:
    (warning,) = Settings.load(sets=[f"models.a.{one}" for one in given]).resolve("a").warnings
    for part in parts:
        assert part in warning


@pytest.mark.parametrize(
    "given",
    [
        ["hint=latency"],
        ["instances=2"],
        ["build=background"],
        ["build=background", "providers=cuda,cpu"],
        ["spinning=on"],
        ["intra_op_threads=1"],
        ["retry_crashed=true", "isolation=process"],
        ["cuda_graphs=true"],
        ["staging=on"],
    ],
)
def test_key_that_does_something_is_not_warned_of(given: list[str]) -> None:
    assert Settings.load(sets=[f"models.a.{one}" for one in given]).resolve("a").warnings == ()
