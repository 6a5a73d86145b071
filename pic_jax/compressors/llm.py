"""Compressors whose encoder is the frozen target with an adapter: icae, epl and pic differ in Layout only."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.budget import num_embeddings
from pic_jax.compressors.base import check_positions, init_specials, like_words
from pic_jax.compressors.projector import init_projector, project
from pic_jax.compressors.slots import compress_windows, first_vectors
from pic_jax.config import CompressorConfig, DecoderConfig
from pic_jax.masks import make_layout
from pic_jax.memory import Memory
from pic_jax.models.attention import PatternMask
from pic_jax.models.decoder import Decoder, KeyValues, Params
from pic_jax.models.lora import adapted, init_lora
from pic_jax.patterns import Pattern


@dataclasses.dataclass(frozen=True)
class LLMCompressor:
    """Reads [context][memory slots] under the Layout's mask; the memory is the last hidden states of the slots."""

    config: CompressorConfig
    decoder: Decoder

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """Memory and special vectors are drawn with the mean and spread of the word embeddings (as EPL does).

        Returns:
          {'memory_embeddings': [m, D], 'special': {name: [D]}, 'lora': {...}, 'projector': {...}}, float32.
        """
        memory_key, lora_key, projector_key, special_key = jax.random.split(key, 4)
        return {
            'memory_embeddings': like_words(memory_key, base, num_embeddings(self.config)),
            'special': init_specials(special_key, base),
            'lora': init_lora(lora_key, base, self.config.lora),
            'projector': init_projector(projector_key, self.config.projector, base, base['norm']['weight']),
        }

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """One masked pass over all windows of all rows.

        Raises:
          ConfigError: the padded context does not fit the compressor's slots or the model's positions.
        """
        return compress_windows(self, base, trainable, tokens_BS, lengths_B)

    @property
    def encoder_config(self) -> DecoderConfig:
        """The target's shape."""
        return self.decoder.config

    @property
    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of what one slot holds, by field of `Memory`."""
        return {'embeddings': (self.decoder.config.hidden_size,)}

    def pattern(self, num_tokens: int) -> Pattern:
        """All positions attend to all that the Layout lets them see."""
        return Pattern(self.config, num_tokens)

    def encode_windows(
        self, base, trainable, embedding_index_Ck, tokens_Rn, positions_RS, mask: PatternMask
    ) -> dict[str, jax.Array]:
        """What the slots of R windows or chunks hold, [R, k, ...]."""
        return self.encode(base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask)[0]

    def encode(
        self, base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask, past: KeyValues | None = None
    ) -> tuple[dict[str, jax.Array], KeyValues]:
        """The encoder itself, on [n tokens][k slots].

        Args:
          embedding_index_Ck: which learned vector each slot starts from; C = R, or 1 for all rows.
          positions_RS, mask: position ids and mask of the n + k positions (keys: [past][these]).
          past: keys and values of earlier memory.

        Returns:
          what the slots hold, [R, k, ...] by field of `Memory`, and keys and values of all n + k positions.
        """
        variables, x_RSD = self.encoder_input(base, trainable, tokens_Rn, embedding_index_Ck)
        read: Any = self.decoder.apply(variables, x_RSD, positions_RS, mask, past)
        hidden_RSD, key_values = read
        slots_RkD = project(trainable['projector'], hidden_RSD[:, tokens_Rn.shape[1] :])
        return {'embeddings': slots_RkD}, key_values

    def encoder_input(self, base, trainable, tokens_Rn, embedding_index_Ck) -> tuple[dict[str, Any], jax.Array]:
        """The adapted decoder's variables, and the embeddings [R, n + k, D] of [n tokens][k slots]."""
        tokens_RnD: Any = self.decoder.apply({'params': base}, tokens_Rn, method='embed')
        table_MD = trainable['memory_embeddings'].astype(self.decoder.dtype)
        slots_RkD = first_vectors(table_MD, embedding_index_Ck, len(tokens_Rn))
        variables = adapted(base, trainable['lora'], self.config.lora)
        return variables, jnp.concatenate([tokens_RnD, slots_RkD], axis=1)

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that the learned slots or the model's positions do not reach."""
        window = num_tokens if self.config.window is None else min(num_tokens, self.config.window)
        check_positions(self.decoder, make_layout(self.config, window).num_positions)
