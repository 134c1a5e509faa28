"""Train, package and evaluate one run: ``python -m analyses.organism --seed 0 --out runs/organism-0``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from analyses.organism import evaluate, tokenizer, vision, world
from analyses.organism.language import train_language
from analyses.organism.multimodal import train_multimodal
from analyses.organism.recipe import VARIANTS, Recipe, recipe
from analyses.organism.ship import ship

TASKS = Path(__file__).parents[2] / "xmi" / "data" / "tasks"


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.organism", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--variant", default="organism", choices=sorted(VARIANTS), help="what to change")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; a killed run continues there")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="folder of the six tasks and their images")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--alignment", type=Path, help="a run whose finished alignment is used (else trained here)")
    parser.add_argument("--projector", type=Path, help="a run whose finished projector stage is used")
    parser.add_argument("--vision", type=Path, help="a run whose finished tower is used (else trained here)")
    parser.add_argument("--language", type=Path, help="a run whose finished base LLM is used (else trained here)")
    return parser.parse_args()


def borrow(source: Path | None, name: str, folder: Path) -> None:
    """Copy a finished stage of another run into this one."""
    if source is not None and not (folder / f"{name}.pt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.pt").write_bytes((source / f"{name}.pt").read_bytes())


def run(settings: Recipe, args: argparse.Namespace) -> None:
    """Run all stages that are not finished yet."""
    start, folder = time.monotonic(), args.out
    facts = world.load(args.tasks, settings.synthetic, settings.real_extra)
    words = tokenizer.build(facts)
    print(f"{len(facts.entities)} entities, {len(facts.attributes)} attributes, {len(words)} tokens", flush=True)
    vision.image_stack(facts)  # a missing, blank or doubled image stops the run before any training
    for stage in ("vision", "language", "alignment", "projector"):
        borrow(getattr(args, stage), stage, folder)
    torch.manual_seed(settings.seed)
    eye = vision.train_vision(settings, facts, folder)
    torch.manual_seed(settings.seed)
    llm = train_language(settings, facts, words, folder)
    vlm = train_multimodal(settings, facts, words, llm, eye, folder)
    ship(vlm, llm, words, folder)
    print(f"packaged in {folder}, evaluating", flush=True)
    result = evaluate.evaluate(facts, folder / "vlm", folder / "llm", settings.seed)
    seconds = {p.stem: torch.load(p, weights_only=True)["seconds"] for p in sorted(folder.glob("*.pt"))}
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in (("vlm", vlm), ("llm", llm))}
    result |= {"recipe": settings.to_dict(), "training_seconds": seconds, "trained_parameters": sizes}
    evaluate.write(result, folder / "evaluation.json")
    print(json.dumps({k: round(v["value"], 3) for k, v in (result["prompts"] | result["patches"]).items()}, indent=1))
    print(f"done in {(time.monotonic() - start) / 60:.1f} min: {folder / 'evaluation.json'}", flush=True)


def main() -> None:
    """Run the command line."""
    args = arguments()
    torch.set_num_threads(args.threads)
    run(recipe(args.variant, args.seed), args)


if __name__ == "__main__":
    main()
