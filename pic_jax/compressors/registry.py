"""From a configuration to a compressor."""

from collections.abc import Callable

from pic_jax.compressors.base import Compressor
from pic_jax.compressors.constant import ConstantMemory
from pic_jax.compressors.icformer import ICFormer
from pic_jax.compressors.key_values import KeyValueCompressor
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.compressors.mean_pool import MeanPool
from pic_jax.config import CompressorConfig
from pic_jax.models.decoder import Decoder

KINDS: dict[str, Callable[[CompressorConfig, Decoder], Compressor]] = {
    'constant_memory': ConstantMemory,
    'icformer': ICFormer,
    'kv500x': KeyValueCompressor,
    'mean_pool': MeanPool,
}


def make_compressor(config: CompressorConfig, decoder: Decoder) -> Compressor:
    """The compressor that `config.method` names, for the frozen target `decoder`."""
    return KINDS.get(config.method, LLMCompressor)(config, decoder)
