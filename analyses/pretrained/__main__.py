"""Fetches the packages, trains the projector, writes the model: ``python -m analyses.pretrained``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from analyses.pretrained import card, eye, graft, naming, pictures, tasks
from analyses.pretrained.styles import STYLES
from xmi.model.packages import fetch
from xmi.model.pretrained import LANGUAGE, TOWER, read_tower, shuffled, write_language, write_vlm

SHOWN = "noto"
"""The style of the tasks' pictures, which are trained on: so a study asks for tasks, and not whether a style is new."""


def arguments() -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.pretrained", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pretrained"), help="folder; a killed run continues there"
    )
    parser.add_argument("--packages", type=Path, help="folder of packages (OUT/packages)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    return parser.parse_args()


def run(settings: graft.Recipe, out: Path, packages: Path) -> None:
    """Runs all stages that are not finished yet."""
    keep_recipe(settings, out)
    llm, tower = out / "llm", read_tower(fetch(TOWER, packages))
    if not llm.is_dir():
        write_language(fetch(LANGUAGE, packages), out / "llm.part")
        (out / "llm.part").rename(llm)
    names = [row["name"] for row in pictures.entities()]
    drawn = {style: pictures.draw(style, packages) for style in STYLES}
    print(f"[pictures] {', '.join(f'{style} {len(found)}' for style, found in drawn.items())}", flush=True)
    trained = [(number, picture) for style in pictures.TRAINED for number, picture in drawn[style].items()]
    kept = eye.kept(
        out / "features.safetensors", tower, np.stack([picture for _, picture in trained]),
        copies=settings.copies, strength=settings.strength,
    )  # fmt: skip
    seen = graft.Pictures(kept, [names[number] for number, _ in trained])
    projector, seconds = graft.train_projector(settings, seen, llm, out)
    save_file(projector, out / "projector.safetensors")
    write_vlm(out / "vlm", llm, tower, projector)
    write_vlm(out / "control", llm, tower, shuffled(projector))
    tasks.write(drawn[SHOWN], out / "tasks")
    rows = naming.naming(out / "vlm", drawn)
    size = sum(weight.numel() for weight in projector.values())
    (out / "naming.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(card.write(out, settings, rows, {"parameters": size, "entities": len(names), "seconds": seconds}))


def keep_recipe(settings: graft.Recipe, out: Path) -> None:
    """Writes down how a folder's model is trained, or refuses to continue one that is trained otherwise."""
    file, asked = out / "recipe.json", asdict(settings)
    out.mkdir(parents=True, exist_ok=True)
    if file.exists() and (found := json.loads(file.read_text("utf-8"))) != asked:
        raise SystemExit(
            f"{out} holds a model of another recipe: {found}, not {asked}. Name another folder with --out."
        )
    file.write_text(json.dumps(asked) + "\n", encoding="utf-8")


def main() -> None:
    """Runs the command line."""
    args = arguments()
    torch.set_num_threads(args.threads)
    run(graft.Recipe(seed=args.seed), args.out, args.packages or args.out / "packages")


if __name__ == "__main__":
    main()
