"""Tiny random models of real architectures with real processors, built without any download."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["Q", "A", ":", "\n", "\n\n", "Greece", "Athens", "Italy", "Rome", "France", "Paris", "Peru", "Lima", "capital"]
WORDS += ["The", "city", "of", "the", "country", "Oslo", "Norway", "Cairo", "Egypt", ".", " ", "is"]
NAMES_AND_CITIES = (
    ("Greece", "Athens"),
    ("Italy", "Rome"),
    ("France", "Paris"),
    ("Peru", "Lima"),
    ("Norway", "Oslo"),
    ("Egypt", "Cairo"),
    ("city", "country"),
    ("is", "of"),
)
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}


def tokenizer(*special: str) -> Any:
    """A word-level tokenizer with BOS; characters it does not know become single letters."""
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    base = ["<pad>", "<s>", "</s>", "<unk>", *special, *dict.fromkeys(WORDS + letters)]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(base)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|\n|\w+|[^\s\w]| "), behavior="isolated")
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.decoder = decoders.Fuse()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        padding_side="left",
    )


def ids(tok: Any) -> dict[str, int]:
    return {
        "vocab_size": len(tok),
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
    }


def llama() -> tuple[torch.nn.Module, Any]:
    tok = tokenizer()
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **ids(tok))), tok


def gpt2() -> tuple[torch.nn.Module, Any]:
    """Learned absolute positions and another layout of modules."""
    tok = tokenizer()
    config = hf.GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=512, initializer_range=0.15, **ids(tok))
    return hf.GPT2LMHeadModel(config), tok


def gemma2() -> tuple[torch.nn.Module, Any]:
    """Sliding windows, sandwich norms and soft-capped logits."""
    tok = tokenizer()
    extra = {"sliding_window": 16, "head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 5.0}
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**TEXT, **extra, **ids(tok))), tok


def llava() -> tuple[torch.nn.Module, Any]:
    tok = tokenizer("<image>")
    vision = hf.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    size = {"height": 32, "width": 32}
    pictures = hf.CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    processor = hf.LlavaProcessor(
        pictures, tok, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.LlavaForConditionalGeneration(config), processor


def idefics3() -> tuple[torch.nn.Module, Any]:
    """Splits an image into tiles, each announced by text and wrapped in tokens of its own."""
    grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    names = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *grid]
    tok = tokenizer(*names)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = hf.Idefics3Config(
        vision_config=vision,
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tok.pad_token_id,
        tie_word_embeddings=False,
    )
    pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(pictures, tok, image_seq_len=4)
    return hf.Idefics3ForConditionalGeneration(config), processor


class NoVideo:
    """transformers 5.23 cannot check the class of a missing video processor where torchvision is missing too."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


class _Qwen2VLProcessor(NoVideo, hf.Qwen2VLProcessor):
    pass


def qwen2_vl() -> tuple[torch.nn.Module, Any]:
    """Multimodal rotary positions, merged patches, and a placeholder that only the chat template shows."""
    tok = tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
    special = {
        f"{name}_token_id": tok.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = hf.Qwen2VLConfig(
        text_config={**TEXT, **ids(tok), "rope_parameters": rope},
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        tie_word_embeddings=False,
        **special,
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    pictures = hf.Qwen2VLImageProcessorPil(size=size, patch_size=14, merge_size=2, temporal_patch_size=2)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    return hf.Qwen2VLForConditionalGeneration(config), _Qwen2VLProcessor(pictures, tok, None, chat_template=template)


def build(make: Any) -> tuple[torch.nn.Module, Any]:
    """Builds a model with fixed weights, in eval mode and float32."""
    torch.manual_seed(0)
    model, tool = make()
    return model.eval().float(), tool


ZOO = {f.__name__: f for f in (llama, gpt2, gemma2, llava, idefics3, qwen2_vl)}
VISION = ("llava", "idefics3", "qwen2_vl")
