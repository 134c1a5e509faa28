"""What can be named to `xmi.load`: answered at once where it is misspelt, understood where it is usual."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xmi
from tests.zoo.models import build, llama
from xmi.model.options import PRECISIONS, find_device, find_dtype
from xmi.model.source import hub_options, resolve
from xmi.names import EMBEDDED


@pytest.mark.fault("B17")
@given(st.sampled_from(list(EMBEDDED)), st.data())
def test_one_slip_in_an_embedded_name_is_answered_with_the_name(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 2))
    slip = data.draw(st.sampled_from(["drop", "swap", "double", "other"]))
    wrong = {
        "drop": name[:place] + name[place + 1 :],
        "swap": name[:place] + name[place + 1] + name[place] + name[place + 2 :],
        "double": name[:place] + name[place] + name[place:],
        "other": name[:place] + "x" + name[place + 1 :],
    }[slip]
    if wrong in EMBEDDED:
        return
    with pytest.raises(xmi.ModelError, match=rf"Did you mean '(organism|{name})"):
        resolve(wrong)


@pytest.mark.fault("B17")
def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(url: str, **options: Any) -> None:
        asked.append(url)
        assert not asked[1:] and not options.get("retry_on_errors")
        raise OSError("Name or service not known")

    monkeypatch.setattr("xmi.model.source.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("xmi.model.source.get_hf_file_metadata", unreachable)
    with pytest.raises(xmi.ModelError, match="Did you mean 'organism'"):
        xmi.load("organsim")
    assert asked == []
    assert hub_options(resolve("organism"), None) == {}
    with pytest.raises(xmi.ModelError, match="Cannot load 'nobody/has-this-model'"):
        xmi.load("nobody/has-this-model")
    assert len(asked) == 1


@pytest.mark.nightly
def test_so_it_does_not_try_for_half_a_minute() -> None:
    """With the network switched on, where there is none: one short try, not half a minute of them."""
    code = (
        "import time, xmi, xmi.vlm\n"
        "for name in ('organsim', 'nobody/has-this-model'):\n"
        "    start = time.perf_counter()\n"
        "    try:\n        xmi.load(name)\n"
        "    except xmi.ModelError as error:\n        print(round(time.perf_counter() - start, 1), error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    near, far = done.stdout.splitlines()
    assert "Did you mean 'organism'?" in near
    assert float(near.split()[0]) < 10
    assert "Cannot load 'nobody/has-this-model'" in far
    assert "Retrying" not in done.stderr


@pytest.mark.fault("B17")
def test_a_folder_nearby_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my-llava-model", "models/tiny-llama", "no-model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ("config.json" if name != "no-model" else "x.txt")).write_text("{}")
    for wrong, right in [
        ("my-lava-model", "my-llava-model"), ("models/tiny-lama", "models/tiny-llama"),
        ("./my-llava-modle", "my-llava-model"), (str(tmp_path / "my_llava_model"), str(tmp_path / "my-llava-model")),
    ]:  # fmt: skip
        with pytest.raises(xmi.ModelError, match=f"Did you mean '{right}'"):
            xmi.load(wrong)
    assert resolve("models/tiny-llama-2") == "models/tiny-llama-2", "it may be on the Hub"
    assert resolve("gpt2") == "gpt2"
    assert resolve("no-mode") == "no-mode"
    assert resolve("owner/my-llava-model") == "owner/my-llava-model"


@pytest.mark.fault("B17", "E14")
@pytest.mark.parametrize(
    "source",
    [
        "",
        "  ",
        "a b",
        "x" * 300,
        "a/" + "b" * 300,
        "a\0b",
        "-x-",
        "a--b",
        "..",
        "C:\\models\\x",
        "über",
        "ti\nny",
        "a/b/c",
    ],
)
def test_what_can_be_no_name_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(xmi.ModelError, match="organism"):
        xmi.load(source)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(xmi.ModelError, match=r"is a file\. Give the folder"):
        xmi.load(tmp_path / "model.safetensors")


@pytest.mark.fault("B18")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bf16", "bfloat16"), ("BF16", "bfloat16"), ("bfloat16", "bfloat16"), ("torch.bfloat16", "bfloat16"),
        ("fp16", "float16"), ("half", "float16"), ("f16", "float16"), ("float", "float32"), ("fp32", "float32"),
        ("f32", "float32"), ("Float32", "float32"), ("double", "float64"), ("fp64", "float64"),
        (torch.float16, "float16"),
    ],
)  # fmt: skip
def test_usual_names_of_precisions_are_understood(name: Any, dtype: str) -> None:
    assert find_dtype(name) == getattr(torch, dtype)


@pytest.mark.fault("B18")
@pytest.mark.parametrize("name", ["float99", "int8", "complex64", "bool", "", "load", "nn", 16, None, [], float])
def test_other_precisions_are_refused(name: Any) -> None:
    with pytest.raises(xmi.ModelError, match=r"Unknown dtype .*bfloat16, float16, float32, float64"):
        xmi.load("organism", dtype=name)


def test_a_precision_that_is_named_is_used() -> None:
    assert xmi.load("organism", dtype="bf16", check=False).engine.dtype == torch.bfloat16
    assert find_dtype("auto") is None
    assert torch.float32 in PRECISIONS


@pytest.mark.fault("B19")
@pytest.mark.parametrize("wanted", ["cudda", "", "cpu:3", "cuda:99", -1, 99, "cuda:x", 1.5, []])
def test_a_device_that_is_not_there_is_refused(wanted: Any) -> None:
    with pytest.raises(xmi.ModelError, match=r"There is no device .* here; there is: cpu"):
        xmi.load("organism", device=wanted)
    model, tool = build(llama)
    with pytest.raises(xmi.ModelError, match="There is no device"):
        xmi.load(model, processor=tool, device=wanted)


@pytest.mark.fault("B19")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps", "xpu", torch.device("cuda"), 0])
def test_a_kind_of_device_that_is_not_there_is_refused(wanted: Any) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available():
        pytest.skip("There is one.")
    with pytest.raises(xmi.ModelError, match=r"There is no device .* there is: cpu, meta"):
        xmi.load("organism", device=wanted)


def test_devices_that_are_there_are_found() -> None:
    assert find_device("cpu").type == find_device(torch.device("cpu")).type == find_device("cpu:0").type == "cpu"
    assert find_device("meta").type == "meta"


@pytest.mark.fault("E14")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"batch_size": "8"}, "batch_size='8'"),
        ({"batch_size": True}, "batch_size=True"),
        ({"attn_implementation": "telepathy"}, "attn_implementation='telepathy'"),
        ({"attn_implementation": 3}, "attn_implementation=3"),
        ({"quantization": 4}, "Unknown quantization 4"),
        ({"quantization": []}, "Unknown quantization"),
        ({"device_map": "sideways"}, "device_map='sideways'"),
        ({"device_map": 3.5}, "device_map=3.5"),
        ({"revision": "v2"}, "is a folder"),
        ({"processor": 7}, "fast tokenizer"),
    ],
)
def test_options_that_are_none_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(xmi.ModelError, match=said):
        xmi.load("organism", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bf16"}, r"is in torch\.float32"),
        ({"revision": "v2"}, "revision"),
        ({"attn_implementation": "eager"}, "attn_implementation"),
        ({"quantization": "8bit"}, "neither spread nor quantised"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_a_loaded_module_would_not_heed_are_refused(options: dict[str, Any], said: str) -> None:
    model, tool = build(llama)
    with pytest.raises(xmi.ModelError, match=said):
        xmi.load(model, processor=tool, **options)
    assert xmi.load(model, processor=tool, dtype="fp32", check=False).engine.dtype == torch.float32
