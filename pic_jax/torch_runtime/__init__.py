"""Trained compressors in PyTorch (extra `torch`)."""

from pic_jax.torch_runtime.modeling_pic_compressor import Compressor, Memory, Stream

__all__ = ['Compressor', 'Memory', 'Stream']
