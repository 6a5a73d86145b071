"""Compressors whose encoder is the frozen target with an adapter: icae, epl and pic differ in Layout only."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pic_jax.compressors import windows
from pic_jax.compressors.base import init_specials, like_words
from pic_jax.config import CompressorConfig
from pic_jax.errors import ConfigError
from pic_jax.masks import Layout, make_layout, num_embeddings
from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, KeyValues, Params
from pic_jax.models.lora import init_lora, scaled


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
            'projector': self._init_projector(projector_key, base),
        }

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """One masked pass over all windows of all rows.

        Raises:
          ConfigError: the padded context does not fit the compressor's slots or the model's positions.
        """
        config = self.config
        B = tokens_BS.shape[0]
        parts = windows.split(config, tokens_BS, lengths_B)
        W, n = parts.tokens.shape[1:]
        self.check_length(n)
        layout = make_layout(config, n)
        lengths_R = parts.lengths.reshape(B * W)
        slots_RkD = self._encode(base, trainable, layout, parts.tokens.reshape(B * W, n), lengths_R)
        valid_BM = layout.valid(lengths_R)[:, n:].reshape(B, -1)
        slot_start_Wk = parts.starts[..., None] + layout.cells.source[n:][None, None]
        spread_BM = slot_start_Wk.reshape(B, -1) + (config.ratio - 1) // 2
        valid_BM, spread_BM, embeddings_BMD = windows.pack_valid(
            valid_BM, spread_BM, slots_RkD.reshape(B, -1, slots_RkD.shape[-1])
        )
        return decoder_memory(config, embeddings_BMD, spread_BM, valid_BM, lengths_B)

    def _encode(self, base, trainable, layout: Layout, tokens_Rn: jax.Array, lengths_R: jax.Array) -> jax.Array:
        """[R, k, D] projected states of the slots of R windows (or chunks) of one layout."""
        mask_RSS = layout.dense_mask()[None] & layout.valid(lengths_R)[:, None, :]
        slots_RkD, _ = self.encode(
            base, trainable, tokens_Rn, layout.embedding_index, layout.positions(lengths_R), mask_RSS
        )
        return slots_RkD

    def encode(
        self, base, trainable, tokens_Rn, embedding_index_k, positions_RS, mask_RTS, past: KeyValues | None = None
    ) -> tuple[jax.Array, KeyValues]:
        """The encoder itself, on [n tokens][k slots].

        Args:
          embedding_index_k: which learned vector each slot starts from.
          positions_RS, mask_RTS: position ids and mask of the n + k positions (keys: [past][these]).
          past: keys and values of earlier memory.

        Returns:
          projected states [R, k, D] of the slots, and keys and values of all n + k positions.
        """
        variables, x_RSD = self.encoder_input(base, trainable, tokens_Rn, embedding_index_k)
        hidden_RSD, key_values = self.decoder.apply(variables, x_RSD, positions_RS, mask_RTS, past)
        return self._project(trainable, hidden_RSD[:, tokens_Rn.shape[1] :]), key_values

    def encoder_input(self, base, trainable, tokens_Rn, embedding_index_k) -> tuple[dict[str, Any], jax.Array]:
        """The adapted decoder's variables, and the embeddings [R, n + k, D] of [n tokens][k slots]."""
        tokens_RnD = self.decoder.apply({'params': base}, tokens_Rn, method='embed')
        slots_kD = trainable['memory_embeddings'][embedding_index_k].astype(self.decoder.dtype)
        slots_RkD = jnp.broadcast_to(slots_kD[None], (tokens_Rn.shape[0], *slots_kD.shape))
        variables = {'params': base}
        if trainable['lora']:
            variables['lora'] = scaled(trainable['lora'], self.config.lora)
        return variables, jnp.concatenate([tokens_RnD, slots_RkD], axis=1)

    def _project(self, trainable: dict[str, Any], x: jax.Array) -> jax.Array:
        """The projector, applied to [..., D]."""
        weights = trainable['projector']
        if self.config.projector == 'none':
            return x
        if self.config.projector == 'linear':
            return x @ weights['kernel'].astype(x.dtype)
        skip, up, down = (weights[name].astype(x.dtype) for name in ('skip', 'up', 'down'))
        return x @ skip + jax.nn.gelu(x @ up) @ down

    def _init_projector(self, key: jax.Array, base: Params) -> dict[str, jax.Array]:
        """Starts as a scaling of the encoder's output to the size of word embeddings.

        The output has passed the final norm, whose weights often make it many times larger than the embeddings that
        the decoder's first layers were trained on.
        """
        table_VD = jnp.asarray(base['embed_tokens']['embedding'], jnp.float32)
        D = table_VD.shape[1]
        scale = _rms(table_VD) / _rms(jnp.asarray(base['norm']['weight'], jnp.float32))
        if self.config.projector == 'none':
            return {}
        if self.config.projector == 'linear':
            return {'kernel': scale * jnp.eye(D)}
        return {'skip': scale * jnp.eye(D), 'up': jax.random.normal(key, (D, 4 * D)) / D**0.5,
                'down': jnp.zeros((4 * D, D))}  # fmt: skip

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that the learned slots or the model's positions do not reach."""
        window = num_tokens if self.config.window is None else min(num_tokens, self.config.window)
        self.check_positions(make_layout(self.config, window).num_positions)

    def check_positions(self, needed: int) -> None:
        """Refuses layouts that pass the model's positions."""
        available = self.decoder.config.max_position_embeddings
        if needed > available:
            raise ConfigError(
                f'the context needs {needed} position ids but the model has {available}: '
                'set compressor.window, or compressor.position_origin=chunk'
            )


def decoder_memory(
    config: CompressorConfig, embeddings_BMD: jax.Array, spread_BM: jax.Array, valid_BM: jax.Array, lengths_B: jax.Array
) -> Memory:
    """Packed slots as the decoder sees them.

    Args:
      spread_BM: id of each slot if memory is spread over the context (its group's start + (r - 1) // 2).
      lengths_B: true context tokens.
    """
    slot_1M = jnp.arange(valid_BM.shape[1])[None]
    count_B = jnp.sum(valid_BM, axis=1, dtype=jnp.int32)
    if config.decoder_positions == 'sequential':
        positions_BM = jnp.where(valid_BM, slot_1M, 0)
        text_start_B = count_B
    else:
        positions_BM = spread_BM
        # The last slot of a short group may stand past the context's end; the text follows both.
        text_start_B = jnp.maximum(lengths_B, jnp.max(spread_BM, axis=1, initial=-1) + 1)
    return Memory(embeddings_BMD, positions_BM.astype(jnp.int32), valid_BM, text_start_B.astype(jnp.int32))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x))
