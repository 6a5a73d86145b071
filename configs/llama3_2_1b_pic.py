"""PIC on Llama-3.2-1B at 4, 16 (default) or 64x: the smallest real target, to try a recipe before it is paid for at 7B.

Claim: none of a paper; EPL's code (arXiv 2409.14364) trains on this model. Data: FineWeb, tokenised for Llama 3; the
model is gated. Cost: 2.7e19 operations, 6 hours of a v5e-16 at 40% of its peak. That is an estimate; nothing of it was
run.

    pic-jax tokenize hub:HuggingFaceFW/fineweb:sample-10BT --base=hub:meta-llama/Llama-3.2-1B --out=$FINEWEB
    pic-jax train --config=configs/llama3_2_1b_pic.py --workdir=runs/pic1b
    pic-jax train --config=configs/llama3_2_1b_pic.py:gsm8k --workdir=runs/pic1b_gsm8k --config.start=runs/pic1b

Words after the colon: as in configs/llama2_7b_pic_16x.py, and the ratio.
"""

from pic_jax.llama_recipes import pic


def get_config(argument: str = ''):
    return pic('meta-llama/Llama-3.2-1B', argument)
