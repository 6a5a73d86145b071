"""PIC on Llama-3.1-8B at 4, 16 (default) or 64x.

Claim: none of a paper; PCC (ACL 2025), whose data PIC shares, has an encoder of this family. Data: FineWeb, tokenised
for Llama 3 (the folder of Llama-3.2-1B will do: tokenizers are compared); the model is gated. Cost: 1.6e20 operations,
36 hours of a v5e-16 at 40% of its peak. That is an estimate; nothing of it was run.

    pic-jax tokenize hub:HuggingFaceFW/fineweb:sample-10BT --base=hub:meta-llama/Llama-3.1-8B --out=$FINEWEB
    pic-jax train --config=configs/llama3_1_8b_pic.py --workdir=runs/pic8b
    pic-jax train --config=configs/llama3_1_8b_pic.py:squad --workdir=runs/pic8b_squad --config.start=runs/pic8b

Words after the colon: as in configs/llama2_7b_pic_16x.py, and the ratio.
"""

from pic_jax.llama_recipes import pic


def get_config(argument: str = ''):
    return pic('meta-llama/Llama-3.1-8B', argument)
