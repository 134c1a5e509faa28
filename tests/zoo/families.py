"""All families of the zoo, in the order in which the docs list them."""

from __future__ import annotations

from tests.zoo import grids, models, text, towers, unusual
from tests.zoo.family import Family

FAMILIES: tuple[Family, ...] = (
    Family("LLaVA", "llava", models.llava, note="CLIP tower, projector, one image token repeated"),
    Family("Idefics3", "idefics3", models.idefics3, note="tiles announced by text"),
    Family("Qwen2-VL", "qwen2_vl", models.qwen2_vl, note="merged patches, multimodal rotary positions"),
    *towers.FAMILIES,
    *grids.FAMILIES,
    *unusual.FAMILIES,
    Family("Llama", "llama", models.llama, images="none"),
    Family("GPT-2", "gpt2", models.gpt2, images="none", note="learned absolute positions"),
    Family("Gemma 2", "gemma2", models.gemma2, images="none", note="sliding windows, sandwich norms, soft-capping"),
    *text.FAMILIES,
)
