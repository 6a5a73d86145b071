"""A run: its settings, the frozen target they name, and the compressor built on it."""

import dataclasses
import functools
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pic_jax import nested
from pic_jax.budget import decoder_positions
from pic_jax.compressors.base import Compressor
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import DecoderConfig, RunConfig
from pic_jax.data.readers import expand
from pic_jax.data.tokenise import Template, encode, load_tokenizer, template
from pic_jax.errors import ConfigError
from pic_jax.models import hf, hub, orbax_base
from pic_jax.models.decoder import Decoder, Params
from pic_jax.tensors import check_ids
from pic_jax.training.sharding import shardings, single_device_mesh

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The target that ships with the package (configs/tiny_base.py trained it).
TINY_BASE = Path(__file__).parent / 'tiny_base'


def named_folder(name: str) -> Path:
    """The folder that a setting names: `tiny_base[/...]` is in the package, `$NAME/...` starts at a variable, and
    `hub:owner/name[@revision]` is a model on the Hugging Face Hub, downloaded where the local cache lacks it."""
    if name.startswith(hub.PREFIX):
        return hub.snapshot(name)
    first, _, rest = name.partition('/')
    return TINY_BASE / rest if first == TINY_BASE.name else expand(name)


class Program(NamedTuple):
    """The static side of a run: hashable by value, so that equal runs share what is compiled."""

    compressor: Compressor
    decoder: Decoder
    prefix: tuple[int, ...]
    objectives: tuple[str, ...]
    method: str


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What training, evaluation and use have in common.

    Attributes:
      config: as given, with `decoder_prefix` resolved to ids.
      base: parameters of the frozen target, in the compute dtype.
      prefix: ids that the decoder reads before the memory: `decoder_prefix` and the template's opening.
      mesh: the devices that hold `base`.
    """

    config: RunConfig
    decoder: Decoder
    base: Params
    tokenizer: 'PreTrainedTokenizerBase'
    template: Template
    prefix: tuple[int, ...]
    compressor: Compressor
    mesh: Mesh

    @property
    def program(self) -> 'Program':
        """What decides the compiled programs of this run."""
        config = self.config
        return Program(self.compressor, self.decoder, self.prefix, config.objective.names, config.compressor.method)

    @property
    def eos_id(self) -> int | None:
        """The token that ends targets."""
        ids = self.decoder.config.eos_token_ids
        return ids[0] if ids else None

    @property
    def vocab_size(self) -> int:
        """Of the target; a tokenizer may have more."""
        return self.decoder.config.vocab_size

    def at_ratio(self, ratio: int) -> 'Run':
        """The run of the ordinary compressor that serves one of the ratios; its weights are `nested.trainable_at`'s.

        Raises:
          ConfigError: the compressor does not serve the ratio, or the settings do not fit it.
        """
        settings = nested.at_ratio(self.config.compressor, ratio)
        config = dataclasses.replace(self.config, compressor=settings)
        return dataclasses.replace(self, config=config, compressor=make_compressor(settings, self.decoder))

    def init_trainable(self) -> dict[str, Any]:
        """Fresh compressor parameters, a function of the seed alone."""
        return self.compressor.init(jax.random.key(self.config.seed), self.base)


def open_run(config: RunConfig, mesh: Mesh | None = None) -> Run:
    """Loads the target that `config.base` names.

    Args:
      mesh: the devices to load it to, every process its own part; this process's first device where none is given.

    Raises:
      PicJaxError: the folder does not hold a supported model with its tokenizer.
      ConfigError: `base` is not set, or the settings do not fit the model.
    """
    check_base(config.base)
    folder = named_folder(config.base)
    decoder_config = hf.read_config(folder)
    dtype = jnp.dtype(config.dtype)
    mesh = mesh or single_device_mesh()
    decoder = make_decoder(config, decoder_config, mesh)
    base = load_base(folder, decoder_config, dtype, mesh)
    tokenizer = load_tokenizer(folder)
    text = template(config.prompt_template, tokenizer)
    before = tuple(int(token) for token in encode(tokenizer, text.before)) if text.before else ()
    prefix = resolved_prefix(config.decoder_prefix, decoder_config, before)
    check_ids(np.array([*prefix, *before]), decoder_config.vocab_size, f'{folder}: ')
    return Run(
        config=dataclasses.replace(config, decoder_prefix=prefix),
        decoder=decoder,
        base=base,
        tokenizer=tokenizer,
        template=text,
        prefix=prefix + before,
        compressor=make_compressor(config.compressor, decoder),
        mesh=mesh,
    )


def check_base(base: str) -> None:
    """Raises ConfigError where no target is named."""
    if not base:
        raise ConfigError(
            "base='' is not valid: expected tiny_base, hub:owner/name or the folder of a model in HF format"
        )


def resolved_prefix(
    prefix: tuple[int, ...] | None, shape: DecoderConfig, before: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """The ids that `decoder_prefix` names: None is the target's BOS, where it has one.

    Args:
      before: what the template puts between them and the memory. One that begins with the BOS gets no other.

    Raises:
      ConfigError: an id is not in the target's vocabulary.
    """
    if prefix is None:
        bos = shape.bos_token_id
        return () if bos is None or before[:1] == (bos,) else (bos,)
    if not all(0 <= token < shape.vocab_size for token in prefix):
        raise ConfigError(f'decoder_prefix={prefix} is not valid: expected ids below {shape.vocab_size}')
    return prefix


def make_decoder(config: RunConfig, shape: DecoderConfig, mesh: Mesh) -> Decoder:
    """The run's decoder, for the devices of a mesh."""
    platform = mesh.devices.flat[0].platform
    return Decoder(
        shape, dtype=jnp.dtype(config.dtype), remat=config.remat, attention=config.attention, platform=platform
    )


def load_base(folder: Path, config: DecoderConfig, dtype: jnp.dtype, mesh: Mesh) -> Params:
    """A model's parameters, born in their shards: every process reads the bytes of its own devices, once.

    Raises:
      PicJaxError: as `hf.open_weights` and `orbax_base.load`.
      ConfigError: the mesh does not fit the model's dimensions.
    """
    shapes = hf.build_params(config, lambda tensor, shape: jax.ShapeDtypeStruct(shape, dtype))
    places = shardings(shapes, mesh)
    if orbax_base.is_orbax(folder):
        return orbax_base.load(folder, config, places, dtype)
    weights = hf.open_weights(folder, config)

    def load(tensor: hf.Tensor, shape: tuple[int, ...]) -> jax.Array:
        sharding = functools.reduce(operator.getitem, tensor.path, places)

        @functools.cache  # devices that hold the same part share one reading
        def read(bounds: tuple[tuple[int, int], ...]):
            return weights.read(tensor, tuple(slice(*bound) for bound in bounds), dtype)

        def part(index: tuple[slice, ...] | None):
            index = index or (slice(None),) * len(shape)
            return read(tuple(cut.indices(size)[:2] for cut, size in zip(index, shape, strict=True)))

        return jax.make_array_from_callback(shape, sharding, part)

    return hf.build_params(config, load)


def full_context_fits(run: Run) -> bool:
    """Whether the decoder has positions for every word of a context and the longest text behind it."""
    data = run.config.data
    longest = max((data.text_length(name) for name in run.config.objective.names), default=0)
    return len(run.prefix) + data.context_length + longest <= run.decoder.config.max_position_embeddings


def check_fits(run: Run) -> None:
    """Raises ConfigError where contexts do not fit the compressor, or texts the decoder behind the memory."""
    for ratio in run.config.compressor.ratios:
        check_fits(run.at_ratio(ratio))
    data, available = run.config.data, run.decoder.config.max_position_embeddings
    if not run.prefix:
        raise ConfigError('decoder_prefix=() is not valid: no_context needs a token before the text, usually the BOS')
    run.compressor.check_length(data.context_length)
    memory = decoder_positions(run.config.compressor, data.context_length)
    for name in run.config.objective.names:
        needed = len(run.prefix) + memory + 1 + data.text_length(name)
        if needed > available:
            raise ConfigError(
                f'objective.{name} needs {needed} positions in the decoder (prefix, memory, special, text) '
                f'but the model has {available}: shorten the data.* lengths or raise compressor.ratio'
            )
    if run.config.objective.distill and not full_context_fits(run):
        raise ConfigError(
            f'objective.distill={run.config.objective.distill} is not valid: its teacher reads the full context, '
            f'which does not fit the {available} positions of the model'
        )
    if run.config.objective.words and data.context_length > available:
        raise ConfigError(
            f'objective.words={run.config.objective.words} is not valid: the model reads the whole context, whose '
            f'data.context_length={data.context_length} tokens do not fit its {available} positions'
        )
