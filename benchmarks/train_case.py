"""The training step that benchmarks/train_step.py times, as this package computes it, and its files for the peers."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from timing import Side

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig, DecoderConfig, LoraConfig, ObjectiveConfig, RunConfig
from pic_jax.evaluation.flops import count_flops
from pic_jax.interop.peft import write_adapter
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder, Params, init_params
from pic_jax.run import Run
from pic_jax.training.objectives import compressor_loss
from pic_jax.training.sharding import single_device_mesh
from pic_jax.training.step import accumulate

SEED = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """Which step: `batch` contexts of n tokens each and the T text tokens that go on behind its memory."""

    decoder: DecoderConfig
    compressor: CompressorConfig
    context_tokens: int  # n, a multiple of the chunk
    text_tokens: int  # T
    batch: int


class Form(NamedTuple):
    """How a peer computes it. folds: chunks are rows of the batch; otherwise a mask keeps them apart. attention: as
    transformers calls it. compiled: by torch.compile, the whole loss as one graph."""

    folds: bool
    attention: str = 'sdpa'
    compiled: bool = False


PEERS = {
    'dense': Form(folds=False),
    'dense, compiled': Form(folds=False, compiled=True),
    'flex': Form(folds=False, attention='flex_attention'),
    'folding': Form(folds=True),
    'folding, compiled': Form(folds=True, compiled=True),
}


class Inputs(NamedTuple):
    """base: frozen parameters. trainable: as `Compressor.init` makes it. batch: as `data.loader` makes it."""

    base: Params
    trainable: dict[str, Any]
    batch: dict[str, Any]


def make_case(batch: int, small: bool = False) -> Case:
    """The measured case, or one of the same kind that takes no time.

    Position ids count from 0 in every chunk and in the decoder: the slots of a chunk then follow its tokens without a
    gap, so that a peer which folds chunks needs neither a mask nor position ids, and can take its fastest attention.
    """
    shape = dict(vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, heads=8, head_dim=64)
    n, text_tokens, chunk_size, ratio = 2048, 128, 256, 16
    if small:
        shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, heads=4, head_dim=8)
        n, text_tokens, chunk_size, ratio = 64, 6, 16, 4
    heads = shape.pop('heads')
    decoder = DecoderConfig(
        **shape, num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2 * n
    )
    compressor = CompressorConfig.preset(
        'pic', ratio=ratio, chunk_size=chunk_size, context_length=n, context_sees='chunk', memory_sees_memory='own',
        positions='end', position_origin='chunk', lora=LoraConfig(rank=16),
    )  # fmt: skip
    return Case(decoder, compressor, n, text_tokens, batch)


def make_inputs(case: Case) -> Inputs:
    """Random weights and tokens, a function of the case alone.

    Every matrix keeps the size of its input and the adapter is not zero, so that all of them matter for the loss.
    """
    rng, decoder = np.random.default_rng(SEED), Decoder(case.decoder)

    def weight(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = path[-1].key
        if name == 'weight':  # of a norm
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32))
        # The adapter changes the model by half: much more makes attention so sharp that it magnifies rounding.
        scale = {'embedding': 1.0, 'lora_B': leaf.shape[-2] ** -0.5 / 4}.get(name, leaf.shape[-2] ** -0.5)
        return jnp.asarray(scale * rng.standard_normal(leaf.shape, np.float32))

    shapes = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(SEED))
    base = jax.tree_util.tree_map_with_path(weight, shapes)
    trainable = make_compressor(case.compressor, decoder).init(jax.random.key(SEED), base)
    trainable['lora'] = jax.tree_util.tree_map_with_path(weight, trainable['lora'])
    vocab = case.decoder.vocab_size
    batch = {
        'context': rng.integers(2, vocab, (case.batch, case.context_tokens)).astype(np.int32),
        'context_length': np.full(case.batch, case.context_tokens, np.int32),
        'lm': {
            'tokens': rng.integers(2, vocab, (case.batch, case.text_tokens)).astype(np.int32),
            'is_target': np.ones((case.batch, case.text_tokens), bool),
        },
    }
    return Inputs(base, trainable, jax.tree.map(jnp.asarray, batch))


def write_inputs(case: Case, folder: Path) -> None:
    """What PyTorch reads: a model and a PEFT adapter as their libraries have them, and the rest in rest.safetensors."""
    base, trainable, batch = make_inputs(case)
    hf.write_model(folder, jax.tree.map(np.asarray, base), case.decoder, jnp.float32)
    (folder / 'adapter').mkdir()
    write_adapter(folder / 'adapter', trainable['lora'], case.compressor.lora, str(folder), None)
    rest = {
        'memory_embeddings': trainable['memory_embeddings'], 'special': trainable['special']['lm'],
        'context': batch['context'], 'text': batch['lm']['tokens'],
    }  # fmt: skip
    save_file({name: np.asarray(array) for name, array in rest.items()}, folder / 'rest.safetensors')


@functools.cache
def our_side(case: Case) -> Side:
    """`forward` gives nats per text token; `gradient` the same and {name: gradient} of all that is trained; `matmul`
    is a plain product of the sizes of the encoder's MLP."""
    inputs = make_inputs(case)
    forward, gradient = (jax.jit(function) for function in functions(case, Decoder(case.decoder)))

    def compute_gradient() -> tuple[float, dict[str, np.ndarray]]:
        loss, grads = gradient(*inputs)
        named = {'memory_embeddings': grads['memory_embeddings'], 'special': grads['special']['lm']}
        named = {name: np.asarray(grad) for name, grad in named.items()}
        for target, parts in grads['lora']['layers']['self_attn'].items():
            for part, leaf in parts.items():
                named |= {f'{target}.{i}.{part}': layer.T for i, layer in enumerate(np.asarray(leaf))}
        return float(loss), named

    x_TD, w_DF = (jnp.ones(shape) for shape in matmul_shapes(case))
    matmul = jax.jit(jnp.matmul)
    return {
        'forward': lambda: float(forward(*inputs)),
        'gradient': compute_gradient,
        'matmul': lambda: jax.block_until_ready(matmul(x_TD, w_DF)),
    }


def matmul_shapes(case: Case) -> tuple[tuple[int, int], tuple[int, int]]:
    """All positions that the encoder reads by D, and D by F."""
    positions = case.batch * (case.context_tokens + case.context_tokens // case.compressor.ratio)
    shape = case.decoder
    return (positions, shape.hidden_size), (shape.hidden_size, shape.intermediate_size)


def flops(case: Case) -> dict[str, dict[str, float]]:
    """Operations of the matrix products of `forward`, `gradient` and `matmul`, by the encoder's attention: `folding`
    (every chunk on its own), or `dense` (one mask over the context)."""
    (T, D), (_, F) = matmul_shapes(case)
    inputs = jax.eval_shape(functools.partial(make_inputs, case))
    counts = {}
    for form, attention in {'folding': 'auto', 'dense': 'dense'}.items():
        forward, gradient = functions(case, Decoder(case.decoder, attention=attention))
        calls = {'forward': forward, 'gradient': gradient}
        counts[form] = {'matmul': 2.0 * T * D * F} | {name: count_flops(call, *inputs) for name, call in calls.items()}
    return counts


def functions(case: Case, decoder: Decoder) -> tuple[Any, Any]:
    """(base, trainable, batch) -> loss, and -> (loss, gradients), as the training step computes them."""
    compressor = make_compressor(case.compressor, decoder)
    config = RunConfig(compressor=case.compressor, objective=ObjectiveConfig(lm=1.0))
    loss = compressor_loss(Run(config, decoder, {}, None, None, (), compressor, single_device_mesh()))

    def forward(base: Params, trainable: dict[str, Any], batch: dict[str, Any]) -> jax.Array:
        totals = loss.totals(trainable, base, batch)['lm']
        return jnp.sum(totals.nats) / jnp.sum(totals.tokens)

    def gradient(base: Params, trainable: dict[str, Any], batch: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        nats, tokens, grads = accumulate(loss, trainable, base, batch, microbatches=1)
        return nats['lm'] / tokens['lm'], grads

    return forward, gradient
