"""Generation against transformers' own `generate`, for options and batches of every kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

import xmi
from tests.night import times
from tests.zoo.family import build
from tests.zoo.models import llama, llava, qwen2_vl
from tests.zoo.oracle import prompts_for
from xmi.model.context_length import context_length
from xmi.prompt import Prompt, Prompts, Segment
from xmi.vlm import VLM

made: dict[Any, VLM] = {}


def of(make: Any) -> VLM:
    if make not in made:
        model, tool = build(make)
        made[make] = xmi.load(model, processor=tool)
    return made[make]


def expected(vlm: VLM, prompts: Any, **options: Any) -> torch.Tensor:
    """What the model itself generates, without the prompts."""
    inputs = {k: v for k, v in vlm.encode(prompts).inputs.items() if k != "position_ids"}
    with torch.no_grad():
        ids: torch.Tensor = vlm.model.generate(**inputs, **{"do_sample": False, "pad_token_id": 0, **options})
    return ids[:, inputs["input_ids"].shape[1] :]


ROWS = [
    {"num_return_sequences": 2, "do_sample": True},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 2},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
]


@pytest.mark.fault("A12")
@pytest.mark.parametrize("options", ROWS, ids=str)
@pytest.mark.parametrize("make", [llama, llava])
def test_options_that_give_several_rows(make: Any, options: dict[str, Any]) -> None:
    vlm, prompts = of(make), prompts_for("many" if make is llava else "none")
    each = options.get("num_return_sequences", 1)
    torch.manual_seed(0)
    wanted = expected(vlm, prompts, max_new_tokens=4, **options)
    torch.manual_seed(0)
    found = vlm.generate(prompts, max_new_tokens=4, **options)
    assert torch.equal(found.ids, wanted)
    assert found.prompts == tuple(row for row in range(3) for _ in range(each))
    assert found.texts == tuple(vlm.encoder.tokenizer.batch_decode(wanted, skip_special_tokens=True))
    assert all(prompt.text not in found.texts[row] for row in range(3) for prompt in prompts if prompt.text)


@pytest.mark.fault("B15")
@pytest.mark.parametrize("make", [llava, qwen2_vl])
def test_batches_of_prompts_with_images_and_without(make: Any) -> None:
    """Mixed numbers of images, none among them, in one batch: as one by one, greedily."""
    vlm = of(make)
    mixed = [*prompts_for("many"), *prompts_for("none")]
    found = vlm.generate(mixed, max_new_tokens=5)
    for row, prompt in enumerate(mixed):
        alone = vlm.generate([prompt], max_new_tokens=5)
        assert torch.equal(found.ids[row, : alone.ids.shape[1]], alone.ids[0]), row
        assert found.texts[row] == alone.texts[0]
        assert torch.equal(alone.ids, expected(vlm, [prompt], max_new_tokens=5))
    twice = vlm.generate(mixed, max_new_tokens=3, num_beams=2, num_return_sequences=2)
    assert torch.equal(twice.ids, expected(vlm, mixed, max_new_tokens=3, num_beams=2, num_return_sequences=2))
    assert twice.prompts == tuple(i // 2 for i in range(12))


@pytest.mark.fault("B9")
@pytest.mark.parametrize("how", ["option", "configuration"])
def test_stop_strings(how: str) -> None:
    vlm, prompts = xmi.load("organism"), ["Q:Greece\nA:", "Q:a red apple\nA:"]
    tokenizer = vlm.encoder.tokenizer
    given = {"stop_strings": ["\n", "Q"], "max_new_tokens": 8}
    options = given if how == "option" else {"generation_config": hf.GenerationConfig(**given)}
    found = vlm.generate(prompts, **options)
    assert torch.equal(
        found.ids, expected(vlm, prompts, **given, tokenizer=tokenizer, pad_token_id=tokenizer.pad_token_id)
    )
    assert found.ids.shape[1] < vlm.generate(prompts, max_new_tokens=8).ids.shape[1]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 3},
        {"bad_words_ids": [[5], [7]]},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2, "one": True},
        {"logits_processor": hf.LogitsProcessorList([hf.MinLengthLogitsProcessor(30, eos_token_id=1)])},
        {
            "stopping_criteria": hf.StoppingCriteriaList(
                [lambda ids, scores: torch.full((len(ids),), ids.shape[1] > 20)]
            )
        },
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_options_are_transformers_own(options: dict[str, Any]) -> None:
    options = dict(options)
    vlm, prompts = of(llama), prompts_for("none")[: 1 if options.pop("one", False) else 3]
    found = vlm.generate(prompts, max_new_tokens=6, **options)
    assert torch.equal(found.ids, expected(vlm, prompts, max_new_tokens=6, **options))


def test_assisted_decoding_and_streaming() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    model, tool = build(llama)
    helper = xmi.load(model, processor=tool)
    plain = vlm.generate(prompts[:1], max_new_tokens=6)
    assert torch.equal(vlm.generate(prompts[:1], max_new_tokens=6, assistant_model=helper.model).ids, plain.ids)
    streamer = hf.TextIteratorStreamer(vlm.encoder.tokenizer, skip_prompt=True, skip_special_tokens=True)
    vlm.generate(prompts[:1], max_new_tokens=6, streamer=streamer)
    assert "".join(streamer).strip() == plain.texts[0].strip()
    with pytest.raises(xmi.PromptError, match=r"does not generate with .*streamer.*batch size 1"):
        vlm.generate(prompts, streamer=hf.TextStreamer(vlm.encoder.tokenizer))


def test_a_generation_configuration_is_obeyed() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    config = hf.GenerationConfig(max_new_tokens=3, num_beams=2, num_return_sequences=2)
    found = vlm.generate(prompts, generation_config=config)
    assert torch.equal(found.ids, expected(vlm, prompts, generation_config=config))
    torch.manual_seed(1)
    one = vlm.generate(prompts, generation_config=hf.GenerationConfig(do_sample=True, max_new_tokens=9)).ids
    torch.manual_seed(1)
    assert torch.equal(one, vlm.generate(prompts, do_sample=True, max_new_tokens=9).ids)
    assert not torch.equal(one, vlm.generate(prompts, max_new_tokens=9).ids)
    assert vlm.generate(prompts).ids.shape[1] <= 20


def known_options(vlm: VLM) -> set[str]:
    return set(vars(hf.GenerationConfig())) | set(inspect.signature(vlm.model.generate).parameters)


@pytest.mark.fault("A12", "B9")
@settings(max_examples=times(30))
@given(name=st.from_regex(r"[a-z][a-z_]{1,15}", fullmatch=True))
def test_options_that_nobody_knows(name: str) -> None:
    vlm = of(llama)
    if name in known_options(vlm) | vlm.engine.arguments:
        return
    with pytest.raises(xmi.PromptError, match=f"no option '{name}'"):
        vlm.generate("Q:", **{name: 1})


def test_a_misspelt_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(xmi.PromptError, match="nearest: num_return_sequences"):
        of(llama).generate("Q:", num_returned_sequences=2)


@pytest.mark.fault("A12")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 30}, "takes no max_length: it counts the prompt's tokens"),
        ({"input_ids": torch.ones(1, 2)}, "takes no input_ids: the prompt says it"),
        ({"inputs_embeds": torch.ones(1, 2, 64)}, "takes no inputs_embeds"),
        ({"attention_mask": torch.ones(1, 2)}, "takes no attention_mask"),
        ({"past_key_values": None}, "takes no past_key_values"),
        ({"inputs": torch.ones(1, 2)}, "takes no inputs: the prompt says it"),
        ({"return_dict_in_generate": True}, "takes no return_dict_in_generate"),
        ({"generation_config": hf.GenerationConfig(return_dict_in_generate=True)}, "takes no return_dict_in_generate"),
        ({"generation_config": {"num_beams": 2}}, "is a GenerationConfig of transformers, not dict"),
        ({"num_return_sequences": 2}, "does not generate with .*num_return_sequences=2.*: Greedy"),
        ({"num_beams": 2, "num_return_sequences": 3}, "does not generate with .*num_return_sequences"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(xmi.PromptError, match=said):
        of(llama).generate("Q:Greece\nA:", **options)
    assert of(llama).generate("Q:Greece\nA:", return_dict_in_generate=False, max_new_tokens=1).ids.shape == (1, 1)


def test_an_error_of_a_hook_is_its_own() -> None:
    def fail(value: torch.Tensor, hook: xmi.Hook) -> None:
        raise ValueError("mine")

    vlm = of(llama)
    with pytest.raises(ValueError, match="mine"), vlm.hooks([("embed", fail)]):
        vlm.generate("Q:Greece\nA:")


WRONG = [0, -1, True, 2.0, "3", float("nan"), [4], torch.tensor([1, 2])]


@pytest.mark.fault("B6")
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_numbers_of_new_tokens_that_mean_nothing(wrong: Any) -> None:
    vlm, prompts = of(llama), prompts_for("none")
    for verb in (vlm.generate, vlm.answers, vlm.phases_and_answers):
        with pytest.raises(xmi.XmiError, match="max_new_tokens"):
            verb(prompts, max_new_tokens=wrong)


def long(vlm: VLM, tokens: int) -> Prompts:
    """A prompt of so many tokens."""
    text = ":Greece" * ((tokens - 1) // 2) + ":" * ((tokens - 1) % 2)  # after BOS
    prompt = Prompt((Segment("text", text, query=True),), task="capital", input="Greece", answer="Athens")
    assert len(vlm.encode([prompt]).tokens[0]) == tokens
    return Prompts((prompt,), "text", task="capital", task_words=("capital",))


@pytest.fixture(params=["gpt2", "llama"])
def narrow(request: pytest.FixtureRequest) -> VLM:
    """A model that takes few tokens: by a table of learned positions, and by its configuration alone."""
    config = {
        "gpt2": lambda: hf.GPT2Config(n_positions=16, n_embd=32, n_layer=2, n_head=2),
        "llama": lambda: hf.LlamaConfig(
            max_position_embeddings=16, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2,
        ),
    }[request.param]()  # fmt: skip
    tool = build(llama)[1]
    config.vocab_size, config.eos_token_id, config.bos_token_id = len(tool), None, None
    torch.manual_seed(0)
    return xmi.load(hf.AutoModelForCausalLM.from_config(config).eval(), processor=tool)


@pytest.mark.fault("B6")
@pytest.mark.parametrize("tokens", [16, 13, 1 + 9])
def test_a_prompt_and_its_new_tokens_fit_or_are_refused(narrow: VLM, tokens: int) -> None:
    """The last new token is never given to the model, so that one more than the length fits."""
    prompts = long(narrow, tokens)
    room, vector = 17 - tokens, narrow.task_vector(prompts)
    verbs: list[Callable[[int], Any]] = [
        lambda new: narrow.generate(prompts, max_new_tokens=new, min_new_tokens=new),
        lambda new: narrow.answers(prompts, max_new_tokens=new),
        lambda new: narrow.phases_and_answers(prompts, max_new_tokens=new),
        lambda new: narrow.transfer(vector, to=prompts, max_new_tokens=new),
    ]
    for verb in verbs:
        verb(room)
        with pytest.raises(
            xmi.PromptError, match=rf"Prompt 0 has {tokens} tokens and {room + 1} new .* takes 16 in all"
        ):
            verb(room + 1)
        with pytest.raises(xmi.PromptError, match=f"ask for {room} at most"):
            verb(10**9)
    with pytest.raises(xmi.PromptError, match="has 17 tokens, the model takes 16"):
        long(narrow, 17)


def test_one_forward_more_would_leave_the_table_of_positions() -> None:
    """Why the length is what it is: plain GPT-2 has no position for one token more."""
    config = hf.GPT2Config(n_positions=16, n_embd=32, n_layer=2, n_head=2, vocab_size=50)
    model = hf.GPT2LMHeadModel(config).eval()
    ids = torch.ones(1, 13, dtype=torch.long)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert model.generate(ids, max_new_tokens=4, **options).shape == (1, 17)
    with pytest.raises(IndexError):
        model.generate(ids, max_new_tokens=5, **options)


def test_the_organism_is_asked_for_no_more_than_it_takes() -> None:
    vlm = xmi.load("organism")
    limit = vlm.engine.max_length
    assert limit is not None
    with pytest.raises(xmi.PromptError, match=f"takes {limit} in all"):
        vlm.generate("Q:Greece\nA:", max_new_tokens=2 * limit)


LENGTHS = [
    (hf.LlamaConfig(max_position_embeddings=1024), 1024),
    (hf.GPT2Config(n_positions=77), 77),
    (hf.OPTConfig(max_position_embeddings=99), 99),
    (hf.MptConfig(max_seq_len=55), 55),
    (hf.BloomConfig(), None),
    (hf.MambaConfig(), None),
    (hf.MistralConfig(max_position_embeddings=500, sliding_window=16), 500),
    (hf.Gemma3TextConfig(max_position_embeddings=600), 600),
    (hf.LlavaConfig(text_config=hf.LlamaConfig(max_position_embeddings=33)).get_text_config(), 33),
    *(
        (hf.LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_theta": 1e4, **rope}), limit)
        for rope, limit in (
            ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
            ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
            ({"rope_type": "dynamic", "factor": 2.0}, 128),
            ({"rope_type": "linear", "factor": 2.0}, 64),
            (
                {
                    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8,
                    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                },
                64,
            ),
        )
    ),
]  # fmt: skip


@pytest.mark.fault("B6")
@pytest.mark.parametrize(("config", "limit"), LENGTHS, ids=lambda value: type(value).__name__)
def test_the_context_length_is_read_off_any_configuration(config: Any, limit: int | None) -> None:
    assert context_length(config) == limit
