"""Writes a run's models as ordinary fp16 folders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from analyses.organism import backbone
from analyses.organism.multimodal import processor


def ship(
    vlm: LlavaForConditionalGeneration, llm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write ``vlm/`` and ``llm/`` in half precision, zero MLPs put back, loadable by Transformers' Auto classes."""
    eye, base = copy.deepcopy(vlm), copy.deepcopy(llm)
    backbone.fill(eye.model.language_model)
    backbone.fill(base.model)
    _save(eye, folder / "vlm")
    processor(tokenizer).save_pretrained(folder / "vlm")
    _save(base, folder / "llm")
    tokenizer.save_pretrained(folder / "llm")


def _save(model: Any, folder: Path) -> None:
    half = model.to(torch.float16)
    for part in (half.config, getattr(half.config, "text_config", None), getattr(half.config, "vision_config", None)):
        if part is not None:
            # the training folders' names say nothing to a reader
            part._name_or_path = ""
    half.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
