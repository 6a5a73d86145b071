"""PIC on Llama-2-7B at 4, 16 or 64x: `configs/llama2_7b_pic.py:64`. At 16x it is configs/llama2_7b_pic_16x.py.

Claim: at 64x PIC's answers gain 29.8% in F1 and 40.7% in exact match over a competitive baseline (arXiv 2602.13980).
Data and stages: as in configs/llama2_7b_pic_16x.py, with the same FineWeb folder. Cost: at 4x 38 hours of a v5e-16, at
64x 30, estimated as there; nothing of it was run.

    pic-jax train --config=configs/llama2_7b_pic.py:64 --workdir=runs/pic64
    pic-jax train --config=configs/llama2_7b_pic.py:64,squad --workdir=runs/pic64_squad --config.start=runs/pic64
"""

from pic_jax.llama_recipes import pic


def get_config(argument: str = ''):
    return pic('meta-llama/Llama-2-7b-hf', argument)
