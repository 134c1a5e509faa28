"""Small models of real architectures with random weights, which know the words of the embedded model.

They can do nothing, and that is what they are for: a page over many models must show what no task at all looks like.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import xmi

WORDS = Path(xmi.__file__).parent / "data" / "organism" / "vlm"
SIDE = {"height": 32, "width": 32}
TEXT = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
EYE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
Made = tuple[torch.nn.Module, Any]


def llava_llama() -> Made:
    """LLaVA over Llama: the embedded model's architecture, with 12 layers in place of 8."""
    return _llava(lambda known: hf.LlamaConfig(**TEXT, num_hidden_layers=12, **known))


def llava_qwen2() -> Made:
    """LLaVA over Qwen2, with 16 layers."""
    return _llava(lambda known: hf.Qwen2Config(**TEXT, num_hidden_layers=16, **known))


def _llava(text: Callable[[dict[str, int]], Any]) -> Made:
    words, known = _words()
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**EYE, patch_size=16),
        text_config=text(known),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    pictures = hf.CLIPImageProcessorPil(size=SIDE, crop_size=SIDE, do_center_crop=False)
    processor = hf.LlavaProcessor(
        pictures, words, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.LlavaForConditionalGeneration(config), processor


def idefics3() -> Made:
    """Idefics3 (and SmolVLM), which wraps an image into tokens of its own, with 6 layers."""
    grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words, known = _words("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *grid)
    config = hf.Idefics3Config(
        vision_config={**EYE, "patch_size": 8},
        text_config=hf.LlamaConfig(**TEXT, num_hidden_layers=6, **known),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return hf.Idefics3ForConditionalGeneration(config), hf.Idefics3Processor(pictures, words, image_seq_len=4)


def gemma3() -> Made:
    """Gemma 3, whose image tokens see each other in both directions, with sliding windows and 10 layers."""
    words, known = _words("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    named = {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": "<image_soft_token>"}
    for name, token in named.items():
        words._set_model_specific_special_tokens({f"{name}_token": token})
    window = {"sliding_window": 64, "sliding_window_pattern": 2, "head_dim": 16, "query_pre_attn_scalar": 16}
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**EYE, patch_size=8),
        text_config=hf.Gemma3TextConfig(**TEXT, num_hidden_layers=10, **window, **known),
        mm_tokens_per_image=4,
        **{f"{name}_token_index": words.convert_tokens_to_ids(token) for name, token in named.items()},
        tie_word_embeddings=False,
    )
    processor = hf.Gemma3Processor(hf.Gemma3ImageProcessorPil(size=SIDE), words, image_seq_length=4)
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)  # zero until trained
    return model, processor


SHAPES = {"llava-llama": llava_llama, "llava-qwen2": llava_qwen2, "idefics3": idefics3, "gemma3": gemma3}


def folder_of(name: str, models: Path) -> Path:
    """Returns the folder of a shape, which is made there the first time; a half-written one is never found."""
    folder = models / name
    if not folder.is_dir():
        half = models / f"{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        torch.manual_seed(0)
        model, processor = SHAPES[name]()
        for made in (model.eval().float(), processor):
            made.save_pretrained(half)
        half.replace(folder)
    return folder


def _words(*special: str) -> tuple[Any, dict[str, int]]:
    """The embedded model's tokenizer with more tokens, and what a configuration says of it."""
    words = hf.AutoTokenizer.from_pretrained(WORDS)
    words.add_special_tokens({"additional_special_tokens": list(special)})
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return words, {"vocab_size": len(words), **{name: getattr(words, name) for name in names}}
