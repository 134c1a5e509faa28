"""What reading activations costs compared with a plain forward of the same model.

The target is `vlm.run_with_cache(prompt, names=["resid_post"], positions="last")`, the last position of all layers,
against `vlm.model(**inputs, use_cache=False, logits_to_keep=1)`: at most 1.15 times the time and 1.05 times the peak
memory. Usage::

    python -m analyses.benchmarks.overhead            # all cells; writes docs/overhead.md
    python -m analyses.benchmarks.overhead --quick    # the small cell; the last line is a JSON object

The models have LLaVA 1.5's configuration at other sizes and random weights; nothing is downloaded.

Time: both sides alternate in one process, which of them begins alternates too, and the ratio is the median of the
ratios within pairs, with quartiles. Encoding lies outside of the timed part on both sides, so that it hides nothing
(`Encoded` below gives `run_with_cache` an encoded batch); a row of its own has it inside on both sides. The vision
tower of the models for a CPU is small for the same reason. The garbage collector runs between the timed parts only.

Memory: what a forward needs at its peak above what is held before it, weights left out, so that they hide nothing. On a
CPU it is the peak of torch's allocator, summed from the memory events of torch's profiler, in a fresh process per side
and repeat and after one forward that brings up what is built once. It is exact to the byte. The resident set is not:
it counts the mapped pages of the weights, which the kernel drops and brings back, keeps what the allocator does not
give back, and so wavers between runs of one and the same forward by more than its activations. What the allocator does
not see, Python's objects, is small: a name and a tensor's header per activation. On CUDA it is
`torch.cuda.max_memory_allocated` above what was allocated before, which needs no process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.profiler import ProfilerActivity, profile

import xmi
from xmi.errors import XmiError
from xmi.kernels import residual_kernel
from xmi.prompt import Batch
from xmi.vlm import VLM

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "overhead.md"
TIME_TARGET, MEMORY_TARGET = 1.15, 1.05
PATCH = 14
SIDES = {"plain": "plain forward", "last": "resid_post, last position", "full": "all hooks, all positions"}


@dataclass(frozen=True)
class Cell:
    """A model and a prompt.

    Attributes:
        name: What it is called in the table.
        hidden: Width of the language model.
        layers: Its blocks.
        tokens: Length of the prompt, patches included.
        image: Side of the image in pixels.
        vision_hidden: Width of the vision tower.
        vision_layers: Its blocks.
        intermediate: Width of the language model's MLP; 0 for LLaMA's proportion.
        dtype: Precision.
        device: Where it runs.
        pairs: Timed pairs.
        patch: Side of a patch in pixels, which is one token.
        vocabulary: Tokens of the language model.
        heads: Its attention heads; 0 for one per 64 of the width (128 of a wide one).
        key_heads: Its heads of keys and values; 0 for as many.
        tied: Whether the unembedding is the embedding.
    """

    name: str
    hidden: int
    layers: int
    tokens: int
    image: int
    vision_hidden: int
    vision_layers: int = 2
    intermediate: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    pairs: int = 60
    patch: int = PATCH
    vocabulary: int = 32064
    heads: int = 0
    key_heads: int = 0
    tied: bool = False

    @property
    def patches(self) -> int:
        """Tokens of the image."""
        return (self.image // self.patch) ** 2

    def __str__(self) -> str:
        """Says the sizes in a line."""
        return f"hidden {self.hidden}, {self.layers} layers, {self.tokens} tokens, {self.dtype}, {self.device}"


SMALL = Cell("small", hidden=256, layers=32, tokens=80, image=112, vision_hidden=64)
LARGE = Cell("large", hidden=1024, layers=16, tokens=600, image=336, vision_hidden=256, pairs=12)
SEVEN = Cell("7B", 4096, 32, 600, 336, 1024, 24, 11008, "bfloat16", "cuda", 60)
CELLS = {cell.name: cell for cell in (SMALL, LARGE, SEVEN)}


class Encoded(VLM):
    """A model whose `run_with_cache` also takes a batch that is encoded already."""

    def encode(self, prompt: Any, *, padding_side: Literal["left", "right"] = "left") -> Batch:
        """Encodes prompts; a batch is returned as it is."""
        return prompt if isinstance(prompt, Batch) else super().encode(prompt, padding_side=padding_side)


@dataclass(frozen=True)
class Timed:
    """Two sides timed in pairs.

    Attributes:
        plain: Median seconds of the plain side.
        other: Median seconds of the other side.
        ratio: Median of the ratios within pairs.
        quartiles: First and third quartile of these.
        cpu_ratio: The median ratio of processor time, which waits of a busy machine do not touch.
        pairs: How many there were.
    """

    plain: float
    other: float
    ratio: float
    quartiles: tuple[float, float]
    cpu_ratio: float
    pairs: int


@dataclass(frozen=True)
class Row:
    """One line of the table: a way to read activations, against the plain forward.

    Attributes:
        what: What is read.
        time: Its time.
        plain: Peak bytes of the plain forward, or None where only time was measured.
        memory: Peak bytes of this one.
    """

    what: str
    time: Timed
    plain: float | None = None
    memory: float | None = None

    @property
    def memory_ratio(self) -> float | None:
        """Peak compared with the plain forward's."""
        return self.memory / self.plain if self.memory and self.plain else None


@dataclass(frozen=True)
class Result:
    """What was measured of a cell: the rows, and seconds of loading and of the self-check."""

    cell: Cell
    parameters: int
    rows: tuple[Row, ...]
    loading: float
    first_check: float
    remembered_check: float | None


def say(text: str) -> None:
    """Reports progress."""
    print(text, file=sys.stderr, flush=True)


def words() -> Any:
    """A tokenizer of a few words and letters."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.\n "
    vocabulary = [*special, *letters, "The", "city", "of", "is"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\W"), behavior="isolated")
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=["<image>"], **names)


def build(cell: Cell) -> tuple[Any, Any]:
    """Returns the cell's model with random weights, on its device, and its processor."""
    tokenizer = words()
    tower = hf.CLIPVisionConfig(
        hidden_size=cell.vision_hidden,
        intermediate_size=4 * cell.vision_hidden,
        num_hidden_layers=cell.vision_layers,
        num_attention_heads=max(1, cell.vision_hidden // 64),
        image_size=cell.image,
        patch_size=cell.patch,
    )
    heads = cell.heads or max(1, cell.hidden // (128 if cell.hidden > 2048 else 64))
    text = hf.LlamaConfig(
        vocab_size=cell.vocabulary,
        hidden_size=cell.hidden,
        intermediate_size=cell.intermediate or cell.hidden * 11008 // 4096,
        num_hidden_layers=cell.layers,
        num_attention_heads=heads,
        num_key_value_heads=cell.key_heads or heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = hf.LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=cell.patches,
        vision_feature_layer=-2,
        tie_word_embeddings=cell.tied,
    )
    size = {"height": cell.image, "width": cell.image}
    pictures = hf.CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    processor = hf.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=cell.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, cell.dtype))
    try:
        with torch.device(cell.device):
            model = hf.LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval(), processor


def prompt_of(cell: Cell) -> Any:
    """Returns a prompt of the cell's length: BOS, the image, and words."""
    pixels = np.random.default_rng(0).integers(0, 255, (cell.image, cell.image, 3), dtype=np.uint8)
    count = cell.tokens - cell.patches - 1
    text = "".join("is" if i % 2 else " " for i in range(count - 1)) + ":"
    return xmi.free_prompt("<image>" + text, [Image.fromarray(pixels)])


def forwards(vlm: Encoded, cell: Cell) -> dict[str, Callable[[], Any]]:
    """Returns the calls that are compared, by name; those in `SIDES` start from an encoded batch on the device."""
    prompt = prompt_of(cell)
    engine = vlm.engine
    encoded = vlm.encode(prompt)
    batch = replace(encoded, inputs=engine.place(encoded.inputs))
    length = batch.inputs["input_ids"].shape[1]
    if length != cell.tokens:
        raise RuntimeError(f"The prompt has {length} tokens in place of {cell.tokens}.")
    inputs = engine.forward(batch.inputs)
    columns = batch.columns("last") - length
    what: dict[str, Any] = {"names": ["resid_post"], "positions": "last"}

    def plain() -> Any:
        with torch.no_grad():
            return vlm.model(**inputs).logits

    def plain_from_text() -> Any:
        given = engine.forward(vlm.encode(prompt).inputs)
        with torch.no_grad():
            return vlm.model(**given).logits

    return {
        "plain": plain,
        "last": lambda: vlm.run_with_cache(batch, **what),
        "full": lambda: vlm.run_with_cache(batch),
        "plain_from_text": plain_from_text,
        "last_from_text": lambda: vlm.run_with_cache(prompt, **what),
        "nnsight": lambda: residual_kernel(
            engine.envoy, inputs, engine.paths, columns[:, None], len(columns), [len(columns)]
        ),
    }


def require_same(calls: dict[str, Callable[[], Any]], cell: Cell) -> None:
    """Refuses to compare forwards that do not give the same logits, or a cache that lacks a layer."""
    logits = calls["plain"]()[:, -1].float()
    given, cache = calls["last"]()
    apart = float((given[:, -1].float() - logits).abs().max() / logits.abs().max())
    shapes = {tuple(value.shape) for value in cache.values()}
    if apart > 1e-2 or len(cache) != cell.layers or shapes != {(1, 1, cell.hidden)}:
        raise RuntimeError(f"The sides differ: logits by {apart:.1e}, {len(cache)} activations of shapes {shapes}.")


def clock(call: Callable[[], Any], device: str) -> tuple[float, float]:
    """Returns seconds and seconds of processor time of one call."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    begin, used = time.perf_counter(), time.process_time()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin, time.process_time() - used
    del result
    return seconds


def compare(
    plain: Callable[[], Any], other: Callable[[], Any], *, pairs: int, seconds: float, device: str = "cpu"
) -> Timed:
    """Times two calls in pairs, after a warm-up; ends early, but not before 5 pairs, when the time is up."""
    for call in (plain, other, plain, other):
        call()
    gc.collect()
    gc.freeze()
    gc.disable()
    end = time.monotonic() + seconds
    found: list[tuple[tuple[float, float], tuple[float, float]]] = []
    try:
        while len(found) < pairs and (len(found) < 5 or time.monotonic() < end):
            if len(found) % 2:
                second = clock(other, device)
                found.append((clock(plain, device), second))
            else:
                first = clock(plain, device)
                found.append((first, clock(other, device)))
    finally:
        gc.enable()
        gc.unfreeze()
    ratios = [b[0] / a[0] for a, b in found]
    low, high = np.quantile(ratios, (0.25, 0.75))
    return Timed(
        plain=median(a[0] for a, _ in found),
        other=median(b[0] for _, b in found),
        ratio=median(ratios),
        quartiles=(float(low), float(high)),
        cpu_ratio=median(b[1] / a[1] for a, b in found),
        pairs=len(found),
    )


def allocated_peak(call: Callable[[], Any]) -> int:
    """Peak of torch's CPU allocator during a call above what it held before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: float(e["ts"])):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def cuda_peak(call: Callable[[], Any]) -> int:
    """Peak of CUDA's allocator during a call above what it held before."""
    call()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = int(torch.cuda.max_memory_allocated() - before)
    del result
    return peak


def child(folder: Path, side: str, cell: Cell, threads: int) -> None:
    """In a process of its own: measures one side's memory and prints it."""
    torch.set_num_threads(threads)
    vlm = Encoded(xmi.load(folder, device="cpu", check=False).engine)
    call = forwards(vlm, cell)[side]
    _ = vlm.report
    call()
    print(json.dumps({"peak": allocated_peak(call)}))


def in_child(folder: Path, side: str, cell: Cell, threads: int) -> int:
    """Starts a process that measures one side's memory."""
    given = json.dumps({"folder": str(folder), "side": side, "cell": cell.__dict__, "threads": threads})
    command = [sys.executable, "-m", "analyses.benchmarks.overhead", "--child", given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {side} failed:\n{done.stderr[-2000:]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak"])


def memories(folder: Path, sides: Sequence[str], cell: Cell, threads: int, repeats: int) -> dict[str, float]:
    """Medians of every side's memory over fresh processes, the order of the sides alternating."""
    found: dict[str, list[int]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            say(f"{cell.name}: memory of {SIDES[side]} ({repeat + 1}/{repeats})")
            found[side].append(in_child(folder, side, cell, threads))
    return {side: median(each) for side, each in found.items()}


def measure(cell: Cell, scratch: Path, *, threads: int, repeats: int, seconds: float, quick: bool) -> Result:
    """Measures a cell: loading and self-check, time in this process, memory in others."""
    say(f"{cell.name}: building ({cell})")
    model, processor = build(cell)
    parameters = sum(p.numel() for p in model.parameters())
    source: Any = model
    tool: Any = processor
    folder = scratch / cell.name
    if cell.device == "cpu":
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        source, tool = folder, None
    del model

    def loaded() -> Encoded:
        return Encoded(xmi.load(source, processor=tool, device=cell.device, check=False).engine)

    begin = time.perf_counter()
    vlm = loaded()
    loading = time.perf_counter() - begin
    say(f"{cell.name}: self-check")
    begin = time.perf_counter()
    _ = vlm.report
    first, again = time.perf_counter() - begin, None
    if cell.device == "cpu":
        other = loaded()
        begin = time.perf_counter()
        _ = other.report
        again = time.perf_counter() - begin
        del other
    calls = forwards(vlm, cell)
    require_same(calls, cell)
    timed = {}
    pairs = [("last", "plain"), ("last_from_text", "plain_from_text"), ("full", "plain"), ("nnsight", "plain")]
    for name, against in pairs[:1] if quick else pairs:
        say(f"{cell.name}: time of {name.replace('_', ' ')}")
        timed[name] = compare(calls[against], calls[name], pairs=cell.pairs, seconds=seconds, device=cell.device)
    sides = [side for side in SIDES if side == "plain" or side in timed]
    if cell.device == "cuda":
        memory: dict[str, float] = {side: cuda_peak(calls[side]) for side in sides}
    else:
        del vlm, calls
        memory = memories(folder, sides, cell, threads, repeats)
    names = {
        **SIDES,
        "last_from_text": f"{SIDES['last']}, encoding included on both sides",
        "nnsight": f"{SIDES['last']}, in an nnsight trace",
    }
    rows = [Row(names[n], t, memory["plain"] if n in memory else None, memory.get(n)) for n, t in timed.items()]
    return Result(cell, parameters, tuple(rows), loading, first, again)


def machine(threads: int) -> str:
    """Says what this ran on, without names of machine or user."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    parts = [f"{cpu}, {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    parts.append(f"Python {platform.python_version()}")
    return ", ".join([*parts, *(f"{name} {version(name)}" for name in ("torch", "transformers", "nnsight"))])


def page(results: Sequence[Result], command: str, threads: int, repeats: int) -> str:
    """The page of the documentation."""
    lines = [
        "# Overhead",
        "",
        "Time and peak memory of reading activations, compared with a plain forward of the same model on the same "
        'encoded inputs (`logits_to_keep=1`). The target is the last position of all layers (`names=["resid_post"]`, '
        f'`positions="last"`): at most {TIME_TARGET} times the time and {MEMORY_TARGET} times the memory. Models have '
        "LLaVA 1.5's configuration at the sizes named, and random weights.",
        "",
        "- Time: median of the paired ratios (first and third quartile), both sides alternating in one process; "
        "encoding outside of the timed part unless the row says otherwise.",
        "- Memory: peak of torch's allocator during the forward above what was held before it (weights are not "
        f"counted); on a CPU the median of {repeats} fresh process{'es' * (repeats != 1)} per side.",
        f"- Command: `{command}`",
        f"- Machine: {machine(threads)}",
        "",
        "| model | read | plain | xmi | time | plain | xmi | memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        for row in result.rows:
            t, low, high = row.time, *row.time.quartiles
            cells = [
                str(result.cell),
                row.what,
                f"{1e3 * t.plain:.1f} ms",
                f"{1e3 * t.other:.1f} ms",
                f"{t.ratio:.3f} ({low:.3f} to {high:.3f}; {t.pairs} pairs)",
            ]
            if row.memory is None or row.plain is None or row.memory_ratio is None:
                cells += ["", "", ""]
            else:
                cells += [f"{m / 1e6:.2f} MB" for m in (row.plain, row.memory)]
                cells.append(f"{row.memory_ratio:.3f}")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| model | parameters | loading, without self-check | self-check, first time | self-check, remembered |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        again = f"{1e3 * r.remembered_check:.1f} ms" if r.remembered_check is not None else ""
        lines.append(f"| {r.cell} | {r.parameters / 1e6:.0f} M | {r.loading:.2f} s | {r.first_check:.2f} s | {again} |")
    return "\n".join([*lines, ""])


def summary(result: Result) -> dict[str, Any]:
    """The JSON object of the last line, of the first cell."""
    row = result.rows[0]
    return {
        "time_ratio": row.time.ratio,
        "memory_ratio": row.memory_ratio,
        "time_target": TIME_TARGET,
        "memory_target": MEMORY_TARGET,
        "time_quartiles": list(row.time.quartiles),
        "cpu_time_ratio": row.time.cpu_ratio,
        "pairs": row.time.pairs,
        "plain_ms": 1e3 * row.time.plain,
        "xmi_ms": 1e3 * row.time.other,
        "plain_bytes": row.plain,
        "xmi_bytes": row.memory,
        "first_check_s": result.first_check,
        "remembered_check_s": result.remembered_check,
        "cell": str(result.cell),
    }


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.benchmarks.overhead", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="the small cell's target only, within a minute, as JSON")
    parser.add_argument(
        "--cells", nargs="+", choices=CELLS, help="which cells (default: small and large, and 7B where there is CUDA)"
    )
    parser.add_argument("--hidden", type=int, default=SMALL.hidden, help="small cell: width (a multiple of 64)")
    parser.add_argument("--layers", type=int, default=SMALL.layers, help="small cell: blocks")
    parser.add_argument("--tokens", type=int, default=SMALL.tokens, help="small cell: prompt length with the image")
    parser.add_argument("--image", type=int, default=SMALL.image, help="small cell: side of the image, times 14")
    parser.add_argument("--vision-layers", type=int, default=SMALL.vision_layers, help="small cell: tower's blocks")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--pairs", type=int, help="timed pairs (default: by cell)")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes per side for memory (--quick: 1)")
    parser.add_argument("--seconds", type=float, default=90.0, help="end a comparison after so long (--quick: 12)")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.hidden < 64 or args.hidden % 64 or args.image < PATCH or args.image % PATCH:
        parser.error("--hidden must be a multiple of 64 and --image one of 14")
    if args.tokens < (args.image // PATCH) ** 2 + 3:
        parser.error(f"--tokens {args.tokens} leaves no room beside {(args.image // PATCH) ** 2} patches")
    if min(args.layers, args.threads, args.repeats, args.pairs or 1) < 1 or args.vision_layers < 2:
        parser.error("--layers, --threads, --pairs and --repeats are at least 1, --vision-layers at least 2")
    if SEVEN.name in (args.cells or ()) and not torch.cuda.is_available():
        parser.error("the 7B cell needs CUDA")
    return args


def run(args: argparse.Namespace, command: str) -> int:
    """Measures what was asked for; returns the exit code."""
    torch.set_num_threads(args.threads)
    hf.utils.logging.disable_progress_bar()
    sizes = {n: getattr(args, n) for n in ("hidden", "layers", "tokens", "image", "vision_layers")}
    small = replace(SMALL, **sizes, vision_hidden=max(64, args.hidden // 4))
    names = args.cells or ["small", "large", *(["7B"] if torch.cuda.is_available() else [])]
    cells = [small] if args.quick else [small if name == small.name else CELLS[name] for name in names]
    results, failed = [], 0
    repeats, seconds = (1, min(12.0, args.seconds)) if args.quick else (args.repeats, args.seconds)
    with tempfile.TemporaryDirectory(prefix="xmi-overhead-") as scratch:
        os.environ["XMI_CACHE"] = str(Path(scratch) / "cache")  # so that the first self-check is one
        for cell in cells:
            cell = replace(cell, pairs=args.pairs or cell.pairs)
            options = {"threads": args.threads, "repeats": repeats, "seconds": seconds, "quick": args.quick}
            try:
                results.append(measure(cell, Path(scratch), **options))
            except XmiError as error:
                say(f"{cell.name}: {error}")
                failed = 1
    if not results:
        return 1
    if args.quick:
        print(json.dumps(summary(results[0])))
        return failed
    args.out.write_text(page(results, command, args.threads, repeats), encoding="utf-8")
    for result in results:
        row = result.rows[0]
        print(f"{result.cell.name}: time {row.time.ratio:.3f}, memory {row.memory_ratio:.3f}")
    print(json.dumps(summary(results[0])))
    return failed


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = arguments(given)
    try:
        if args.child:
            task = json.loads(args.child)
            child(Path(task["folder"]), task["side"], Cell(**task["cell"]), task["threads"])
            return 0
        shown = [a for a in (sys.argv[1:] if given is None else given) if a != str(args.out) and a != "--out"]
        return run(args, " ".join(["python -m analyses.benchmarks.overhead", *shown]))
    except KeyboardInterrupt:
        if not args.child:
            say("Interrupted; nothing was written.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
