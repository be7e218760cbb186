"""Each configuration error names the place, the key, the value, what is allowed, and the nearest spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchserve.config import Settings
from batchserve.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1", ["server.prot (= 1)", "did you mean 'port'?", "known are host, port"]),
        ("[server]\nport = '8000'", ["server.port = '8000'", "a whole number from 0 to 65535", "without quotes"]),
        ("[server]\nport = true", ["server.port = True is not a whole number"]),
        ("[server]\nport = 65536", ["server.port = 65536 is too large", "0 to 65535"]),
        ("[server]\nmax_body_size = 5", ["server.max_body_size = 5 has no unit", 'write "5B"', "64MiB"]),
        ("[server]\nmax_body_size = '0'", ["server.max_body_size = '0' is not more than 0"]),
        ("[server]\nidle_timeout = 0", ["server.idle_timeout = 0 is not longer than 0"]),
        ("[server]\nlog_level = 'warn'", ["'warn'", "debug, info, warning or error", "did you mean 'warning'?"]),
        ("[server]\nadmin = 'yes'", ["server.admin = 'yes' is neither true nor false", "expected true or false"]),
        ("[server]\nhost = ''", ["server.host = '' is empty"]),
        ("[server]\ntrace_ratio = 1.5", ["server.trace_ratio = 1.5 is not between 0 and 1", "such as 0.01"]),
        ("[server]\ntrace_ratio = nan", ["server.trace_ratio = nan is not between 0 and 1"]),
        ("[server]\ntrace_ratio = '0.1'", ["server.trace_ratio = '0.1' is not a number", "without quotes"]),
        ("[server]\ntrace_ratio = true", ["server.trace_ratio = True is not a number"]),
        ("[defaults]\nport = 1", ["defaults.port (= 1)", "it is a key of [server]"]),
        ("[server]\ntimeout = '1s'", ["server.timeout", "it is a key of [defaults] and of [models.NAME]"]),
        ("[models.a]\nmax_batch_size = -1", ["models.a.max_batch_size = -1 is too small"]),
        ("[models.a]\nmax_batch_size = 1.0", ["models.a.max_batch_size = 1.0 is not a whole number"]),
        ("[models.a]\nmax_queue_size = 0", ["models.a.max_queue_size = 0", "a queue of no rows could serve nothing"]),
        ("[models.a]\ntimeout = 5", ["models.a.timeout = 5 has no unit", 'write "5s"', "200us, 5ms, 2s or 1m"]),
        ("[models.a]\ntimeout = 'auto'", ["models.a.timeout = 'auto' is not a number with a unit"]),
        ("[models.a]\nmax_queue_delay = 'aut'", ["models.a.max_queue_delay = 'aut'", "or auto"]),
        ("[models.a]\nspinning = 'shrt'", ["models.a.spinning = 'shrt'", "did you mean 'short'?"]),
        ("[models.a]\nversion_policy = [0]", ["models.a.version_policy = [0] has 0 in it"]),
        ("[models.a]\nversion_policy = []", ["names no version"]),
        ("[models.a]\nversion_policy = 'latest:0'", ["serves no version"]),
        ("[models.a]\nproviders = ['x', 'x']", ["models.a.providers = ['x', 'x'] has 'x' twice"]),
        (
            "[models.a]\nlatency_target = 0",
            ["models.a.latency_target = 0 is not longer than 0", "5ms, 2s or 1m, or none"],
        ),
        ("[models.a]\nlatency_target = 'auto'", ["models.a.latency_target = 'auto'", "or none"]),
        ("[models.a]\nlatency_tarket = '5ms'", ["unknown key models.a.latency_tarket", "'latency_target'?"]),
        ("[models.a]\nshed = 'no'", ["models.a.shed = 'no' is neither true nor false", "or auto"]),
        ("[models.a]\nweight = 0", ["models.a.weight = 0 is not above 0", "a number above 0"]),
        ("[models.a]\nweight = -1.5", ["models.a.weight = -1.5 is not above 0"]),
        ("[models.a]\nweight = nan", ["models.a.weight = nan is out of all proportion"]),
        ("[models.a]\nweight = '2'", ["models.a.weight = '2' is not a number", "without quotes"]),
        ("[models.a]\npreferred_batch_sizes = [4, 0]", ["has 0 in it", "rows count from 1", "such as [4, 8]"]),
        ("[models.a]\npreferred_batch_sizes = '4'", ["is not a list of whole numbers"]),
        ("[models.a]\ndevice = 'GPU 1'", ["models.a.device = 'GPU 1' is not a device", "cuda:1, or auto"]),
        ("[models.a]\ndevice = []", ["models.a.device = [] names no device", "cuda:1, or auto"]),
        ("[models.a]\ndevice = ['cuda', 'cuda:0']", ["names cuda:0 twice", "instances says how many"]),
        ("[models.a]\ndevice_slots = 0", ["models.a.device_slots = 0 is too small", "or auto"]),
        ("[server]\nclient_header = 'X Client'", ["server.client_header = 'X Client' is no name of an HTTP header"]),
        (
            "[models.a]\nclient_weights = ['a']",
            ["client_weights = ['a'] is not a table of weights", "batch-jobs = 0.5"],
        ),
        (
            "[models.a]\nclient_weights = {a = 0}",
            ["client_weights = {'a': 0} has 'a' in it, whose weight is not above 0"],
        ),
        ("[models.a]\nclient_weights = {a = '2'}", ["whose weight is not a number", "without quotes"]),
        ("[models.a]\nclient_weights = {' ' = 2}", ["has a name in it that is empty"]),
        ("[models.a]\nmax_clients = 0", ["models.a.max_clients = 0 is too small"]),
        ("[models.a]\ncpu_affinity = 'all'", ["has 'all' in it, which is no core", '"0-3,6"', "or none"]),
        ("[models.a]\ncpu_affinity = '3-1'", ["has '3-1' in it", "count from 0 upwards"]),
        ("[models.a]\ncpu_affinity = [0, true]", ["has True in it, which is no core"]),
        ("[models.a]\ncpu_affinity = '99999'", ["has '99999' in it", "to 16383 at most"]),
        ("[models.a]\ncpu_affinity = '0-3,2'", ["has a core twice"]),
        ("[models.a]\ncpu_affinity = []", ["names no core"]),
        ("[models.a]\npreprocess = 'image'", ["models.a.preprocess = 'image' is not a table", "or none"]),
        ("[models.a.preprocess]\nmeans = 0.5", ["has the unknown key 'means'", "did you mean 'mean'?"]),
        ("[models.a.preprocess]\ndtype = 'uint8'", ["has the unknown key 'dtype'", "known are input, layout"]),
        ("[models.a.preprocess]\ninput = 1", ["has an input that is not a name"]),
        ("[models.a.preprocess]\nlayout = 'NWHC'", ["has the layout 'NWHC'", "did you mean 'NHWC'?"]),
        ("[models.a.preprocess]\nresize = true", ["has the resize True", "known are none, linear, nearest"]),
        ("[models.a.preprocess]\nscale = 0", ["has the scale 0", "one number that is not 0"]),
        ("[models.a.preprocess]\nmean = ['0.5']", ["has ['0.5'] as mean", "one for each channel"]),
        ("[models.a.preprocess]\nmean = nan", ["has nan as mean"]),
        ("[models.a.preprocess]\nstd = [1, 0]", ["has a std that is not above 0", "divided by it"]),
        ("[models.a]\npad = 'ids'", ["models.a.pad = 'ids' is not a table", "or none"]),
        ("[models.a.pad]\naxis = ['ids']", ["has the unknown key 'axis'", "did you mean 'axes'?"]),
        ("[models.a.pad]\nmask = 'mask'", ["models.a.pad", "has no axes", "name the inputs to pad"]),
        ("[models.a.pad]\naxes = ['ids']", ["names no mask", "without one, padding changes results"]),
        ("[models.a.pad]\naxes = {ids = 0}\nmask = 'm'", ["has 0 as an axis of 'ids'", "count from the batch"]),
        ("[models.a.pad]\naxes = {ids = '1'}\nmask = 'm'", ["has '1' as an axis of 'ids'"]),
        ("[models.a.pad]\naxes = 'ids'\nmask = 'm'\nmultiple = 0", ["has the multiple 0", "a whole number from 1"]),
        (
            "[models.a.pad]\naxes = 'ids'\nmask = 'm'\nvalues = {id = 1}",
            ["value for 'id', which is not padded", "'ids'?"],
        ),
        ("[models.a.pad]\naxes = 'ids'\nmask = 'm'\nvalues = {ids = []}", ["has values that are no table of numbers"]),
        ("[models.a.pad]\naxes = 'ids'\nmask = 'm'\nvalues = {ids = nan}", ["that is no number"]),
        ("[models.a]\nmax_batch_tokens = 0", ["models.a.max_batch_tokens = 0 is too small", "or none"]),
        ("[models.a]\nrun_timeout = 0", ["models.a.run_timeout = 0 is not longer than 0"]),
        ("[models.a.b]\ntimeout = '5s'", ["models.a.b is a table", 'write [models."a.b"]']),
        ("[models]\ntimeout = '5s'", ["models.timeout = '5s' is not a table"]),
        ("[model.a]\ntimeout = '5s'", ["unknown table or key model", "did you mean 'models'?"]),
        ("server = 3", ["server = 3 is not a table", "write [server]"]),
        ("port = \nx = 1", ["is not TOML", "line 1"]),
        ("x = " + "[" * 5000, ["is nested too deep"]),
    ],
)
def test_error_in_the_file_names_key_value_and_what_is_allowed(text: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "batchserve.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("server.port", ["is not KEY=VALUE", "server.port=8001"]),
        ("=3", ["is not a key"]),
        ("port=3", ["unknown table 'port'", "server.KEY"]),
        ("sever.port=3", ["did you mean 'server'?"]),
        ("server.port=abc", ["server.port = 'abc' is not a whole number"]),
        ("server.prot=3", ["did you mean 'port'?"]),
        ("server=3", ["server is not a key"]),
        ("models.a=3", ["models.a is not a key"]),
        ("models.a.b.timeout=2s", ["is not a key", 'models."a.b".timeout']),
        ('models."a".b"=1', ["is not KEY=VALUE"]),
        ("models.a.timeout=2", ["models.a.timeout = '2' has no unit"]),
        ("models..timeout=2s", ["is not a key"]),
    ],
)
def test_error_in_set_shows_what_was_given(given: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(sets=[given])
    message = str(caught.value)
    assert message.startswith(f"--set {given}")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("BATCHSERVE_SERVER__PROT", "1", "did you mean 'port'?"),
        ("BATCHSERVE_SERVR__PORT", "1", "did you mean 'server'?"),
        ("BATCHSERVE_SERVER__PORT", "x", "server.port = 'x' is not a whole number"),
        ("BATCHSERVE_MODELS__A__PORT", "1", "it is a key of [server]"),
        ("BATCHSERVE_MODELS__TIMEOUT", "1s", "names no key"),
        ("BATCHSERVE_SERVER__", "1", "names no key"),
        ("BATCHSERVE_SERVER__ADMIN", "maybe", "is neither true nor false"),
    ],
)
def test_error_in_a_variable_names_the_variable(variable: str, value: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(environ={variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert part in str(caught.value)


def test_flag_and_set_of_the_same_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="given both by --port and by --set"):
        Settings.load(sets=["server.port=1"], flags={"server.port": "2"})


def test_two_spellings_of_one_variable_are_refused() -> None:
    with pytest.raises(ConfigError, match="sets the same key as"):
        Settings.load(environ={"BATCHSERVE_SERVER__PORT": "1", "BATCHSERVE_SERVER__port": "2"})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        Settings.load(tmp_path / "none.toml")


def test_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Settings.load(tmp_path)


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(ConfigError, match=r"b\.toml: is not UTF-8 text"):
        Settings.load(tmp_path / "b.toml")


def test_error_in_model_toml_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("max_batchsize = 3\n")
    with pytest.raises(ConfigError) as caught:
        Settings.load().model("digits", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'model.toml'}: unknown key max_batchsize (= 3)")
    assert "did you mean 'max_batch_size'?" in str(caught.value)


@pytest.mark.parametrize("text", ["0\x1f", "1\x1c", "\x0b2", "1\u2003"])
def test_number_beside_a_control_character_is_refused_not_a_crash(text: str) -> None:
    """Found by Hypothesis: `\\s` matches separators that int() does not read."""
    with pytest.raises(ConfigError, match=r"defaults\.instances"):
        Settings.load(None, [f"defaults.instances={text}"], {})


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        (
            'latency_target = "2s"\ntimeout = "1s"',
            [
                'latency_target = "2s" (from ',
                'is longer than timeout = "1s" (from ',
                "expected at most the timeout",
                "lower latency_target or raise timeout",
            ],
        ),
        ('latency_target = "61s"', ['timeout = "60s" (from built-in)']),
        (
            "max_batch_size = 8\npreferred_batch_sizes = [4, 16]",
            [
                "preferred_batch_sizes = [4, 16] (from ",
                "has 16 in it",
                "max_batch_size = 8 (from ",
                "raise max_batch_size",
            ],
        ),
        ("max_batch_size = 0\npreferred_batch_sizes = 2", ["has 2 in it, more than max_batch_size = 0"]),
    ],
)
def test_values_that_cannot_be_together_are_refused_with_both_their_places(
    own: str, parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.toml").write_text(own)
    with pytest.raises(ConfigError) as caught:
        Settings.load().resolve("a", tmp_path)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_a_stronger_place_mends_are_accepted(tmp_path: Path) -> None:
    """The file's target alone would be longer than the default timeout."""
    (tmp_path / "model.toml").write_text('timeout = "3m"\nmax_batch_size = 16\n')
    settings = Settings.load(sets=["models.a.latency_target=2m", "defaults.preferred_batch_sizes=16,8,8"])
    config = settings.model("a", tmp_path)
    assert (config.latency_target_s, config.timeout_s, config.preferred_batch_sizes) == (120.0, 180.0, (8, 16))


def test_shedding_without_a_target_is_warned_of() -> None:
    (warning,) = Settings.load(sets=["models.a.shed=true"]).resolve("a").warnings
    assert "shed = true (from --set models.a.shed) refuses nothing without a latency_target" in warning
    assert "set latency_target or leave shed out" in warning
