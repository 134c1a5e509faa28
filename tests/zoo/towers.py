"""Families of a vision tower, a projector and a decoder: their image features take the place of repeated tokens.

They differ in how an image is cut into tiles, what text is put around them, and in the decoder behind.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
import torch
import transformers as hf
from transformers.image_utils import SizeDict
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import is_torchvision_available

from tests.zoo.family import Family, Made
from tests.zoo.models import TEXT, NoVideo, ids, tokenizer

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = {"height": 32, "width": 32}
GRID = [[32, 32], [32, 64], [64, 32], [64, 64]]


def _named(tok: Any, **tokens: str) -> Any:
    """Gives a tokenizer the names under which the families' own tokenizers know their special tokens."""
    for name, token in tokens.items():
        setattr(tok, f"{name}_token", token)
        setattr(tok, f"{name}_token_id", tok.convert_tokens_to_ids(token))
    return tok


def _awake(model: torch.nn.Module) -> torch.nn.Module:
    """Draws what is zero before training (gates, positions, offsets of norms), so that no part stays silent."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def _clip(patch_size: int = 16, **extra: Any) -> Any:
    return hf.CLIPVisionConfig(**{**TOWER, **extra}, image_size=32, patch_size=patch_size)


def _siglip(patch_size: int = 16) -> Any:
    return hf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=patch_size, vision_use_head=False)


def _pixtral() -> Any:
    rope = {"rope_type": "axial", "rope_theta": 10000.0}
    return hf.PixtralVisionConfig(**TOWER, image_size=64, patch_size=8, initializer_range=0.15, rope_parameters=rope)


def llava_next() -> Made:
    """Any-resolution tiles; a tile's padding is cut off again and every row ends in a learned newline."""
    tok = tokenizer("<image>")
    config = hf.LlavaNextConfig(
        vision_config=_clip(num_hidden_layers=3),
        text_config=hf.MistralConfig(**TEXT, **ids(tok), sliding_window=8),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID[1:],
        vision_feature_layer=-2,
    )
    pictures = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE, image_grid_pinpoints=GRID[1:])
    processor = hf.LlavaNextProcessor(
        pictures, tok, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


class _LlavaOnevisionProcessor(NoVideo, hf.LlavaOnevisionProcessor): ...


def llava_onevision() -> Made:
    """One image is tiled at any resolution, several images get one tile each."""
    tok = tokenizer("<image>", "<video>")
    config = hf.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=hf.Qwen2Config(**TEXT, **ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRID,
    )
    pictures = hf.LlavaOnevisionImageProcessorPil(size=SIZE, image_grid_pinpoints=GRID)
    processor = _LlavaOnevisionProcessor(pictures, tok, None, num_image_tokens=4, vision_feature_select_strategy="full")
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def vipllava() -> Made:
    """The projector sees several layers of the tower side by side."""
    tok = tokenizer("<image>")
    config = hf.VipLlavaConfig(
        vision_config=_clip(num_hidden_layers=3),
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=(-1, -2, 1),
    )
    pictures = hf.CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    processor = hf.LlavaProcessor(
        pictures, tok, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.VipLlavaForConditionalGeneration(config), processor


def idefics2() -> Made:
    """A perceiver resamples every tile into the same few latents; adjacent images share a boundary token."""
    tok = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    latents = {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 16}
    config = hf.Idefics2Config(
        vision_config={**TOWER, "image_size": 64, "patch_size": 16, "initializer_range": 0.15},
        perceiver_config={**latents, "hidden_size": 64, "num_key_value_heads": 2, "initializer_range": 0.15},
        text_config=hf.MistralConfig(**TEXT, **ids(tok), sliding_window=16),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
    )
    size = {"shortest_edge": 32, "longest_edge": 64}
    pictures = hf.Idefics2ImageProcessorPil(size=size, do_image_splitting=True)
    return hf.Idefics2ForConditionalGeneration(config), hf.Idefics2Processor(pictures, tok, image_seq_len=3)


class _SmolVLMProcessor(NoVideo, hf.SmolVLMProcessor): ...


def smolvlm() -> Made:
    """Idefics3's successor: the same tiles, announced by rows and columns."""
    grid = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tok = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>", *grid)
    config = hf.SmolVLMConfig(
        vision_config={**TOWER, "image_size": 32, "patch_size": 8, "initializer_range": 0.15},
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        pad_token_id=tok.pad_token_id,
        scale_factor=2,
    )
    # Spells the number of a video's frames; the processor demands it even where there is no video.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    pictures = hf.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return hf.SmolVLMForConditionalGeneration(config), _SmolVLMProcessor(pictures, tok, None, image_seq_len=4)


def gemma3() -> Made:
    """Image tokens see each other in both directions; sliding windows between full layers, norms on both sides."""
    tok = _named(
        tokenizer("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        boi="<start_of_image>",
        eoi="<end_of_image>",
        image="<image_soft_token>",
    )
    extra = {"sliding_window": 16, "sliding_window_pattern": 2, "head_dim": 16, "query_pre_attn_scalar": 16}
    config = hf.Gemma3Config(
        vision_config=_siglip(patch_size=8),
        text_config=hf.Gemma3TextConfig(**TEXT, **extra, **ids(tok)),
        mm_tokens_per_image=4,
        initializer_range=0.15,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
        tie_word_embeddings=False,
    )
    processor = hf.Gemma3Processor(hf.Gemma3ImageProcessorPil(size=SIZE), tok, image_seq_length=4)
    return _awake(hf.Gemma3ForConditionalGeneration(config)), processor


def paligemma() -> Made:
    """A prefix-LM: the whole prompt sees itself in both directions, and all images stand before the text."""
    tok = tokenizer("<image>")
    pictures = hf.SiglipImageProcessorPil(size=SIZE)
    pictures.image_seq_length = 4
    processor = hf.PaliGemmaProcessor(pictures, tok)
    config = hf.PaliGemmaConfig(
        vision_config=_siglip(),
        text_config=hf.GemmaConfig(**TEXT, **ids(tok), head_dim=16),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vocab_size=len(tok),
        projection_dim=64,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    return _awake(hf.PaliGemmaForConditionalGeneration(config)), processor


def _pixtral_processor() -> Any:
    """Pixtral's processor class, which transformers 5.23 imports only beside torchvision, for a function of sizes."""
    home = "transformers.models.pixtral"
    if not is_torchvision_available():
        pil = import_module(f"{home}.image_processing_pil_pixtral")
        sys.modules.setdefault(f"{home}.image_processing_pixtral", pil)
    return import_module(f"{home}.processing_pixtral").PixtralProcessor


def _rows_of_patches(merge: int) -> tuple[Any, Any]:
    """Pixtral's processor, which ends every row of an image's patches in a token of its own, and its tokenizer."""
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    pictures = hf.PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 8, "width": 8})
    return _pixtral_processor()(pictures, tok, patch_size=8, spatial_merge_size=merge), tok


def mistral3() -> Made:
    """Images keep their aspect ratio; neighbouring patches are merged, rows end in a token of their own."""
    processor, tok = _rows_of_patches(merge=2)
    config = hf.Mistral3Config(
        vision_config=_pixtral(),
        text_config=hf.MistralConfig(**TEXT, **ids(tok), sliding_window=None),
        image_token_index=tok.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return hf.Mistral3ForConditionalGeneration(config), processor


def pixtral() -> Made:
    """LLaVA with Pixtral's tower: images keep their aspect ratio, rows end in a token of their own."""
    processor, tok = _rows_of_patches(merge=1)
    config = hf.LlavaConfig(
        vision_config=_pixtral(),
        text_config=hf.MistralConfig(**TEXT, **ids(tok), sliding_window=None),
        image_token_index=tok.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return hf.LlavaForConditionalGeneration(config), processor


class _InternVLProcessor(NoVideo, hf.InternVLProcessor): ...


def internvl() -> Made:
    """Tiles and a thumbnail, shuffled from pixels into channels, between tokens for the image's start and end."""
    tok = _named(
        tokenizer("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        start_image="<img>",
        end_image="</img>",
        context_image="<IMG_CONTEXT>",
        video="<video>",
    )
    vision = {**TOWER, "image_size": 32, "patch_size": 8, "initializer_range": 0.15, "use_qk_norm": True}
    config = hf.InternVLConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, **ids(tok)),
        image_token_id=tok.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    pictures = hf.GotOcr2ImageProcessorPil(size=SIZE, max_patches=3)
    processor = _InternVLProcessor(pictures, tok, None, image_seq_length=4)
    return _awake(hf.InternVLForConditionalGeneration(config)), processor


def _command(tok: Any) -> Any:
    """Cohere's decoder: attention and feed-forward side by side, full layers without positions among windows.

    It alone would scale its logits; the multimodal models around it do not, though their configuration says so.
    """
    return hf.Cohere2Config(**TEXT, **ids(tok), sliding_window=8, sliding_window_pattern=2, logit_scale=0.25)


def aya_vision() -> Made:
    """Tiles announced by text, part of which is not a special token, before a decoder of parallel blocks."""
    names = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    tok = tokenizer("<image>", *names)
    config = hf.AyaVisionConfig(
        vision_config=_siglip(patch_size=8),
        text_config=_command(tok),
        image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"),
        tie_word_embeddings=False,
    )
    pictures = hf.GotOcr2ImageProcessorPil(size=SIZE, max_patches=3)
    processor = hf.AyaVisionProcessor(pictures, tok, patch_size=8, img_size=32, downsample_factor=2)
    return hf.AyaVisionForConditionalGeneration(config), processor


def cohere2_vision() -> Made:
    """Tiles that end in a line break (cut by GOT-OCR2's image processor, as Cohere's own needs torchvision)."""
    tok = _named(
        tokenizer("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
        boi="<|START_OF_IMG|>",
        eoi="<|END_OF_IMG|>",
        image="<|IMG_PATCH|>",
    )
    tok.img_line_break_token = "<|IMG_LINE_BREAK|>"
    config = hf.Cohere2VisionConfig(
        vision_config=_siglip(patch_size=8),
        text_config=_command(tok),
        image_token_id=tok.image_token_id,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    pictures = hf.GotOcr2ImageProcessorPil(size=SIZE, max_patches=3, crop_to_patches=True)
    pictures.patch_size = 2  # the processor's word for the side of a tile in image tokens
    return hf.Cohere2VisionForConditionalGeneration(config), hf.Cohere2VisionProcessor(pictures, tok)


def got_ocr2() -> Made:
    """A tower of windowed attention with relative positions (SAM's), downsampled by convolutions."""
    tok = tokenizer("<img>", "</img>", "<imgpad>", "<|im_start|>", "<|im_end|>")
    vision = {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "output_channels": 32,
        "window_size": 4,
        "global_attn_indexes": [1],
        "initializer_range": 0.15,
    }
    config = hf.GotOcr2Config(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, **ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = hf.GotOcr2Processor(hf.GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}), tok)
    processor.num_image_tokens = 4
    return _awake(hf.GotOcr2ForConditionalGeneration(config)), processor


def ovis2() -> Made:
    """A tile's patches are words of a visual vocabulary, mixed by probability; rows and columns have indicators."""
    indicators = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tok = tokenizer("<image>", "<IMG_ATOM>", *indicators)
    vision = {
        **TOWER,
        "image_size": 32,
        "patch_size": 8,
        "vocab_size": 50,
        "hidden_stride": 2,
        "num_visual_indicator_tokens": 5,
        "initializer_range": 0.15,
    }
    config = hf.Ovis2Config(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, **ids(tok)),
        image_token_id=tok.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tok.convert_tokens_to_ids(list(indicators)),
        vocab_size=len(tok),
        hidden_size=64,
        tie_word_embeddings=False,
    )
    pictures = hf.Ovis2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=3)
    return hf.Ovis2ForConditionalGeneration(config), hf.Ovis2Processor(pictures, tok, image_seq_length=4)


class _Tiles(hf.GotOcr2ImageProcessorPil):
    """Tiles as Perception LM's image processor gives them: one stack per image, all of the same number of tiles."""

    def _preprocess(self, images: list[np.ndarray], *args: Any, **kwargs: Any) -> Any:
        made = super()._preprocess(images, *args, **kwargs)
        made["pixel_values"] = made["pixel_values"].unflatten(0, (len(images), -1))
        del made["num_patches"]
        return made


class _PerceptionLMProcessor(NoVideo, hf.PerceptionLMProcessor): ...


def perception_lm() -> Made:
    """Pooled tiles (the tower is CLIP's in place of timm's, and the tiles are cut without torchvision)."""
    tok = _named(tokenizer("<|image|>", "<|video|>"), image="<|image|>", video="<|video|>")
    config = hf.PerceptionLMConfig(
        vision_config=_clip(patch_size=8, model_args={"embed_dim": 32}),
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        projector_pooling_ratio=2,
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
    )
    pictures = _Tiles(size=SIZE, crop_to_patches=True, min_patches=2, max_patches=2)
    processor = _PerceptionLMProcessor(None, pictures, tok, patch_size=8, pooling_ratio=2)
    return hf.PerceptionLMForConditionalGeneration(config), processor


def deepseek_vl() -> Made:
    """Images padded to squares, whose tokens have no start and no end."""
    tok = _named(tokenizer("<image_placeholder>"), image="<image_placeholder>")
    config = hf.DeepseekVLConfig(
        vision_config=_siglip(),
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        image_token_id=tok.image_token_id,
        tie_word_embeddings=False,
    )
    processor = hf.DeepseekVLProcessor(hf.DeepseekVLImageProcessorPil(size=SIZE), tok, num_image_tokens=4)
    return hf.DeepseekVLForConditionalGeneration(config), processor


def aria() -> Made:
    """A mixture of experts beside shared ones; learned queries read an image, padding left out."""
    tok = _named(tokenizer("<|img|>"), image="<|img|>")
    experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config = hf.AriaConfig(
        vision_config=hf.Idefics3VisionConfig(**TOWER, image_size=490, patch_size=70, initializer_range=0.15),
        text_config=hf.AriaTextConfig(**TEXT, **experts, **ids(tok)),
        projector_patch_to_query_dict={49: 4},
        initializer_range=0.15,
        image_token_index=tok.image_token_id,
    )
    pictures = hf.AriaImageProcessorPil(max_image_size=490)
    processor = hf.AriaProcessor(pictures, tok, size_conversion={490: 4})
    # Smaller than the default, which would cost time and change nothing.
    processor.images_kwargs = {"max_image_size": 490, "split_image": False}
    return _awake(hf.AriaForConditionalGeneration(config)), processor


class _Lfm2VlKwargs(hf.Siglip2ImageProcessorPil.valid_kwargs, total=False):
    return_row_col_info: bool


class _Lfm2VlPictures(hf.Siglip2ImageProcessorPil):
    """Two tiles and a thumbnail of every image, as LFM2-VL's own image processor gives them, without torchvision."""

    valid_kwargs = _Lfm2VlKwargs
    tile_size, use_thumbnail, encoder_patch_size, downsample_factor = 32, True, 8, 2

    def _preprocess(self, images: list[np.ndarray], *args: Any, **kwargs: Any) -> Any:
        crops = []
        for image in images:
            wide, small = (self.resize(image, SizeDict(height=32, width=w), kwargs["resample"]) for w in (64, 32))
            crops += [wide[..., :32], wide[..., 32:], small]
        made = super()._preprocess(crops, *args, **kwargs)
        made.update({"image_rows": [1] * len(images), "image_cols": [2] * len(images)})
        made["image_sizes"] = [[32, 32]] * len(images)
        return made


def lfm2_vl() -> Made:
    """Short convolutions between attention blocks: a token reaches the next ones without attention."""
    grid = [f"<|img_row_1_col_{c}|>" for c in (1, 2)]
    tok = tokenizer("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *grid)
    text = {**TEXT, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
    vision = hf.Siglip2VisionConfig(**TOWER, num_patches=16, patch_size=8, vision_use_head=False)
    config = hf.Lfm2VlConfig(
        vision_config=vision,
        text_config=hf.Lfm2Config(**text, **ids(tok), block_auto_adjust_ff_dim=False),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        tie_word_embeddings=False,
    )
    pictures = _Lfm2VlPictures(patch_size=8, max_num_patches=16)
    return hf.Lfm2VlForConditionalGeneration(config), hf.Lfm2VlProcessor(pictures, tok)


def granite4_vision() -> Made:
    """Image features enter only between the blocks, at several depths; multipliers on embeddings, residuals, logits."""
    tok = tokenizer("<image>")
    scales = {
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.25,
        "logits_scaling": 2.0,
    }
    config = hf.Granite4VisionConfig(
        vision_config=_clip(patch_size=8, hidden_size=64),
        text_config={**TEXT, **scales, **ids(tok), "num_hidden_layers": 6},
        qformer_config={
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID[1:],
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[2, 3, 4, 5],
    )
    pictures = hf.LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE, image_grid_pinpoints=GRID[1:])
    processor = hf.Granite4VisionProcessor(
        pictures,
        tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        downsample_rate="1/2",
    )
    return hf.Granite4VisionForConditionalGeneration(config), processor


def lighton_ocr() -> Made:
    """Pixtral's tower with merged patches and no row ends, before a decoder that normalises queries and keys."""
    tok = _named(
        tokenizer("<|image_pad|>", "<|vision_pad|>", "<|vision_end|>"),
        image="<|image_pad|>",
        image_break="<|vision_pad|>",
        image_end="<|vision_end|>",
    )
    config = hf.LightOnOcrConfig(
        vision_config=_pixtral(),
        text_config=hf.Qwen3Config(**TEXT, **ids(tok), head_dim=16),
        image_token_id=tok.image_token_id,
        tie_word_embeddings=False,
    )
    pictures = hf.PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 16, "width": 16})
    processor = hf.LightOnOcrProcessor(pictures, tok, patch_size=8, spatial_merge_size=2)
    return hf.LightOnOcrForConditionalGeneration(config), processor


def fast_vlm() -> Made:
    """A convolutional tower whose feature map is read row by row (ConvNeXt in place of timm's FastViT)."""
    tok = tokenizer("<image>")
    vision = hf.ConvNextConfig(
        num_stages=2, patch_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_scale_init_value=1.0, hidden_size=32
    )
    config = hf.FastVlmConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, **ids(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    pictures = hf.CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    processor = hf.LlavaProcessor(pictures, tok, patch_size=16, vision_feature_select_strategy="full")
    return hf.FastVlmForConditionalGeneration(config), processor


FAMILIES: tuple[Family, ...] = (
    Family("LLaVA-NeXT", "llava_next", llava_next, note="tiles at any resolution, learned ends of rows"),
    Family("LLaVA-OneVision", "llava_onevision", llava_onevision, note="tiles only where the prompt has one image"),
    Family("VipLLaVA", "vipllava", vipllava, note="several layers of the tower at once"),
    Family("Idefics2", "idefics2", idefics2, note="tiles resampled into latents"),
    Family("SmolVLM", "smolvlm", smolvlm, note="tiles announced by text"),
    Family("Gemma 3", "gemma3", gemma3, note="image tokens see each other in both directions, sliding windows"),
    Family(
        "PaliGemma",
        "paligemma",
        paligemma,
        images="first",
        note="prefix-LM",
        unpacked="every token of a prompt sees the last one, so a patch changes more than the last token",
    ),
    Family("Mistral 3", "mistral3", mistral3, note="native aspect ratio, merged patches, tokens between rows"),
    Family("Pixtral", "pixtral", pixtral, note="native aspect ratio, tokens between rows"),
    Family("InternVL", "internvl", internvl, note="tiles and a thumbnail, shuffled patches"),
    Family("Aya Vision", "aya_vision", aya_vision, note="tiles announced by text, parallel blocks"),
    Family("Cohere2 Vision", "cohere2_vision", cohere2_vision, note="tiles with line breaks, parallel blocks"),
    Family("GOT-OCR2", "got_ocr2", got_ocr2, note="windowed tower with relative positions"),
    Family("Ovis2", "ovis2", ovis2, note="visual vocabulary, indicators of rows and columns"),
    Family("Perception LM", "perception_lm", perception_lm, note="pooled tiles"),
    Family("DeepSeek-VL", "deepseek_vl", deepseek_vl, note="one tile per image, padded to a square"),
    Family("Aria", "aria", aria, note="mixture of experts, learned queries"),
    Family(
        "LFM2-VL",
        "lfm2_vl",
        lfm2_vl,
        note="short convolutions between attention blocks",
        unpacked="a convolution mixes neighbouring columns whatever the mask, so packed copies see each other",
    ),
    Family("Granite 4 Vision", "granite4_vision", granite4_vision, note="image features enter at several depths"),
    Family("LightOnOCR", "lighton_ocr", lighton_ocr, note="native aspect ratio, merged patches"),
    Family("FastVLM", "fast_vlm", fast_vlm, note="convolutional tower"),
)
