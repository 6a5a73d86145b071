"""From a configuration to a compressor."""

from pic_jax.compressors.base import Compressor
from pic_jax.compressors.constant import ConstantMemory
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.config import CompressorConfig
from pic_jax.models.decoder import Decoder


def make_compressor(config: CompressorConfig, decoder: Decoder) -> Compressor:
    """The compressor that `config.method` names, for the frozen target `decoder`."""
    kind = ConstantMemory if config.method == 'constant_memory' else LLMCompressor
    return kind(config, decoder)
