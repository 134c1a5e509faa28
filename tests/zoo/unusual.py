"""Families that show an image to a causal decoder in unusual ways, and those that have no causal decoder."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from tokenizers import Regex, models, normalizers, pre_tokenizers

from tests.zoo.family import Family, Made
from tests.zoo.models import TEXT, ids, tokenizer

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "initializer_range": 0.15,
}
QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "initializer_range": 0.15,
}
PLAIN = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}
VQ = {"num_res_blocks": 1, "latent_channels": 32, "embed_dim": 32}
SIZE = {"height": 32, "width": 32}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Draws every matrix again: several of these families start from weights so small that nothing depends on them."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1:
                value.normal_(0, 0.15)
            elif "query" in name or "gate" in name or "alpha" in name:
                value.normal_(0, 0.5)
    return model


def named(tok: Any, **names: str) -> Any:
    """A tokenizer that names its image tokens, as those of real checkpoints do."""
    for name, token in names.items():
        setattr(tok, name, token)
        setattr(tok, f"{name}_id", tok.convert_tokens_to_ids(token))
    return tok


def square(kind: type[Any], **options: Any) -> Any:
    return kind(size=SIZE, **options)


def opt(tok: Any) -> Any:
    layout = {"word_embed_proj_dim": 64, "ffn_dim": 96, "init_std": 0.15}
    return hf.OPTConfig(**PLAIN, **layout, **ids(tok))


class _FuyuImages(hf.FuyuImageProcessorPil):
    """In transformers 5.23 the variant without torchvision cannot cut tensors, which its own processor gives it."""

    def patchify_image(self, image: Any, patch_size: Any = None) -> Any:
        return torch.from_numpy(super().patchify_image(image.numpy(), patch_size))


def fuyu() -> Made:
    """No tower: raw patches are projected; every row of patches ends in a newline, the prompt in a token of its own."""
    tok = tokenizer()
    # As in the real vocabulary these are ordinary pieces, and a word boundary slips in before the first.
    words = tok.get_vocab()
    words |= {word: len(words) + i for i, word in enumerate(("|SPEAKER|", "|NEWLINE|", "<0x04>", "\u2581"))}
    raw = tok.backend_tokenizer
    raw.model = models.WordLevel(words, unk_token="<unk>")
    pattern = Regex(r"\|[A-Z]+\||<0x04>|\n\n|\n|\w+|[^\s\w]| ")
    raw.normalizer = normalizers.Replace(Regex(r"^(?=\|SPEAKER\|)"), "\u2581")
    raw.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    text = {**PLAIN, "qk_layernorm": True, "hidden_act": "relu2"}
    config = hf.FuyuConfig(
        text_config=hf.PersimmonConfig(**text, **ids(tok)),
        patch_size=8,
        image_token_id=tok.convert_tokens_to_ids("|SPEAKER|"),
    )
    pictures = _FuyuImages(size=SIZE, patch_size={"height": 8, "width": 8})
    return hf.FuyuForCausalLM(config), hf.FuyuProcessor(pictures, tok)


def blip_2() -> Made:
    """Queries instead of patches; the processor puts them before BOS, after tokenising."""
    tok = tokenizer("<image>")
    config = hf.Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=opt(tok),
        num_query_tokens=5,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    model = hf.Blip2ForConditionalGeneration(config)
    pictures = square(hf.BlipImageProcessorPil)
    return spread(model), hf.Blip2Processor(pictures, tok, num_query_tokens=5)


def instructblip() -> Made:
    """BLIP-2 whose queries read the prompt too, through a tokenizer of their own."""
    tok, own = tokenizer("<image>"), tokenizer()
    own.padding_side = "right"  # as BERT's, whose positions are absolute
    config = hf.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(own)},
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        num_query_tokens=5,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    model = hf.InstructBlipForConditionalGeneration(config)
    pictures = square(hf.BlipImageProcessorPil)
    return spread(model), hf.InstructBlipProcessor(pictures, tok, own, num_query_tokens=5)


def kosmos2() -> Made:
    """Latents at ids of their own, written over the ids after tokenising; no forward without an image."""
    tok = tokenizer("<image>", "</image>")
    pictures = hf.CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    processor = hf.Kosmos2Processor(pictures, tok, 4)
    processor.num_image_tokens = 5
    text = {
        "embed_dim": 64,
        "layers": 4,
        "ffn_dim": 96,
        "attention_heads": 4,
        "init_std": 0.15,
        "scale_embedding": False,
        "tie_word_embeddings": False,
    }
    config = hf.Kosmos2Config(
        text_config={**text, **ids(processor.tokenizer)},
        vision_config=VISION,
        latent_query_num=5,
        tie_word_embeddings=False,
    )
    return spread(hf.Kosmos2ForConditionalGeneration(config)), processor


def janus() -> Made:
    """Understands through a SigLIP-like tower, draws through a VQ-VAE that stays idle here."""
    names = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tok = named(tokenizer(*names.values()), **names)
    vision = {k: v for k, v in VISION.items() if k != "intermediate_size"}
    config = hf.JanusConfig(
        text_config=hf.LlamaConfig(**TEXT, **ids(tok)),
        vision_config={**vision, "mlp_ratio": 2.0, "projection_dim": 64, "num_image_tokens": 4},
        vq_config={**VQ, "base_channels": 32, "num_embeddings": 16, "projection_dim": 64, "image_token_embed_dim": 64},
        image_token_id=tok.image_token_id,
        tie_word_embeddings=False,
    )
    processor = hf.JanusProcessor(hf.JanusImageProcessorPil(size=SIZE, min_size=4), tok, num_image_tokens=4)
    return hf.JanusForConditionalGeneration(config), processor


def emu3() -> Made:
    """Images become words of a codebook; the last token of every row is a newline under the same placeholder."""
    names = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    words = [f"<|visual token {i:06d}|>" for i in range(16)]
    tok = named(tokenizer(*names.values(), "<|extra_200|>", "*", *words), **names)
    vocabulary = {word: tok.convert_tokens_to_ids(word) for word in ("<image>", "<|extra_200|>", *words)}
    layout = {"base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "hidden_size": 32}
    config = hf.Emu3Config(
        vq_config={**layout, "codebook_size": 16, "attn_resolutions": []},
        text_config={**TEXT, "attention_dropout": 0.0, **ids(tok)},
        vocabulary_map=vocabulary,
        tie_word_embeddings=False,
    )
    pictures = hf.Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=40 * 40)
    return spread(hf.Emu3ForConditionalGeneration(config)), hf.Emu3Processor(pictures, tok)


def chameleon() -> Made:
    """Images become words of a codebook; the processor ends every prompt that shows one with a separator."""
    words = [f"IMGIMG{chr(65 + i // 10)}{chr(65 + i % 10)}Z" for i in range(16)]
    tok = tokenizer("<image>", "<racm3:break>", "<eoss>", "<sep>", *words)
    tok.sep_token = "<sep>"
    vocabulary = {word: tok.convert_tokens_to_ids(word) for word in ("<image>", *words)}
    layout = {"base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "resolution": 32, "num_embeddings": 16}
    config = hf.ChameleonConfig(
        **TEXT,
        **ids(tok),
        vq_config={**VQ, **layout},
        vocabulary_map=vocabulary,
    )
    pictures = hf.ChameleonImageProcessorPil(size=SIZE, crop_size=SIZE)
    return spread(hf.ChameleonForConditionalGeneration(config)), hf.ChameleonProcessor(pictures, tok, 16)


def git() -> Made:
    """Image features before the text inside the model: no token stands for them."""
    tok = tokenizer()
    config = hf.GitConfig(vision_config=VISION, **PLAIN, **ids(tok))
    return hf.GitForCausalLM(config), hf.GitProcessor(square(hf.CLIPImageProcessorPil, crop_size=SIZE), tok)


def idefics() -> Made:
    """Cross-attention between the blocks, behind gates; the processor takes texts and images in one list."""
    tok = tokenizer("<fake_token_around_image>", "<image>")
    vision = {k: v for k, v in VISION.items() if k != "hidden_size"}
    config = hf.IdeficsConfig(
        **PLAIN,
        **ids(tok),
        vision_config={**vision, "embed_dim": 32},
        cross_layer_interval=2,
        alpha_initializer="ones",
    )
    pictures = hf.IdeficsImageProcessorPil(image_size=32)
    return hf.IdeficsForVisionText2Text(config), hf.IdeficsProcessor(pictures, tok, image_size=32)


def blip() -> Made:
    """A BERT-like decoder that attends across to the image."""
    tok = tokenizer()
    text = {**PLAIN, "encoder_hidden_size": 32, **ids(tok)}
    config = hf.BlipConfig(vision_config=VISION, text_config={**text, "sep_token_id": tok.eos_token_id})
    return hf.BlipForConditionalGeneration(config), hf.BlipProcessor(square(hf.BlipImageProcessorPil), tok)


def pix2struct() -> Made:
    """An encoder of rendered text, a T5-like decoder."""
    tok = tokenizer()
    sizes = {"hidden_size": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4}
    config = hf.Pix2StructConfig(
        text_config={**sizes, "num_layers": 4, **ids(tok)},
        vision_config={**sizes, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_embed_hidden_size": 768},
        is_vqa=False,
    )
    pictures = hf.Pix2StructImageProcessorPil(max_patches=16)
    return hf.Pix2StructForConditionalGeneration(config), hf.Pix2StructProcessor(pictures, tok)


def t5() -> dict[str, Any]:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 4, "num_heads": 4}
    return {"model_type": "t5", **sizes, "decoder_start_token_id": 0}


def blip_2_t5() -> Made:
    """BLIP-2 around an encoder-decoder."""
    tok = tokenizer("<image>")
    config = hf.Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config={**t5(), **ids(tok)},
        num_query_tokens=5,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    pictures = square(hf.BlipImageProcessorPil)
    return hf.Blip2ForConditionalGeneration(config), hf.Blip2Processor(pictures, tok, num_query_tokens=5)


def florence2() -> Made:
    """DaViT features and text into BART."""
    names = {"image_token": "<image>"}
    tok = named(tokenizer(*names.values()), **names)
    bart = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 4, "encoder_attention_heads": 4}
    bart |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, **ids(tok)}
    config = hf.Florence2Config(
        text_config={"model_type": "bart", **bart},
        vision_config={
            "embed_dim": [8, 8, 16, 32],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "depths": [1, 1, 1, 1],
            "projection_dim": 64,
        },
        image_token_id=tok.image_token_id,
    )
    pictures = hf.CLIPImageProcessorPil(size=SIZE, crop_size=SIZE)
    return hf.Florence2ForConditionalGeneration(config), hf.Florence2Processor(pictures, tok)


ENCODER = "encoder-decoder"
FAMILIES: tuple[Family, ...] = (
    Family("Fuyu", "fuyu", fuyu, images="first", note="no tower: raw patches, rows ended by newlines"),
    Family("BLIP-2", "blip-2", blip_2, images="first", note="queries of a Q-Former before BOS, causal OPT"),
    Family("InstructBLIP", "instructblip", instructblip, images="first", note="queries that read the prompt"),
    Family(
        "Kosmos-2",
        "kosmos-2",
        kosmos2,
        images="first",
        note="latents, ids replaced after tokenising",
        unpacked="its decoder makes its mask from a 2-D one by itself, so packed copies cannot be distinguished",
    ),
    Family("Janus", "janus", janus, note="understanding path beside an idle VQ-VAE"),
    Family("Emu3", "emu3", emu3, note="images as words of a codebook, rows ended by newlines"),
    Family("Chameleon", "chameleon", chameleon, note="images as words of a codebook"),
    Family("GIT", "git", git, images="first", refused="no final norm"),
    Family("IDEFICS", "idefics", idefics, note="gated cross-attention, texts and images in one list"),
    Family("BLIP-2 (T5)", "blip-2", blip_2_t5, images="first", refused=ENCODER),
    Family("Florence-2", "florence2", florence2, images="first", refused=ENCODER),
    Family("Pix2Struct", "pix2struct", pix2struct, images="first", refused=ENCODER),
    Family("BLIP", "blip", blip, images="first", refused="no unembedding"),
)
