"""Low-rank adapters as a tree of their own, beside the frozen parameters (LoRA, arXiv 2106.09685)."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.config import LoraConfig
from pic_jax.models.decoder import Params


def init_lora(key: jax.Array, params: Params, config: LoraConfig) -> dict[str, Any]:
    """A float32 adapter for every linear layer named in `config.targets`.

    A is uniform in +-1/sqrt(in), as PEFT initialises it, and B is zero, so the adapter starts as nothing.

    Args:
      params: the decoder's parameters, or their abstract shapes.

    Returns:
      {'layers': {group: {name: {'lora_A': [L, in, R], 'lora_B': [L, R, out]}}}}; {} when rank is 0.
    """
    if config.rank == 0:
        return {}
    tree: dict[str, Any] = {}
    for group in ('self_attn', 'mlp'):
        for name in sorted(set(config.targets) & set(params['layers'][group])):
            key, a_key = jax.random.split(key)
            layers, features_in, features_out = params['layers'][group][name]['kernel'].shape
            bound = 1 / math.sqrt(features_in)
            tree.setdefault(group, {})[name] = {
                'lora_A': jax.random.uniform(a_key, (layers, features_in, config.rank), minval=-bound, maxval=bound),
                'lora_B': jnp.zeros((layers, config.rank, features_out)),
            }
    return {'layers': tree}


def adapted(params: Params, lora: dict[str, Any], config: LoraConfig) -> dict[str, Any]:
    """The variables of a decoder with its adapter, if `lora` holds one: what `Decoder.apply` takes."""
    return {'params': params} | ({'lora': scaled(lora, config)} if lora else {})


def scaled(lora: dict[str, Any], config: LoraConfig) -> dict[str, Any]:
    """The adapter with alpha / rank folded into B: what `Decoder.apply` takes as its `lora` collection."""
    scale = config.alpha / config.rank
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * scale if path[-1].key == 'lora_B' else leaf, lora)
