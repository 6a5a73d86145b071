"""PIC on Llama-2-70B at 4, 16 (default) or 64x, its matrices split over 4 devices (mesh.tensor).

Claim: none of a paper; whether locality still helps a target ten times as large. Data: the FineWeb folder of
Llama-2-7B (the tokenizers are compared); the model is gated, 138 GB. Cost: 1.5e21 operations, 70 hours of a v5p-64 (32
chips, the default here) at 40% of its peak. That is an estimate; nothing of it was run.

    pic-jax train --config=configs/llama2_70b_pic.py --workdir=runs/pic70b
    pic-jax train --config=configs/llama2_70b_pic.py:v5e-256,gsm8k --workdir=runs/gsm8k --config.start=runs/pic70b

Words after the colon: as in configs/llama2_7b_pic_16x.py, and the ratio.
"""

from pic_jax.llama_recipes import AROUND_70B, pic


def get_config(argument: str = ''):
    return pic('meta-llama/Llama-2-70b-hf', argument, size=AROUND_70B)
