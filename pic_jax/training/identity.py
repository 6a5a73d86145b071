"""Which frozen parameters a compressor was trained for: a fingerprint that does not depend on how they are sharded."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.config import DecoderConfig

NEWER = ('qkv_bias', 'qk_norm', 'model_type')
SEEDS = (0x9E3779B9, 0x85EBCA6B)


def identity(params: Any, config: DecoderConfig) -> str:
    """SHA-256 (hex) over the configuration, and the names, dtypes, shapes and fingerprints of all tensors.

    Every device hashes what it holds, so nothing is gathered; any mesh and any number of processes give the same.
    """
    prints = jax.jit(lambda tree: jax.tree.map(fingerprint, tree))(params)
    tensors = [
        [jax.tree_util.keystr(path, simple=True, separator='/'), str(leaf.dtype), list(leaf.shape), hashes.tolist()]
        for (path, leaf), hashes in zip(
            jax.tree_util.tree_leaves_with_path(params), map(np.asarray, jax.tree.leaves(prints)), strict=True
        )
    ]
    settings = dataclasses.asdict(config)
    for field in dataclasses.fields(DecoderConfig):
        if field.name in NEWER and settings.get(field.name) == field.default:
            del settings[field.name]  # so that a model keeps the identity it had before the setting was there
    return hashlib.sha256(json.dumps([settings, tensors], sort_keys=True).encode()).hexdigest()


def fingerprint(x: jax.Array) -> jax.Array:
    """[2] uint32: sums (modulo 2^32) of a mix of every element's bits and its place, for two seeds.

    Sums of integers do not depend on their order. The mix is the finalizer of MurmurHash3 (Appleby, public domain).
    """
    word = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    place, stride = jnp.zeros_like(bits), 1
    for axis in reversed(range(x.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]

    def mixed(seed: int) -> jax.Array:
        h = bits ^ (place * jnp.uint32(seed) + jnp.uint32(seed >> 7))
        for shift, factor in (16, 0x85EBCA6B), (13, 0xC2B2AE35):
            h = (h ^ (h >> shift)) * jnp.uint32(factor)
        return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)

    return jnp.stack([mixed(seed) for seed in SEEDS])
