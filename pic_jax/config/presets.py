"""The compressors by name: what each decides about masks, positions and learned vectors."""

from typing import Any

_WHOLE_WINDOW = dict(
    chunk_size=None, context_sees='causal', memory_sees_memory='own', memory_embeddings='per_window',
    positions='end', position_origin='window', encoder_attention='causal',
)  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    'icae': _WHOLE_WINDOW,
    'epl': _WHOLE_WINDOW | dict(positions='spread'),
    'pic': dict(
        chunk_size=64, context_sees='chunk', memory_sees_memory='own', memory_embeddings='per_chunk',
        positions='spread', position_origin='window', encoder_attention='causal',
    ),
    'kv500x': _WHOLE_WINDOW,
    'icformer': _WHOLE_WINDOW,
    'mean_pool': _WHOLE_WINDOW | dict(positions='spread'),
    'constant_memory': _WHOLE_WINDOW,
}  # fmt: skip
PRESET_OPTIONS = tuple(PRESETS['pic'])
