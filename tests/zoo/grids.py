"""Vision-language models of the zoo whose images are grids: of merged patches, of tiles, or beside the text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf
from tokenizers import processors
from transformers.image_utils import make_flat_list_of_images

from tests.zoo.family import Family, Made
from tests.zoo.models import TEXT, NoVideo, ids, tokenizer

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 16,
    "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0},
}
ERNIE_START, ERNIE_IMAGE, ERNIE_END = "<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>"
ERNIE_VIDEO = "<|VIDEO_PLACEHOLDER|>"
ERNIE_NAMES = {"image": ERNIE_IMAGE, "image_start": ERNIE_START, "image_end": ERNIE_END, "video": ERNIE_VIDEO}
ERNIE_NAMES |= {"video_start": "<|VIDEO_START|>", "video_end": "<|VIDEO_END|>"}
ERNIE_TOKENS = tuple(ERNIE_NAMES.values())
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_TEMPLATE = "<|vision_start|><|image_pad|><|vision_end|>"
GLM_TOKENS = ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|begin_of_video|>", "<|end_of_video|>")
GLM_TOKENS += ("<|video|>",)
GLM_TEMPLATE = "<|begin_of_image|><|image|><|end_of_image|>"


def _template(image: str) -> str:
    """A chat template that shows only what stands for an image."""
    return (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        + image
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )


def _token_ids(tok: Any, **tokens: str) -> dict[str, int]:
    return {f"{name}_token_id": tok.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _named(tok: Any, **tokens: str) -> Any:
    """Gives tokens the names by which a processor asks for them (`tok.image_token`)."""
    tok._set_model_specific_special_tokens({f"{name}_token": token for name, token in tokens.items()})
    return tok


class _Qwen2_5VLProcessor(NoVideo, hf.Qwen2_5_VLProcessor):
    pass


class _Qwen3VLProcessor(NoVideo, hf.Qwen3VLProcessor):
    pass


class _Glm4vProcessor(NoVideo, hf.Glm4vProcessor):
    pass


class _Glm46VProcessor(NoVideo, hf.Glm46VProcessor):
    pass


def _qwen(config: str, model: str, processor: type, text: dict[str, Any], vision: dict[str, Any], patch: int) -> Made:
    tok = tokenizer(*QWEN_TOKENS)
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    grid = {"patch_size": patch, "temporal_patch_size": 2}
    sizes = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    made = getattr(hf, config)(
        text_config={**TEXT, **ids(tok), "rope_parameters": MROPE, **text},
        vision_config={**sizes, **grid, "spatial_merge_size": 2, "initializer_range": 0.15, **vision},
        tie_word_embeddings=False,
        **_token_ids(tok, **{name: f"<|{token}|>" for name, token in tokens.items()}),
    )
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (4 * patch) ** 2}
    pictures = hf.Qwen2VLImageProcessorPil(size=size, merge_size=2, **grid)
    return getattr(hf, model)(made), processor(pictures, tok, None, chat_template=_template(QWEN_TEMPLATE))


def qwen2_5_vl() -> Made:
    """Windowed attention in the vision tower, with one layer that sees the whole image."""
    vision = {"window_size": 28, "fullatt_block_indexes": [1]}
    return _qwen("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", _Qwen2_5VLProcessor, {}, vision, 14)


def qwen3_vl() -> Made:
    """Deepstack: features of both vision layers are added to the residual after the first text layers."""
    vision = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    text = {"head_dim": 16}
    return _qwen("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", _Qwen3VLProcessor, text, vision, 16)


def qwen3_vl_moe() -> Made:
    """Deepstack, and two of four experts for every token."""
    vision = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    text = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return _qwen("Qwen3VLMoeConfig", "Qwen3VLMoeForConditionalGeneration", _Qwen3VLProcessor, text, vision, 16)


def qwen3_5() -> Made:
    """Three layers of linear attention (a recurrence with a short convolution) before one of full attention."""
    vision = {"num_position_embeddings": 16}
    return _qwen("Qwen3_5Config", "Qwen3_5ForConditionalGeneration", _Qwen3VLProcessor, LINEAR, vision, 16)


def _glm(kind: str, processor: type, pictures: type, text: dict[str, Any]) -> Made:
    tok = tokenizer(*GLM_TOKENS)
    sizes = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    grid = {"patch_size": 14, "temporal_patch_size": 2}
    made = getattr(hf, f"{kind}Config")(
        text_config={**TEXT, **ids(tok), "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}, **text},
        vision_config={**sizes, **grid, "image_size": 56, "spatial_merge_size": 2, "initializer_range": 0.15},
        tie_word_embeddings=False,
        **_token_ids(
            tok,
            image="<|image|>",
            video="<|video|>",
            image_start="<|begin_of_image|>",
            image_end="<|end_of_image|>",
            video_start="<|begin_of_video|>",
            video_end="<|end_of_video|>",
        ),
    )
    # Its sizes count pixels of two frames, since a still image is doubled.
    size = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 56 * 56}
    tool = processor(pictures(size=size, merge_size=2, **grid), tok, None, chat_template=_template(GLM_TEMPLATE))
    return getattr(hf, f"{kind}ForConditionalGeneration")(made), tool


def glm4v() -> Made:
    """Norms before and after each sublayer; the vision tower's positions are interpolated to the grid."""
    return _glm("Glm4v", _Glm4vProcessor, hf.Glm4vImageProcessorPil, {})


def glm46v() -> Made:
    """GLM-4V's tower and text with a processor of its own."""
    return _glm("Glm46V", _Glm46VProcessor, hf.Glm46VImageProcessorPil, {"model_type": "glm4v_text"})


def glm4v_moe() -> Made:
    """A dense first layer, then shared and routed experts chosen by group."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 1}
    return _glm("Glm4vMoe", _Glm4vProcessor, hf.Glm4vImageProcessorPil, {**experts, "first_k_dense_replace": 1})


def mllama() -> Made:
    """Images are read by two gated cross-attention layers, tile by tile, and have one token each in the text."""
    tok = tokenizer("<|image|>", "<|python_tag|>")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1}
    shapes = {"image_size": 32, "patch_size": 16, "attention_heads": 2, "vision_output_dim": 96}
    model = hf.MllamaForConditionalGeneration(
        hf.MllamaConfig(
            vision_config={**vision, **shapes, "intermediate_layers_indices": [0, 1], "initializer_range": 0.15},
            text_config={**TEXT, **ids(tok), "num_hidden_layers": 5, "cross_attention_layers": [1, 3]},
            image_token_index=tok.convert_tokens_to_ids("<|image|>"),
            tie_word_embeddings=False,
        )
    )
    for name, parameter in model.named_parameters():
        if name.split(".")[-1].endswith("gate"):  # closed at the start of training: no image would matter
            torch.nn.init.constant_(parameter, 0.5)
    size = {"height": 32, "width": 32}
    return model, hf.MllamaProcessor(hf.MllamaImageProcessorPil(size=size, max_image_tiles=4), tok)


def _squares(image: Any, side: int) -> list[Any]:
    """An image as one square, or two one above the other if it is tall."""
    rows = 2 if image.height > image.width else 1
    tall = image.resize((side, side * rows))
    return [tall.crop((0, side * row, side, side * (row + 1))) for row in range(rows)]


class _Llama4Tiles(hf.CLIPImageProcessorPil):
    """Llama 4's own image processor needs torchvision: as it does, tiles and, if there are several, the whole."""

    def preprocess(self, images: Any, **kwargs: Any) -> Any:
        images = make_flat_list_of_images(images)
        tiles = [_squares(image, 32) for image in images]
        views = [[*cut, image] if len(cut) > 1 else cut for image, cut in zip(images, tiles, strict=True)]
        made = super().preprocess([view for image in views for view in image], **kwargs)
        return hf.BatchFeature({**made, "aspect_ratios": torch.tensor([[len(cut), 1] for cut in tiles])})


class _Llama4Processor(NoVideo, hf.Llama4Processor):
    pass


def llama4() -> Made:
    """Attention in chunks shorter than the prompts, layers without positions, experts on every second layer."""
    parts = ("image_start", "image_end", "image", "patch", "tile_x_separator", "tile_y_separator")
    tok = tokenizer(*(f"<|{part}|>" for part in parts))
    shuffled = {"projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "interleave_moe_layer_step": 2}
    chunks = {"attention_chunk_size": 16, "no_rope_layer_interval": 4, "head_dim": 16}
    config = hf.Llama4Config(
        vision_config={**TOWER, **shuffled, "intermediate_size": 128, "image_size": 32, "patch_size": 8},
        text_config={**TEXT, **ids(tok), **experts, **chunks, "intermediate_size_mlp": 96},
        boi_token_index=tok.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tok.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tok.convert_tokens_to_ids("<|patch|>"),
        tie_word_embeddings=False,
    )
    size = {"height": 32, "width": 32}
    pictures = _Llama4Tiles(size=size, crop_size=size, do_center_crop=False)
    return hf.Llama4ForConditionalGeneration(config), _Llama4Processor(pictures, tok, patch_size=8)


def gemma3n() -> Made:
    """Four copies of the residual stream (altup) and inputs of each layer's own. Its image tower needs timm."""
    tok = tokenizer()
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {"head_dim": 16, "sliding_window": 16, "layer_types": kinds, "num_kv_shared_layers": 0}
    inputs = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tok), "laurel_rank": 8}
    return hf.Gemma3nForCausalLM(hf.Gemma3nTextConfig(**{**TEXT, **ids(tok), **text, **inputs})), tok


class _Gemma4Processor(NoVideo, hf.Gemma4Processor):
    pass


def _gemma4(**text: Any) -> Made:
    names = {"image": "<|image|>", "boi": "<|image>", "eoi": "<image|>"}
    names |= {"audio": "<|audio|>", "boa": "<|audio>", "eoa": "<audio|>"}
    tok = _named(tokenizer(*names.values(), "<|video|>"), **names)
    kinds = ["sliding_attention", "full_attention"] * 2
    widths = {"head_dim": 16, "global_head_dim": 32, "num_key_value_heads": 1, "sliding_window": 16}
    config = hf.Gemma4Config(
        text_config={**TEXT, **ids(tok), **widths, "layer_types": kinds, "final_logit_softcapping": 5.0, **text},
        vision_config={**TOWER, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4}
        | {"position_embedding_size": 64, "initializer_range": 0.15},
        audio_config=None,
        initializer_range=0.15,
        tie_word_embeddings=False,
        **_token_ids(tok, **names, video="<|video|>"),
    )
    pictures = hf.Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3)
    tool = _Gemma4Processor(None, pictures, tok, None, image_seq_length=70)
    return hf.Gemma4ForConditionalGeneration(config), tool


def gemma4() -> Made:
    """Inputs of each layer's own, keys and values shared by the upper layers, two head widths, soft-capped logits."""
    return _gemma4(num_kv_shared_layers=2, hidden_size_per_layer_input=8, vocab_size_per_layer_input=128)


def gemma4_wide() -> Made:
    """As the larger Gemma 4: image tokens see each other both ways, experts beside the feed-forward."""
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    return _gemma4(use_bidirectional_attention="vision", hidden_size_per_layer_input=0, **experts)


class _Ernie4_5_VLMoeProcessor(NoVideo, hf.Ernie4_5_VLMoeProcessor):
    pass


class _VideoLlama3Processor(NoVideo, hf.VideoLlama3Processor):
    pass


class _MiniCPMV4_6Processor(NoVideo, hf.MiniCPMV4_6Processor):
    pass


def paddleocr_vl() -> Made:
    """A tower that takes any grid, under Ernie's text blocks with multimodal rotary positions."""
    tok = _named(tokenizer(*ERNIE_TOKENS), **ERNIE_NAMES)
    config = hf.PaddleOCRVLConfig(
        text_config={**TEXT, **ids(tok), "rope_parameters": MROPE, "head_dim": 16},
        vision_config={**TOWER, "image_size": 56, "patch_size": 14, "spatial_merge_size": 2},
        tie_word_embeddings=False,
        **_token_ids(tok, image=ERNIE_IMAGE, video=ERNIE_VIDEO, vision_start=ERNIE_START, vision_end=ERNIE_END),
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    pictures = hf.PaddleOCRVLImageProcessorPil(size=size, patch_size=14, merge_size=2)
    template = _template(ERNIE_START + ERNIE_IMAGE + ERNIE_END)
    model = hf.PaddleOCRVLForConditionalGeneration(config)
    return model, hf.PaddleOCRVLProcessor(pictures, tok, chat_template=template)


def ernie4_5_vl_moe() -> Made:
    """Text and image tokens have routed experts of their own, besides shared ones."""
    tok = _named(tokenizer(*ERNIE_TOKENS), **ERNIE_NAMES)
    experts = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [48, 32], "moe_num_shared_experts": 1}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14}
    config = hf.Ernie4_5_VLMoeConfig(
        text_config={**TEXT, **ids(tok), **experts, "rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]}},
        vision_config={**vision, "spatial_merge_size": 2, "initializer_range": 0.15},
        tie_word_embeddings=False,
        **_token_ids(tok, **ERNIE_NAMES),
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    pictures = hf.Ernie4_5_VLMoeImageProcessorPil(size=size, patch_size=14, merge_size=2)
    template = _template(ERNIE_START + ERNIE_IMAGE + ERNIE_END)
    model = hf.Ernie4_5_VLMoeForConditionalGeneration(config)
    return model, _Ernie4_5_VLMoeProcessor(pictures, tok, None, chat_template=template)


def video_llama_3() -> Made:
    """A tower that takes any grid and merges patches by averaging, under Qwen2's text."""
    tok = tokenizer("<|image_pad|>", "<|video_pad|>")
    config = hf.VideoLlama3Config(
        text_config={**TEXT, **ids(tok), "model_type": "qwen2"},
        vision_config={**TOWER, "patch_size": 14, "initializer_range": 0.15},
        tie_word_embeddings=False,
        **_token_ids(tok, image="<|image_pad|>", video="<|video_pad|>"),
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    pictures = hf.VideoLlama3ImageProcessorPil(size=size, patch_size=14, merge_size=2)
    return hf.VideoLlama3ForConditionalGeneration(config), _VideoLlama3Processor(pictures, tok, None)


def minicpmv4_6() -> Made:
    """Slices beside a thumbnail, numbered in text, merged inside and after the tower; Qwen3.5's text."""
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "image_start": "<image>", "image_end": "</image>"}
    names |= {"slice_start": "<slice>", "slice_end": "</slice>"}
    names |= {"image_id_start": "<image_id>", "image_id_end": "</image_id>"}
    tok = _named(tokenizer(*names.values()), **names)
    config = hf.MiniCPMV4_6Config(
        text_config={**TEXT, **ids(tok), **LINEAR, "model_type": "qwen3_5_text"},
        vision_config={**TOWER, "image_size": 32, "patch_size": 4},
        image_size=32,
        insert_layer_id=0,
        tie_word_embeddings=False,
        **_token_ids(tok, image="<|image_pad|>", video="<|video_pad|>"),
    )
    pictures = hf.MiniCPMV4_6ImageProcessorPil(scale_resolution=32, patch_size=4, max_slice_nums=2)
    frames = SimpleNamespace(slice_mode=False, downsample_mode="16x", model_input_names=[])
    return hf.MiniCPMV4_6ForConditionalGeneration(config), _MiniCPMV4_6Processor(pictures, frames, tok)


class _Molmo2Crops(hf.CLIPImageProcessorPil):
    """Molmo2's own image processor needs torchvision: as it does, the whole and crops, and which patches to pool."""

    def preprocess(self, images: Any, **kwargs: Any) -> Any:
        images = make_flat_list_of_images(images)
        crops = [_squares(image, 32) for image in images]
        views = [view for image, cut in zip(images, crops, strict=True) for view in (image, *cut)]
        pixels = torch.as_tensor(super().preprocess(views, **kwargs)["pixel_values"])
        patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1)  # view, row, column, pixels
        numbers = torch.arange(16 * len(views)).reshape(-1, 2, 2, 2, 2).transpose(2, 3)  # two by two are pooled
        return hf.BatchFeature(
            {
                "pixel_values": patches.reshape(len(views), 16, -1),
                "image_token_pooling": numbers.reshape(-1, 4),
                "image_grids": torch.tensor([[2, 2, 2 * len(cut), 2] for cut in crops]),
                "image_num_crops": torch.tensor([1 + len(cut) for cut in crops]),
            }
        )


class _Molmo2Processor(NoVideo, hf.Molmo2Processor):
    pass


def molmo2() -> Made:
    """Image features are added to the placeholder's embedding, and all image tokens see each other both ways."""
    parts = ("im_patch", "im_col", "im_start", "low_res_im_start", "im_end", "frame_start", "frame_end", "im_low")
    tok = tokenizer("<|image|>", "<|video|>", *(f"<{part}>" for part in parts))
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")  # its processor writes the BOS
    heads = {"num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.15}
    adapter = {"num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64, "text_hidden_size": 64}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    special = _token_ids(tok, **{part.replace("im_", "image_"): f"<{part}>" for part in parts[2:7]})
    config = hf.Molmo2Config(
        text_config={**TEXT, **ids(tok), "head_dim": 16, "additional_vocab_size": 8, "rope_parameters": rope},
        vision_config={**TOWER, **heads, "image_size": [32, 32], "patch_size": 8},
        adapter_config={**adapter, **heads, "vision_feature_layer": [1, 0]},
        image_patch_id=tok.convert_tokens_to_ids("<im_patch>"),
        initializer_range=0.15,
        tie_word_embeddings=False,
        **special,
    )
    size = {"height": 32, "width": 32}
    pictures = _Molmo2Crops(size=size, crop_size=size, do_center_crop=False)
    return hf.Molmo2ForConditionalGeneration(config), _Molmo2Processor(pictures, None, tok)


UNMASKED = (
    "text before an image attends to all image columns of the batch, so prompts of one batch have as many images as "
    "each other"
)
RECURRENT = "linear attention is a recurrence: copies of the last token in one row see each other whatever the mask"

FAMILIES: tuple[Family, ...] = (
    Family("Qwen2.5-VL", "qwen2_5_vl", qwen2_5_vl, note="windowed vision tower"),
    Family("Qwen3-VL", "qwen3_vl", qwen3_vl, note="deepstack"),
    Family("GLM-4V", "glm4v", glm4v, note="sandwich norms, multimodal rotary positions"),
    Family(
        "Mllama",
        "mllama",
        mllama,
        images="alike",
        note=f"cross-attention layers; {UNMASKED}",
    ),
    Family("Llama 4", "llama4", llama4, note="chunked attention, tiles, mixture of experts"),
    Family("Qwen3-VL-MoE", "qwen3_vl_moe", qwen3_vl_moe, note="deepstack, mixture of experts"),
    Family("Qwen3.5", "qwen3_5", qwen3_5, note="linear attention", unpacked=RECURRENT),
    Family("GLM-4.6V", "glm46v", glm46v),
    Family("GLM-4V-MoE", "glm4v_moe", glm4v_moe, note="shared and routed experts"),
    Family("Gemma 3n", "gemma3n_text", gemma3n, images="none", note="text part only", refused="final norm"),
    Family("Gemma 4", "gemma4", gemma4, note="per-layer inputs, shared keys and values"),
    Family("Gemma 4 (26B, 31B)", "gemma4", gemma4_wide, note="two-way attention within images, experts"),
    Family("PaddleOCR-VL", "paddleocr_vl", paddleocr_vl, note="any grid, multimodal rotary positions"),
    Family("Ernie 4.5 VL", "ernie4_5_vl_moe", ernie4_5_vl_moe, note="experts by modality"),
    Family("VideoLLaMA3", "video_llama_3", video_llama_3, note="any grid"),
    Family(
        "MiniCPM-V 4.6",
        "minicpmv4_6",
        minicpmv4_6,
        note="numbered slices, linear attention",
        unpacked=RECURRENT,
    ),
    Family("Molmo2", "molmo2", molmo2, note="two-way attention among all image tokens, crops"),
)
