"""Chat templates of the zoo: those that some families are published with, written from memory, else a common one.

The zoo's processors are built without a download, so without the templates of their repositories. IMAGE stands for what
each processor knows an image by.
"""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL, InternVL and many others."""
LLAVA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ 'IMAGE\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA 1.5: images first in each message, and a blank before answers that the generation prompt leaves out."""
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}"
    "{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% elif c['type'] == 'image' %}{{ 'IMAGE' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Idefics3 and SmolVLM."""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
    "{% set first = (said if said is string else said[0]['text']) + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma: the system message stands in the first one of the user, roles must alternate, texts are trimmed."""
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% elif m['role'] == 'system' %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Pixtral: no system message, and the end of the user's message is the generation prompt."""
LLAMA3 = (
    "{{ bos_token }}{% set day = strftime_now('%d %b %Y') %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: "
    "{{ day }}\n\n{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
    "{{ said if said is string else said[0]['text'] }}{% set messages = messages[1:] %}{% endif %}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{% if m['content'] is string %}"
    "{{ m['content'] | trim }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}"
    "{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3: it writes the day."""
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}{% elif m['role'] == 'user' %}"
    "{{ 'USER: ' + m['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""A text-only model whose template writes no BOS, and content as one text."""

OWN = {
    "LLaVA": LLAVA, "VipLLaVA": LLAVA, "LLaVA-NeXT": LLAVA, "Idefics3": IDEFICS, "SmolVLM": IDEFICS,
    "Idefics2": IDEFICS,
    "Gemma 3": GEMMA, "Gemma 2": GEMMA, "Gemma 3 (text)": GEMMA, "Gemma 4": GEMMA, "Gemma 4 (26B, 31B)": GEMMA,
    "Pixtral": MISTRAL, "Mistral 3": MISTRAL, "Mllama": LLAMA3, "Llama 4": LLAMA3, "Llama": VICUNA,
}  # fmt: skip
"""Templates by the name of the family; all others have `CHATML`."""


def template_of(family: str, image: str) -> str:
    """The template that a family's processor is given.

    Args:
        family: Its name.
        image: What its processor knows an image by.
    """
    return OWN.get(family, CHATML).replace("IMAGE", image)
