"""500xCompressor (arXiv 2408.03094): memory as the keys and values of the memory tokens in every layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.compressors.llm import LLMCompressor
from pic_jax.models.decoder import KeyValues, Params


@dataclasses.dataclass(frozen=True)
class KeyValueCompressor(LLMCompressor):
    """The encoder of icae; the frozen decoder attends to the slots' keys and values instead of reading vectors.

    The last layer's output is not read, so of its adapter only `k_proj` and `v_proj` are trained.
    """

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """{'memory_embeddings': [m, D], 'special': {name: [D]}, 'lora': {...}}, float32, drawn as for icae."""
        trainable = super().init(key, base)
        del trainable['projector']
        return trainable

    @property
    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Keys and values of L layers and K heads."""
        config = self.decoder.config
        shape = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        return {'keys': shape, 'values': shape}

    def encode(
        self, base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask, past: KeyValues | None = None
    ) -> tuple[dict[str, jax.Array], KeyValues]:
        """As `LLMCompressor.encode`; keys are taken before RoPE."""
        variables, x_RSD = self.encoder_input(base, trainable, tokens_Rn, embedding_index_Ck)
        (_, key_values), captured = self.decoder.apply(
            variables, x_RSD, positions_RS, mask, past, mutable=['unrotated']
        )
        stacks_LRSKH = {'keys': captured['unrotated']['layers']['self_attn']['keys'], 'values': key_values.v}
        n = tokens_Rn.shape[1]
        return {name: jnp.moveaxis(x[:, :, n:], 0, 2) for name, x in stacks_LRSKH.items()}, key_values
