"""`batchserve check`, `batchserve config show` and the help texts, as processes."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.command import PATIENCE_S, clean_environment, run_command
from support.image_models import image_net
from support.onnx_models import identity, save, zipmap
from support.providers import Providers
from support.sequence_models import attention_encoder

from batchserve.backends.swapping import SwappingBackend
from batchserve.cli.check import _check_versions
from batchserve.config import ModelConfig
from batchserve.engine.sources import ModelSource


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models: `plain`, and `tuned` with two versions and a `model.toml`."""
    folder = tmp_path / "repository"
    save(identity(), folder / "plain" / "1" / "model.onnx")
    save(identity(), folder / "tuned" / "1" / "model.onnx")
    save(identity(), folder / "tuned" / "2" / "model.onnx")
    (folder / "tuned" / "model.toml").write_text('max_batch_size = 8\nversion_policy = "all"\n')
    return folder


def test_check_describes_every_version_and_exits_with_0(repository: Path) -> None:
    done = run_command("check", repository)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+, version \d)$", done.stdout, re.MULTILINE) == [
        "plain, version 1",
        "tuned, version 1",
        "tuned, version 2",
    ]
    assert done.stdout.count("max_batch_size 8") == 2
    assert done.stdout.endswith("2 of 2 models can be served\n")
    assert done.stderr == ""


def test_check_tells_each_failure_with_its_reason_and_exits_with_1(repository: Path) -> None:
    save(zipmap(), repository / "zipmap" / "1" / "model.onnx")
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"nonsense")
    save(identity(), repository / "typo" / "1" / "model.onnx")
    (repository / "typo" / "model.toml").write_text("max_batchsize = 8\n")
    (repository / "tuned" / "model.toml").write_text('version_policy = "1,5"\n')
    done = run_command("check", repository)
    assert done.returncode == 1
    assert re.search(r"^broken, version 1\n  FAILED +the model file .* is not an ONNX model", done.stdout, re.MULTILINE)
    assert re.search(r"^zipmap, version 1\n  FAILED +\S", done.stdout, re.MULTILINE)
    assert re.search(r"^typo\n  FAILED +.*unknown key max_batchsize \(= 8\); did you mean", done.stdout, re.MULTILINE)
    assert re.search(r"^tuned, version 5\n  FAILED +version_policy names version 5", done.stdout, re.MULTILINE)
    assert "plain, version 1" in done.stdout
    assert done.stdout.endswith("1 of 5 models can be served\n")
    assert "Traceback" not in done.stderr


def test_check_proposes_padding_where_names_make_it_plain_and_takes_its_own_proposal(tmp_path: Path) -> None:
    save(attention_encoder(), tmp_path / "encoder.onnx")
    done = run_command("check", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "requests of different lengths could share runs, as runs have proved" in done.stdout
    found = re.search(r"^ +pad = (\{.*\})$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    done = run_command("check", tmp_path, "--set", f"models.encoder.pad={found[1]}")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^  padding +to a multiple of 8: rows of 1 to 34 gave the same answers", done.stdout, re.MULTILINE
    )
    assert "8 tokens" in done.stdout
    assert "could share runs" not in done.stdout


def test_check_and_show_tell_what_is_done_before_a_model(tmp_path: Path) -> None:
    save(image_net(), tmp_path / "net.onnx")
    wanted = 'models.net.preprocess={scale = 0.5, resize = "linear"}'
    done = run_command("check", tmp_path, "--set", wanted)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  inputs +image  UINT8 \[-1, -1, -1, 3\]$", done.stdout, re.MULTILINE), done.stdout
    assert "  prepared  image: uint8 NHWC->NCHW, resized to 8 x 6 (linear), times 0.5\n" in done.stdout
    shown = run_command("config", "show", tmp_path, "--set", wanted)
    (line,) = re.findall(r"^preprocess = .*", shown.stdout, re.MULTILINE)
    assert line.split("  #") == ['preprocess = {scale = 0.5, resize = "linear"}', f" from --set {wanted.split('=')[0]}"]


def test_check_warns_of_fields_that_are_not_used(repository: Path) -> None:
    (repository / "plain" / "config.pbtxt").write_text('backend: "onnxruntime" optimization { graph { level: 1 } }')
    done = run_command("check", repository)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "known but not used: optimization" in done.stderr


def test_check_refuses_a_wrong_configuration_with_2(repository: Path) -> None:
    done = run_command("check", repository, "--set", "models.tund.instances=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'tuned'?" in done.stderr


def test_config_show_prints_values_with_their_origins_as_toml(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text('[server]\nport = 9000\n[models.plain]\ntimeout = "5s"\n')
    environ = {"BATCHSERVE_MODELS__PLAIN__INSTANCES": "2"}
    done = run_command("config", "show", repository, "--config", file, "--host", "0.0.0.0", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        r'^host = "0\.0\.0\.0" +# from --host$',
        rf"^port = 9000 +# from {re.escape(str(file))}:server\.port$",
        r'^max_body_size = "64MiB" +# from built-in$',
        rf'^timeout = "5s" +# from {re.escape(str(file))}:models\.plain\.timeout$',
        r"^instances = 2 +# from BATCHSERVE_MODELS__PLAIN__INSTANCES$",
        rf"^max_batch_size = 8 +# from {re.escape(str(repository))}/tuned/model\.toml:max_batch_size$",
    ):
        assert re.search(line, done.stdout, re.MULTILINE), line
    assert list(tomllib.loads(done.stdout)) == ["server", "models"]


def test_config_shown_is_a_configuration_that_means_the_same(repository: Path, tmp_path: Path) -> None:
    sets = [
        "--set",
        "models.plain.max_queue_delay=1500us",
        "--set",
        "server.drain_timeout=10s",
        "--set",
        "models.plain.providers=cpu,auto",
    ]
    first = run_command("config", "show", repository, *sets, "--json")
    (tmp_path / "shown.toml").write_text(run_command("config", "show", repository, *sets).stdout)
    again = run_command("config", "show", repository, "--config", tmp_path / "shown.toml", "--json")

    def values(done: subprocess.CompletedProcess[str]) -> object:
        shown = json.loads(done.stdout)
        tables = {"server": shown["server"], **shown["models"]}
        return {table: {key: entry["value"] for key, entry in keys.items()} for table, keys in tables.items()}

    assert values(first) == values(again)
    assert json.loads(first.stdout)["models"]["plain"]["max_queue_delay"] == {
        "value": "1500us",
        "origin": "--set models.plain.max_queue_delay",
    }


def test_config_show_without_a_path_shows_what_holds_for_every_model() -> None:
    done = run_command("config", "show", "--set", "defaults.timeout=3s", "--json")
    shown = json.loads(done.stdout)
    assert list(shown) == ["server", "defaults"]
    assert shown["defaults"]["timeout"] == {"value": "3s", "origin": "--set defaults.timeout"}


def test_help_loads_nothing_heavy() -> None:
    """What makes `--help` quick: runtime, numpy and HTTP library are imported by the commands that need them."""
    program = (
        "import sys; from batchserve.cli.main import commands\n"
        "for arguments in (['--help'], ['serve', '--help'], ['config', 'show', '--help']):\n"
        "    commands(arguments, standalone_mode=False)\n"
        "heavy = {'numpy', 'onnxruntime', 'aiohttp', 'uvloop', 'prometheus_client', 'msgspec'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        env=clean_environment(),
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_0_3_s() -> None:
    """Of the processor, and in one of ten tries: other processes run on this machine, too."""

    def measure() -> float:
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_command("--help").returncode == 0
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

    assert any(measure() < 0.3 for _ in range(10))


def test_version_is_printed() -> None:
    done = run_command("--version")
    assert re.fullmatch(r"batchserve, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [["serve"], ["check"], ["serv"], ["serve", "x", "--prot", "1"]])
def test_wrong_usage_is_told_with_status_2(arguments: list[str]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert "Usage: batchserve" in done.stderr
    assert "Traceback" not in done.stderr


async def test_check_waits_for_a_build_and_says_what_came_of_it() -> None:
    source = ModelSource("m", {1: Path("m.onnx")}, None, Path("m.onnx"))
    config = ModelConfig(providers=("openvino", "cpu"), build="background", warmup_budget_s=0.0)
    said = []
    with ThreadPoolExecutor(1) as executor:
        for answer in (lambda inputs: [inputs[0] * 2], lambda inputs: [inputs[0] * 3]):
            backend = SwappingBackend(Providers(answer))
            async for lines, is_good in _check_versions(source, config, backend, executor):
                assert is_good
                said.append(lines[-1].split(maxsplit=1))
    assert said[0] == ["build", "swapped: runs on openvino since it was built"]
    assert said[1][1].startswith("refused: openvino is not used: for random inputs its output 0 is another")
