"""IC-Former on Llama-2-7B: 512 tokens in 128 digest vectors by three layers of cross-attention, 607M parameters.

Claim: compression 68 to 112 times as fast as ICAE's, at 92 to 93% of its ROUGE (arXiv 2406.13618). Data and stages: as
in configs/llama2_7b_pic_16x.py; the settings and their sources are in pic_jax/llama_recipes.py. The paper fine-tunes on
PwC, which is `--config.data.source=hub:sggetao/PwC` with stage squad.
Cost: 4e19 operations, 9 hours of a v5e-16 at 40% of its peak. That is an estimate; nothing of it was run.

    pic-jax train --config=configs/llama2_7b_icformer.py --workdir=runs/icformer
    pic-jax train --config=configs/llama2_7b_icformer.py:squad --workdir=runs/squad --config.start=runs/icformer
"""

from pic_jax.llama_recipes import icformer


def get_config(argument: str = ''):
    return icformer('meta-llama/Llama-2-7b-hf', argument)
