"""ICAE on Llama-2-7B: 512 tokens in 128 vectors (4x; `:16` and `:64` for fewer), a baseline of PIC.

Claim: 128 vectors give 500 tokens back with a median BLEU above 0.98 (arXiv 2307.06945, Llama-7B). Data and stages: as
in configs/llama2_7b_pic_16x.py, so that both read the same tokens; the settings and their sources are in
pic_jax/llama_recipes.py. The published code also has a LoRA dropout of 0.05, which is not available here.
Cost: 1.7e20 operations, 38 hours of a v5e-16 at 40% of its peak. That is an estimate; nothing of it was run.

    pic-jax train --config=configs/llama2_7b_icae.py --workdir=runs/icae
    pic-jax train --config=configs/llama2_7b_icae.py:gsm8k --workdir=runs/icae_gsm8k --config.start=runs/icae
"""

from pic_jax.llama_recipes import icae


def get_config(argument: str = ''):
    return icae('meta-llama/Llama-2-7b-hf', argument)
