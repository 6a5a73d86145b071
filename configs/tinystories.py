"""Continuation through a frozen 260K-parameter Llama: 192 tokens of a TinyStory in 24 vectors, the next 64 predicted.

Needs the folder that PIC_JAX_ASSETS names (stories260K in HF format, tinystories.jsonl).
    pic-jax train --config=configs/tinystories.py --config.compressor.method=icae --workdir=runs/icae
"""

from pic_jax.config import default_config


def get_config():
    config = default_config()
    config.base = '$PIC_JAX_ASSETS/stories260K-hf'
    config.data.source = '$PIC_JAX_ASSETS/tinystories.jsonl'
    config.data.validation = 200
    config.data.test = 300
    config.data.context_length = 192
    config.data.target_length = 64
    config.data.min_context = 192
    config.compressor.method = 'pic'
    config.compressor.ratio = 8
    config.compressor.context_length = 192
    config.compressor.chunk_size = 48
    config.compressor.lora.rank = 32
    config.compressor.lora.targets = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    # Soft targets from the same model with the full context are less noisy than the words that happened to follow.
    config.objective.lm = 0.2
    config.objective.distill = 1.0
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 900
    config.train.batch_size = 16
    config.train.eval_every = 300
    config.train.eval_examples = 100
    config.train.checkpoint_every = 100
    return config
