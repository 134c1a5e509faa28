"""What holds, and what it costs, on a GPU: `python -m analyses.benchmarks.gpu --out results` writes a table and a JSON.

Parts, each in a process of its own with a limit, so that one that fails, hangs or runs out of memory loses no other:

- zoo: sweeps and answers of tiny models of every family against plain runs, in float32 and bfloat16;
- sweep: a 7B-shaped LLaVA with random weights: the packed sweep against the published algorithm, time and memory;
- tokens: labels of several tokens, phases and traces on it;
- memory: reading activations against a plain forward, time and memory;
- device_map: a model spread over devices against the same on one;
- four_bit: a model quantised by bitsandbytes: rows that are patched against plain ones;
- out_of_memory: a sweep that does not fit is split, and gives the same;
- actors: a study by two of Ray's actors that share the GPU against the same by one process.

`--device cpu --tiny` runs the same functions on tiny models, so that the script is known to work before there is a GPU.
A part that cannot be run says why; where there is no GPU, that is every part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import xmi
from analyses.benchmarks import layer_sweep, overhead, several_tokens
from analyses.benchmarks.overhead import SEVEN, Cell, machine, say
from xmi.vector import sweep as sweep_module
from xmi.vector.sweep import Patch, Swept, sweep
from xmi.vlm import VLM

ROOT = Path(__file__).parents[2]
Rows = dict[str, str]
"""What was measured, by what it is."""


class NotRunError(Exception):
    """A part cannot be run here; says why."""


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: Tiny models in place of those of a 7B model's shape.
        seconds: How long a part may take.
    """

    device: str
    tiny: bool
    seconds: float

    @property
    def cell(self) -> Cell:
        """The model and the prompt."""
        if not self.tiny:
            return SEVEN
        small = layer_sweep.cell_of(3, 24, 64)
        dtype: Any = "bfloat16" if self.device == "cuda" else "float32"
        device: Any = self.device
        return replace(small, dtype=dtype, device=device, pairs=5)


def zoo(setting: Setting) -> Rows:
    """The largest difference in log-probability from plain runs over the families, and how many share a forward."""
    from tests.zoo.families import FAMILIES
    from tests.zoo.family import build
    from tests.zoo.oracle import prompts_for

    end = time.monotonic() + 0.85 * setting.seconds
    families = [f for f in FAMILIES if not f.refused]
    families = [f for f in families if f.model_type in ("llava", "llama")] if setting.tiny else families
    rows: Rows = {}
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 0.3)):
        gaps, ways, failed = dict[str, float](), list[str](), list[str]()
        for family in families if dtype == torch.float32 else reversed(families):
            if time.monotonic() > end - (0.4 * setting.seconds if dtype == torch.float32 else 0):
                break
            try:
                model, tool = build(family.make)
                vlm = xmi.load(model.to(dtype), processor=tool, device=setting.device, dtype=dtype, check=False)
                gaps[family.name] = _gap(vlm, prompts_for(family.images))
                ways += vlm.engine.ways.values()
            except Exception as error:  # the table says which, and the others go on
                failed.append(f"{family.name} ({type(error).__name__}: {str(error).splitlines()[0][:80]})")
        name, worst = str(dtype).removeprefix("torch."), max(gaps, key=lambda n: gaps[n], default="")
        over = [family for family, gap in gaps.items() if not gap <= bound]
        rows[f"{name}: families"] = f"{len(gaps)} of {len(families)} done, {len(failed)} failed"
        rows[f"{name}: largest difference"] = f"{gaps[worst]:.1e} nats ({worst})" if gaps else "none done"
        rows[f"{name}: over {bound:g} nats"] = ", ".join(over) or "none"
        rows[f"{name}: ways"] = ", ".join(f"{way} {ways.count(way)}" for way in dict.fromkeys(ways)) or "none"
        if failed:
            rows[f"{name}: failed"] = "; ".join(failed)
    return rows


def _gap(vlm: VLM, prompts: Any) -> float:
    """How far sweeps differ from plain runs, the clean one included, in the answer's log-probability."""
    batch, count = vlm.encode(prompts), vlm.backbone.n_layers
    values = torch.randn(1, count, vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    targets = torch.full((len(batch),), 5)
    found = sweep(vlm, batch, Patch(values, tuple(range(count))), targets, 2)
    inputs = vlm.engine.forward(batch.inputs)
    block = vlm.model.get_submodule(vlm.backbone.layers)
    gap = 0.0
    for layer in range(-1, count):
        hook = layer_sweep.overwriting(slice(None), values[0, layer])
        handle = block[layer].register_forward_hook(hook) if layer >= 0 else None  # type: ignore[index]
        try:
            with torch.no_grad():
                logits = vlm.model(**inputs).logits[:, -1].float().cpu()
        finally:
            if handle is not None:
                handle.remove()
        expected = logits.log_softmax(-1)[:, 5]
        gap = max(gap, float((found.log_probability[:, layer + 1] - expected).abs().max()))
    return gap


def sweeps(setting: Setting) -> Rows:
    """The packed sweep against the published algorithm."""
    found = layer_sweep.measure(setting.cell, pairs=20, rounds=3, seconds=setting.seconds / 8, quick=True)
    return {
        "model": str(found.cell),
        "one clean forward": f"{1e3 * found.clean:.1f} ms",
        "xmi, 1 set / clean": f"{found.xmi.ratio:.2f}",
        "xmi, 16 sets / clean": f"{found.xmi_16.ratio:.2f}",
        "published / xmi": f"{found.over['published']:.1f}",
        "published / xmi, 16 sets": f"{found.over_16['published']:.1f}",
        "memory / a plain forward of T + N tokens": f"{found.memory_ratio:.2f}",
        "largest difference": f"{found.apart:.1e} nats",
    }


def tokens(setting: Setting) -> Rows:
    """Several tokens, phases and traces."""
    found = several_tokens.measure(setting.cell, seconds=setting.seconds / 20, pairs=7)
    names = {**several_tokens.ROWS, "answers": f"{several_tokens.ROWS['answers']} / {several_tokens.GENERATE}"}
    return {"model": str(found.cell), **{names[row]: f"{timed.ratio:.2f}" for row, timed in found.rows.items()}}


def memory(setting: Setting) -> Rows:
    """Reading the last position of all layers against a plain forward."""
    cell = setting.cell
    model, processor = overhead.build(cell)
    vlm = overhead.Encoded(xmi.load(model, processor=processor, device=cell.device, check=False).engine)
    calls = overhead.forwards(vlm, cell)
    overhead.require_same(calls, cell)
    timed = overhead.compare(calls["plain"], calls["last"], pairs=20, seconds=setting.seconds / 4, device=cell.device)
    peak = overhead.cuda_peak if cell.device == "cuda" else overhead.allocated_peak
    plain, last = (peak(calls[name]) for name in ("plain", "last"))
    return {
        "model": str(cell),
        "time / plain": f"{timed.ratio:.3f}",
        "plain": f"{plain / 1e6:.1f} MB",
        "xmi": f"{last / 1e6:.1f} MB",
        "memory / plain": f"{last / plain:.3f}",
    }


def _saved(setting: Setting, folder: Path) -> Path:
    """A small model of eight blocks in files."""
    cell = replace(overhead.SMALL, layers=8, device="cpu", tokens=24, image=42)
    cell = replace(cell, hidden=64, vision_hidden=64, layers=4) if setting.tiny else cell
    model, processor = overhead.build(cell)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _swept(vlm: VLM, new: int = 2, sets: int = 4) -> Swept:
    """A sweep of the small model."""
    batch = vlm.encode(["The city of a is", "of b is"])
    values = torch.randn(sets, vlm.backbone.n_layers, vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    return sweep(vlm, batch, Patch(values, tuple(range(vlm.backbone.n_layers))), torch.tensor([60, 61]), new)


def _apart(one: Swept, two: Swept) -> str:
    return f"{float((one.log_probability - two.log_probability).abs().max()):.1e} nats"


def device_map(setting: Setting) -> Rows:
    """A model whose upper half is on the CPU, and one spread by accelerate, against one on the device."""
    if importlib.util.find_spec("accelerate") is None:
        raise NotRunError("accelerate is not installed")
    with tempfile.TemporaryDirectory() as place:
        folder = _saved(setting, Path(place))
        whole = xmi.load(folder, device=setting.device, dtype="float32", check=False)
        expected, count = _swept(whole), whole.backbone.n_layers
        first: Any = 0 if setting.device == "cuda" else "cpu"
        split: dict[str, Any] = {"": first, **{f"{whole.backbone.layers}.{i}": "cpu" for i in range(count // 2, count)}}
        split |= {whole.backbone.norm: "cpu", whole.backbone.head: "cpu"}
        rows = {}
        for name, places in (("upper half on the CPU", split), ("auto", "auto")):
            vlm = xmi.load(folder, device_map=places, dtype="float32", check=False)
            used = {str(device) for device in getattr(vlm.model, "hf_device_map", {}).values()}
            rows[name] = f"{_apart(_swept(vlm), expected)} (on {', '.join(sorted(used)) or 'one device'})"
    return rows


def four_bit(setting: Setting) -> Rows:
    """A quantised model's sweep against plain runs of it."""
    if setting.device != "cuda":
        raise NotRunError("4-bit weights need CUDA")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotRunError("bitsandbytes is not installed")
    with tempfile.TemporaryDirectory() as place:
        vlm = xmi.load(_saved(setting, Path(place)), quantization="4bit", check=False)
        return {
            "largest difference": f"{_gap(vlm, ['The city of a is', 'of b is']):.1e} nats",
            "ways": ", ".join(sorted(set(vlm.engine.ways.values()))),
            "self-check": vlm.report.lines()[0],
        }


def out_of_memory(setting: Setting) -> Rows:
    """A sweep in a memory that holds a part of it: on a CPU the allocator is played."""
    with tempfile.TemporaryDirectory() as place:
        vlm = xmi.load(_saved(setting, Path(place)), device=setting.device, dtype="float32", check=False)
        sizes, real, sets = list[int](), sweep_module.sweep_kernel, 64 if setting.device == "cuda" else 4
        expected, limit = _swept(vlm, sets=sets), sets * vlm.backbone.n_layers // 2
        vlm.engine.learned.budget = 2**40  # all at once
        needed = overhead.cuda_peak(lambda: _swept(vlm, sets=sets)) if setting.device == "cuda" else 0

        def watched(*given: Any) -> Any:
            sizes.append(given[3].shape[0] * given[3].shape[1])
            if setting.device == "cpu" and sizes[-1] > limit:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return real(*given)

        with _room(needed * 6 // 10), mock.patch.object(sweep_module, "sweep_kernel", watched):
            found = _swept(vlm, sets=sets)
        split = len(sizes) > 1 and sizes[-1] < sizes[0]
        return {
            "copies per forward": " -> ".join(map(str, dict.fromkeys(sizes))),
            "split": "yes" if split else "no: all of it fitted",
            "difference": _apart(found, expected),
        }


@contextmanager
def _room(size: int) -> Iterator[None]:
    """On CUDA, no more memory than is held now and so many bytes; 0 leaves it as it is."""
    if size:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + size) / torch.cuda.get_device_properties(0).total_memory
        )
    yield
    if size:
        torch.cuda.set_per_process_memory_fraction(1.0)


def actors(setting: Setting) -> Rows:
    """A study by two actors against the same by this process."""
    if importlib.util.find_spec("ray") is None:
        raise NotRunError("Ray is not installed: pip install 'xmi[ray]'")
    plan: dict[str, Any] = {"tasks": ["country-capital", "country-currency"], "seeds": (0,), "say": say}
    with tempfile.TemporaryDirectory() as place:
        shared = {"gpus_per_model": 0.5} if setting.device == "cuda" else {}
        ways = {"on": "serial"}, {"on": "ray", "workers": 2, **shared}
        seconds, folders = [], [Path(place) / "one", Path(place) / "two"]
        for folder, options in zip(folders, ways, strict=True):
            begin = time.monotonic()
            xmi.run("organism", out=folder, device=setting.device, **plan, **options)
            seconds.append(time.monotonic() - begin)
        names = sorted(p.relative_to(folders[0]).as_posix() for p in folders[0].rglob("*") if p.is_file())
        same = [n for n in names if (folders[1] / n).exists() and _bytes(folders[0] / n) == _bytes(folders[1] / n)]
        other = sorted(set(names) - set(same))
    return {
        "files alike": f"{len(same)} of {len(names)}",
        "others": ", ".join(other[:8]) or "none",
        "one process": f"{seconds[0]:.1f} s",
        "two actors": f"{seconds[1]:.1f} s",
    }


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


PARTS: dict[str, tuple[Callable[[Setting], Rows], float]] = {
    "sweep": (sweeps, 90),
    "zoo": (zoo, 110),
    "tokens": (tokens, 60),
    "memory": (memory, 35),
    "out_of_memory": (out_of_memory, 25),
    "device_map": (device_map, 30),
    "four_bit": (four_bit, 30),
    "actors": (actors, 100),
}
"""What is run, the most telling first, and for how many seconds at most: 8 minutes in all."""


def run_part(name: str, setting: Setting) -> dict[str, Any]:
    """A part in a process of its own: what it found, or why it did not."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        return {"part": name, "state": "not run", "why": "there is no CUDA device"}
    limit, begin = PARTS[name][1], time.monotonic()
    command = [sys.executable, "-m", "analyses.benchmarks.gpu", "--part", name, "--device", setting.device]
    command += ["--tiny"] * setting.tiny
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        found = json.loads(last) if last.startswith("{") else {"state": "failed", "why": _end(done)}
    except subprocess.TimeoutExpired as error:
        last = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        found = {"state": "failed", "why": f"it took more than {limit:.0f} s; last it said: {''.join(last)[-200:]!r}"}
    return {"part": name, **found, "seconds": round(time.monotonic() - begin, 1)}


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a process wrote before it ended."""
    return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][:300]


def do_part(name: str, setting: Setting) -> dict[str, Any]:
    """A part in this process."""
    try:
        return {"state": "run", "rows": PARTS[name][0](setting)}
    except NotRunError as error:
        return {"state": "not run", "why": str(error)}
    except Exception as error:  # what went wrong is the part's result
        return {"state": "failed", "why": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}


def table(found: Sequence[dict[str, Any]], command: str, tiny: bool) -> str:
    """The results as a page."""
    lines = ["# On a GPU", "", f"- Command: `{command}`", f"- Machine: {machine(torch.get_num_threads())}"]
    if tiny:
        lines.append("- Tiny models: this shows that the script works, and measures nothing.")
    lines += ["", "| part | what | found |", "| --- | --- | --- |"]
    for one in found:
        if one["state"] != "run":
            lines.append(f"| {one['part']} | {one['state']} | {one['why'].replace('|', '/')} |")
        for what, value in one.get("rows", {}).items():
            lines.append(f"| {one['part']} | {what} | {value.replace('|', '/')} |")
    return "\n".join([*lines, ""])


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu is for trying the script: add --tiny")
    return args


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = arguments(given)
    if args.part:
        print(json.dumps(do_part(args.part, Setting(args.device, args.tiny, PARTS[args.part][1]))))
        return 0
    found = []
    for name in args.parts:
        say(f"{name} ...")
        found.append(run_part(name, Setting(args.device, args.tiny, PARTS[name][1])))
        say(f"{name}: {found[-1]['state']} {found[-1].get('why', '')}")
    words = [word for word in (sys.argv[1:] if given is None else given) if word not in ("--out", str(args.out))]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = table(found, " ".join(["python -m analyses.benchmarks.gpu", *words]), args.tiny)
    (args.out / "gpu.md").write_text(page, encoding="utf-8")
    print(page)
    return int(any(one["state"] == "failed" for one in found))


if __name__ == "__main__":
    sys.exit(main())
