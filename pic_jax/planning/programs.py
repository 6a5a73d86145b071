"""The programs of a run with abstract arguments: what `train`, compression and generation would compile.

No weight is read or made: the target's shape comes from its config.json, or from the table of known shapes.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import DataConfig, DecoderConfig, RunConfig
from pic_jax.models import hf, hub
from pic_jax.models.generation import generate
from pic_jax.models.inputs import from_memory
from pic_jax.models.shapes import known_shape
from pic_jax.run import Run, check_base, check_fits, make_decoder, named_folder, resolved_prefix
from pic_jax.training.objectives import compressor_loss
from pic_jax.training.ratios import nested_losses
from pic_jax.training.sharding import abstract, batch_sharding, check_mesh, shardings
from pic_jax.training.step import init_state, make_train_step

NAMES = ('train', 'compress', 'decode')
# What `TrainedCompressor.generate` pads a short prompt to, and answers with.
PROMPT_TOKENS, NEW_TOKENS = 32, 64


class Program(NamedTuple):
    """One program.

    Attributes:
      name: one of NAMES.
      function: jitted, so that it can be lowered. arguments: abstract, with their shardings.
      tokens: of context and text that one call works on. rounds: of its loop of unknown length, at the most.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    tokens: int
    rounds: int | None = None


def decoder_shape(base: str) -> DecoderConfig:
    """Shape of the target that `config.base` names; of a model on the Hub that is not known, only config.json is read.

    Raises:
      ConfigError: `base` is not set. PicJaxError: it is no supported model.
    """
    check_base(base)
    if shape := known_shape(base):
        return shape
    if base.startswith(hub.PREFIX):
        return hf.read_config(hub.snapshot(base, ('config.json', 'generation_config.json')))
    return hf.read_config(named_folder(base))


def abstract_run(config: RunConfig, shape: DecoderConfig, mesh: Mesh) -> Run:
    """The run with shapes in the place of the target's weights, and without a tokenizer.

    The opening of a chat template, a few tokens before the memory, is not counted.

    Raises:
      ConfigError: the settings do not fit the model, or the mesh does not suit them.
    """
    dtype = jnp.dtype(config.dtype)
    decoder = make_decoder(config, shape, mesh)
    prefix = resolved_prefix(config.decoder_prefix, shape)
    base = abstract(hf.build_params(shape, lambda tensor, size: jax.ShapeDtypeStruct(size, dtype)), mesh)
    config = dataclasses.replace(config, decoder_prefix=prefix)
    unread: Any = None  # tokenizer and template
    run = Run(config, decoder, base, unread, unread, prefix, make_compressor(config.compressor, decoder), mesh)
    check_fits(run)
    check_mesh(config, shape, mesh)
    return run


def abstract_batch(data: DataConfig, objectives: tuple[str, ...], rows: int, mesh: Mesh) -> dict[str, Any]:
    """A batch of full length as `data.loader` makes it."""
    array = functools.partial(_array, mesh, rows)
    batch: dict[str, Any] = {'context': array(data.context_length), 'context_length': array(), 'index': array()}
    for name in objectives:
        T = data.text_length(name)
        batch[name] = {'tokens': array(T), 'is_target': array(T, dtype=bool)}
    return batch


def programs(run: Run, names: tuple[str, ...] = NAMES) -> list[Program]:
    """The named programs of an `abstract_run`. To be lowered while its mesh is set (jax.set_mesh).

    Compression and generation take as many rows as a microbatch has.
    """
    makers = {'train': _train, 'compress': _compress, 'decode': _decode}
    trainable = abstract(jax.eval_shape(run.compressor.init, jax.random.key(0), run.base), run.mesh)
    return [makers[name](run, trainable) for name in names]


def _train(run: Run, trainable: Any) -> Program:
    config = run.config
    # Of a nested compressor the step at the finest ratio, which has the most memory vectors.
    loss = nested_losses(run).get(config.compressor.ratio) or compressor_loss(run)
    state = jax.eval_shape(lambda trained: init_state(trained, config.optimizer, config.train.steps), trainable)
    step = make_train_step(loss, config.optimizer, config.train, shardings(state, run.mesh))
    batch = abstract_batch(config.data, config.objective.names, config.train.batch_size, run.mesh)
    texts = sum(config.data.text_length(name) for name in config.objective.names)
    tokens = config.train.batch_size * (config.data.context_length + texts)
    return Program('train', step, (abstract(state, run.mesh), run.base, batch), tokens)


def _compress(run: Run, trainable: Any) -> Program:
    rows, S = _rows(run), run.config.data.context_length
    array = functools.partial(_array, run.mesh, rows)
    arguments = run.base, trainable, array(S), array()
    return Program('compress', jax.jit(run.compressor.compress), arguments, rows * S)


def _decode(run: Run, trainable: Any) -> Program:
    """Prompt and answer behind a memory, at the most NEW_TOKENS."""
    rows, eos_ids = _rows(run), run.decoder.config.eos_token_ids
    array = functools.partial(_array, run.mesh, rows)
    S = run.config.data.context_length
    memory = jax.eval_shape(run.compressor.compress, run.base, trainable, array(S), array())
    memory = jax.tree.map(lambda x: _array(run.mesh, *x.shape, dtype=x.dtype), memory)

    def decode(base, memory, special_D, text_BT, lengths_B):
        inputs = from_memory(run.decoder, base, memory, special_D, run.prefix, text_BT, lengths_B)
        return generate(run.decoder, base, inputs, NEW_TOKENS, eos_ids)

    arguments = run.base, memory, trainable['special']['ft'], array(PROMPT_TOKENS), array()
    return Program('decode', jax.jit(decode), arguments, rows * (PROMPT_TOKENS + NEW_TOKENS), NEW_TOKENS - 1)


def _rows(run: Run) -> int:
    return run.config.train.batch_size // run.config.train.microbatches


def _array(mesh: Mesh, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """Rows of a batch."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
