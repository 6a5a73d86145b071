"""k trained vectors that see no context: what adapting to the task alone gives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.budget import memory_slots, num_embeddings
from pic_jax.compressors.base import init_specials, like_words
from pic_jax.compressors.slots import decoder_memory
from pic_jax.config import CompressorConfig
from pic_jax.errors import ConfigError
from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params


@dataclasses.dataclass(frozen=True)
class ConstantMemory:
    """Gives every context of n tokens the first ceil(n / ratio) of its vectors."""

    config: CompressorConfig
    decoder: Decoder

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """{'memory_embeddings': [k, D], 'special': {name: [D]}}, float32, drawn like word embeddings."""
        memory_key, special_key = jax.random.split(key)
        return {
            'memory_embeddings': like_words(memory_key, base, num_embeddings(self.config)),
            'special': init_specials(special_key, base),
        }

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """The same vectors for every row; neither `base` nor the tokens are read."""
        self.check_length(tokens_BS.shape[1])
        ratio = self.config.ratio
        slot_M = jnp.arange(memory_slots(self.config, tokens_BS.shape[1]), dtype=jnp.int32)
        embeddings_MD = trainable['memory_embeddings'][slot_M].astype(self.decoder.dtype)
        valid_BM = slot_M[None] * ratio < lengths_B[:, None]
        embeddings_BMD = jnp.broadcast_to(embeddings_MD[None], (len(lengths_B), *embeddings_MD.shape))
        start_BM = jnp.broadcast_to(slot_M[None] * ratio, valid_BM.shape)
        return decoder_memory(self.config, {'embeddings': embeddings_BMD}, start_BM, valid_BM, lengths_B)

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that need more vectors than there are."""
        if num_tokens > self.config.context_length:
            raise ConfigError(
                f'the context has {num_tokens} tokens, expected at most '
                f'compressor.context_length={self.config.context_length}'
            )
