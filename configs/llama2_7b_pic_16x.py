"""PIC on Llama-2-7B at 16x: 512 tokens in 32 vectors, from 3B tokens of FineWeb to SQuAD and GSM8K.

Claim: at 16x PIC passes its baseline's best with 40% less training time (arXiv 2602.13980); the baseline is
configs/llama2_7b_icae.py:16. What is the paper's here and what is not: pic_jax/llama_recipes.py.

Data: FineWeb, tokenised once (some 20 GB); questions come from the Hub. The model is gated: accept its licence first.
    pic-jax tokenize hub:HuggingFaceFW/fineweb:sample-10BT --base=hub:meta-llama/Llama-2-7b-hf --out=$FINEWEB

Cost: 15,258 steps, 1.4e20 operations (4 a parameter and token, recomputation not counted): 31 hours of a v5e-16 at 40%
of its peak. That is an estimate; nothing of it was run.

    pic-jax train --config=configs/llama2_7b_pic_16x.py --workdir=runs/pic
    pic-jax train --config=configs/llama2_7b_pic_16x.py:squad --workdir=runs/pic_squad --config.start=runs/pic
    pic-jax train --config=configs/llama2_7b_pic_16x.py:gsm8k --workdir=runs/pic_gsm8k --config.start=runs/pic

After the colon, with commas between them: a stage (pretrain, squad, gsm8k) and a slice (v5e-16, v5e-256, v5p-64,
v6e-8, 8xH100), as in `configs/llama2_7b_pic_16x.py:gsm8k,8xH100`. gsm8k is in-context learning: four solved problems
are compressed.
"""

from pic_jax.llama_recipes import pic


def get_config(argument: str = ''):
    return pic('meta-llama/Llama-2-7b-hf', argument, ratios=(16,))
