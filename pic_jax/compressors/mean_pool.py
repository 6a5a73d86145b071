"""Mean pooling (arXiv 2510.20797): the context's own last states, averaged in groups of r; no memory tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.compressors.base import check_positions, init_specials
from pic_jax.compressors.projector import init_projector, project
from pic_jax.compressors.slots import compress_windows
from pic_jax.config import CompressorConfig, DecoderConfig
from pic_jax.masks import CONTEXT, make_layout
from pic_jax.memory import Memory
from pic_jax.models.attention import PatternMask
from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.lora import adapted, init_lora
from pic_jax.patterns import Pattern


@dataclasses.dataclass(frozen=True)
class MeanPool:
    """The frozen target with an adapter reads the context; `encoder_attention` says in which directions."""

    config: CompressorConfig
    decoder: Decoder

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """{'special': {name: [D]}, 'lora': {...}, 'projector': {...}}, float32."""
        lora_key, projector_key, special_key = jax.random.split(key, 3)
        return {
            'special': init_specials(special_key, base),
            'lora': init_lora(lora_key, base, self.config.lora),
            'projector': init_projector(projector_key, self.config.projector, base, base['norm']['weight']),
        }

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """A vector is the mean of the true tokens of its group; groups do not cross chunks.

        Raises:
          ConfigError: the padded context does not fit the model's positions.
        """
        return compress_windows(self, base, trainable, tokens_BS, lengths_B)

    @property
    def encoder_config(self) -> DecoderConfig:
        """The target's shape."""
        return self.decoder.config

    def pattern(self, num_tokens: int) -> Pattern:
        """Tokens see tokens."""
        return Pattern(self.config, num_tokens, queries=(CONTEXT,), keys=(CONTEXT,))

    def encode_windows(
        self, base, trainable, embedding_index_Ck, tokens_Rn, positions_RS, mask: PatternMask
    ) -> dict[str, jax.Array]:
        """Projected means of R windows or chunks."""
        r, n, k = self.config.ratio, tokens_Rn.shape[1], embedding_index_Ck.shape[1]
        words_RnD = self.decoder.apply({'params': base}, tokens_Rn, method='embed')
        variables = adapted(base, trainable['lora'], self.config.lora)
        hidden_RnD, _ = self.decoder.apply(variables, words_RnD, positions_RS[:, :n], mask)
        is_true_Rn1 = mask.valid[..., None]
        hidden_RnD = jnp.where(is_true_Rn1, hidden_RnD.astype(jnp.float32), 0)
        # r divides the chunk size, so group j is tokens j r .. (j + 1) r - 1 in chunks too.
        groups_Rkr = [jnp.pad(x, ((0, 0), (0, k * r - n), (0, 0))).reshape(len(x), k, r, -1)
                      for x in (hidden_RnD, is_true_Rn1)]  # fmt: skip
        sum_RkD, count_Rk1 = (jnp.sum(x, axis=2) for x in groups_Rkr)
        mean_RkD = (sum_RkD / jnp.maximum(count_Rk1, 1)).astype(self.decoder.dtype)
        return {'embeddings': project(trainable['projector'], mean_RkD)}

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that pass the model's positions."""
        layout = make_layout(self.config, min(num_tokens, self.config.window or num_tokens))
        check_positions(self.decoder, int(layout.position[: layout.num_tokens].max()) + 1)  # slots have none
