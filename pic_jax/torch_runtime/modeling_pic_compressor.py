"""Context compressors trained with pic_jax, in PyTorch: loads the folder that `pic-jax export` writes.

This file stands alone, on torch, transformers, peft and safetensors: `pic-jax export --remote_code` puts it into the
folder, where transformers' `AutoModel` finds it. docs/FORMATS.md of pic_jax says what the settings in config.json mean.

B contexts; M memory slots of a context; R rows that the encoder reads at once, of S = n + k positions: [tokens][slots];
r tokens per slot; D width; L layers, K key/value heads and H head dim of the target.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

MODEL_TYPE, VERSION = 'pic_compressor', '1'
TOKEN, SLOT, PADDING = 0, 1, -1
ROW_POSITIONS = 16384  # that the encoder reads at once at the most, unless one row is longer
# What AutoModel passes on, and what of it concerns the Hub.
PASSED_ON = {'config', 'trust_remote_code', 'adapter_kwargs', '_from_auto', '_commit_hash', 'code_revision'}
HUB_OPTIONS = {'revision', 'token', 'cache_dir', 'local_files_only', 'force_download'}
ANOTHER_MODEL = 0.05  # golden memory that is further off than rounding can be, as a share of its norm
# As pic_jax has them, in data/tokenise.py and models/hub.py. A revision becomes part of a path. AutoTokenizer calls
# `from_pretrained` of whatever class of transformers a file names: of a model's, too, and that reads pickles.
REVISION = re.compile(r'(?!.*\.\.)[\w./-]+')
TOKENIZER_CLASS = re.compile(r'\w+Tokenizer(Fast)?|\w+Backend')


class Memory(NamedTuple):
    """Compressed contexts; True slots come first.

    Attributes:
      positions: [B, M] int64 position ids in the decoder, counted from the start of the memory. valid: [B, M] bool.
      text_start: [B] int64 position id of what follows the memory.
      embeddings: [B, M, D] vectors to read in the context's place, or None where there are keys and values instead.
      keys, values: [B, M, L, K, H] what every layer attends to; keys as before RoPE.
    """

    positions: torch.Tensor
    valid: torch.Tensor
    text_start: torch.Tensor
    embeddings: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None


class Cells(NamedTuple):
    """What stands at each position, int64 of one shape.

    token: its id (0 for slots). kind: TOKEN, SLOT or PADDING. chunk: number of its chunk. place: among its kind in the
    chunk. source: place in the context of the token, or of the first of the slot's r tokens.
    position: position id. embedding: of slots, which learned vector they start from.
    """

    token: torch.Tensor
    kind: torch.Tensor
    chunk: torch.Tensor
    place: torch.Tensor
    source: torch.Tensor
    position: torch.Tensor
    embedding: torch.Tensor

    def pick(self, item: Any) -> 'Cells':
        """The same part of every field."""
        return Cells(*(field[item] for field in self))


class PicCompressorConfig(PretrainedConfig):
    """config.json of an exported compressor."""

    model_type = MODEL_TYPE


class Compressor(torch.nn.Module):
    """A trained compressor and the frozen model that reads its memory: one copy of the weights serves as both.

    Attributes:
      base: the causal language model; the encoder's adapter, where there is one, is on it and switched off to read.
      options: `run.compressor` of config.json.
    """

    config_class = PicCompressorConfig

    def __init__(self, folder: Path, config: dict[str, Any], base: PreTrainedModel, tokenizer: Any):
        super().__init__()
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        self.options = config['run']['compressor']
        self.base, self.adapter, self._is_frozen = base.eval().requires_grad_(False), None, False
        if (folder / 'adapter').is_dir():
            from peft import PeftModel

            if not (folder / 'adapter' / 'adapter_model.safetensors').is_file():  # PEFT would look for a pickle
                raise ValueError(f'{folder / "adapter"} has no adapter_model.safetensors')
            self.adapter = PeftModel.from_pretrained(base, folder / 'adapter')
        for name, tensor in load_file(folder / 'pic.safetensors').items():
            self.register_buffer(name.replace('.', '/'), tensor.to(base.device))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        base: str | Path | PreTrainedModel | None = None,
        device: str | torch.device = 'cpu',
        tokenizer: Any = None,
        verify: bool = True,
        **hub: Any,
    ) -> 'Compressor':
        """Loads an exported folder, or a repository of the Hub that holds one.

        Args:
          base: the frozen model: a folder, a name on the Hub, or the model itself, which gets the adapter and serves no
            other compressor (AutoModel copies it: give it a name); by default what config.json calls it.
          device: of everything, unless `base` is a model.
          tokenizer: the base's, found where the base is by default.
          verify: compute the golden memory, which another frozen model would not give.
          hub: HUB_OPTIONS, where `folder` is a repository of the Hub.

        Raises:
          ValueError: no such artefact, an argument that is not known here, or the frozen model is another one, has an
            adapter or needs code of its own.
        """
        strange = [key for key in hub.keys() - PASSED_ON - HUB_OPTIONS if hub[key] is not None]
        if strange:
            raise ValueError(
                f'{strange[0]}={hub[strange[0]]!r} is not known here: expected base, device, tokenizer, verify'
            )
        if not Path(folder).is_dir():
            from huggingface_hub import snapshot_download

            folder = snapshot_download(str(folder), **{key: hub[key] for key in HUB_OPTIONS & hub.keys()})
        folder = Path(folder)
        config = json.loads((folder / 'config.json').read_text())
        found = config.get('model_type'), config.get('format_version')
        if found != (MODEL_TYPE, VERSION):
            raise ValueError(f'{folder / "config.json"} is of {found}, expected {(MODEL_TYPE, VERSION)}')
        revision = None if base else config['target']['revision']
        if revision is not None and not (isinstance(revision, str) and REVISION.fullmatch(revision)):
            raise ValueError(
                f'{folder / "config.json"}: target.revision={revision!r} is not valid: expected a branch, tag or commit'
            )
        model = open_base(base, config, revision, device)
        name = model.config.name_or_path
        tokenizer = tokenizer or load_tokenizer(name, revision)
        try:
            compressor = cls(folder, config, model, tokenizer)
        except RuntimeError as error:  # PEFT: sizes differ
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f'{folder} belongs to another frozen model than {name}: {reason}') from error
        if verify:
            differences = compressor.check()
            if not all(difference <= ANOTHER_MODEL for difference in differences.values()):
                shown = ', '.join(f'{field} {difference:.2g}' for field, difference in differences.items())
                raise ValueError(
                    f'{folder} belongs to another frozen model than {name}: golden memory is off by {shown}'
                )
        return compressor

    @classmethod
    def register_for_auto_class(cls, auto_class: str = 'AutoModel') -> None:
        """Nothing: the folder's config.json names this class already."""

    @torch.no_grad()
    def compress(self, contexts: Sequence[str | Sequence[int]], ratio: int | None = None) -> Memory:
        """Memory of texts, or of token ids.

        Args:
          ratio: one of those that the compressor serves; its finest by default.

        Raises:
          ValueError: a context is empty or too long, or the ratio is not served.
        """
        if isinstance(contexts, str):
            raise ValueError('contexts is one text: expected a list of texts')
        options, rows = self._at_ratio(ratio), [self.token_ids(context) for context in contexts]
        if not rows or not all(len(ids) for ids in rows):
            raise ValueError('a context is empty: expected at least one token each')
        parts = [[part for window in _windows(options, ids) for part in self._parts(options, *window)] for ids in rows]
        vectors = self._encode_all(options, [part for row in parts for part in row])
        sources = [torch.cat([part.source[part.kind == SLOT] for part in row]) for row in parts]
        return self._memory(options, vectors, sources, [len(ids) for ids in rows])

    def stream(self) -> 'Stream':
        """For a text that comes in pieces: cut before white space, as tokens would not be those of the whole text else.

        Raises:
          ValueError: the compressor's options need the whole context at once.
        """
        return Stream(self)

    @torch.no_grad()
    def generate(
        self, contexts: Memory | Sequence[str], questions: Sequence[str], max_new_tokens: int = 64, **options: Any
    ) -> list[str]:
        """Answers a question on each context; a compressor that was trained to continue text continues the question.

        Args:
          contexts: their memory, or the texts.
          options: of `generate` in transformers; greedy by default.

        Raises:
          ValueError: not one question for each context, or memory, question and answer pass the base's positions.
        """
        memory = contexts if isinstance(contexts, Memory) else self.compress(contexts)
        if len(questions) != len(memory.valid):
            raise ValueError(f'{len(questions)} questions for {len(memory.valid)} contexts: expected one for each')
        if self.config['special'] == 'ft':
            template = self.config['template']
            questions = [template['between'] + question + template['after'] for question in questions]
        inputs = self.decoder_inputs(memory, [self.token_ids(question) for question in questions])
        self._check_positions(int(inputs['position_ids'].max()) + 1 + max_new_tokens)
        with self.frozen():
            made = self.base.generate(**inputs, **({'do_sample': False, 'max_new_tokens': max_new_tokens} | options))
        ends = self.base.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        rows = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in made.tolist()]
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    @torch.no_grad()
    def decoder_inputs(self, memory: Memory, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What the frozen model reads, as its `forward` and `generate` take it:
        [prefix][memory, padded behind][padding, special vector, text].

        Where the memory is keys and values, they and the prefix are in `past_key_values`, and their embeddings are
        there only to be counted.
        """
        embed, device = self.base.get_input_embeddings(), self.device
        prefix = torch.tensor(self.config['prefix'], dtype=torch.int64, device=device)
        (B, M), P = memory.valid.shape, len(prefix)
        before = embed(prefix)[None].expand(B, -1, -1)
        slots = before.new_zeros(B, M, before.shape[2]) if memory.embeddings is None else memory.embeddings
        special = self._vector(f'special.{self.config["special"]}').to(before.dtype)[None]
        tails = [torch.cat([special, embed(torch.tensor(ids, dtype=torch.int64, device=device))]) for ids in texts]
        T = max(map(len, tails))
        behind = torch.stack([functional.pad(tail, (0, 0, T - len(tail), 0)) for tail in tails])
        place = torch.arange(T, device=device) - torch.tensor([T - len(tail) for tail in tails], device=device)[:, None]
        front = torch.arange(P, device=device).expand(B, -1)
        positions = [front, P + memory.positions, P + memory.text_start[:, None] + place.clamp(min=0)]
        inputs: dict[str, Any] = {
            'inputs_embeds': torch.cat([before, slots.to(before.dtype), behind], dim=1),
            'attention_mask': torch.cat([torch.ones_like(front), memory.valid, place >= 0], dim=1).long(),
            'position_ids': torch.cat(positions, dim=1),
        }
        if memory.embeddings is None:
            inputs['past_key_values'] = self._past(memory, before)
        return inputs

    @contextlib.contextmanager
    def frozen(self) -> Iterator[PreTrainedModel]:
        """The base without the encoder's adapter; nothing can be compressed meanwhile."""
        before, self._is_frozen = self._is_frozen, True
        try:
            with self.adapter.disable_adapter() if self.adapter else contextlib.nullcontext():
                yield self.base
        finally:
            self._is_frozen = before

    def check(self) -> dict[str, float]:
        """Norm of the difference from the golden memory by field, as a share of the field's norm; of lengths and
        positions, how many differ."""
        golden = load_file(self.folder / 'golden.safetensors')
        memory = self.compress([row[:n].tolist() for row, n in zip(golden['tokens'], golden['lengths'], strict=True)])
        found = memory._asdict() | {'memory_lengths': memory.valid.sum(dim=1)}
        differences = {}
        for name in golden.keys() - {'tokens', 'lengths'}:
            wanted, have = golden[name].double(), found[name].double().cpu()
            wanted = wanted if wanted.dim() == 1 else wanted[:, : have.shape[1]]
            if wanted.shape != have.shape:
                raise ValueError(f'{name} has shape {tuple(have.shape)}, the golden memory {tuple(wanted.shape)}')
            off, whole = wanted - have, not golden[name].is_floating_point()
            differences[name] = (off.count_nonzero() if whole else off.norm() / wanted.norm().clamp(min=1e-30)).item()
        return differences

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.base.device

    def token_ids(self, text: str | Sequence[int]) -> list[int]:
        """Ids of a text without special tokens; ids stay what they are."""
        if isinstance(text, str):
            return self.tokenizer(text, add_special_tokens=False, verbose=False)['input_ids']
        return [int(token) for token in text]

    def _vector(self, name: str) -> torch.Tensor:
        vector: Any = self._buffers[name.replace('.', '/')]
        return vector

    def _at_ratio(self, ratio: int | None) -> dict[str, Any]:
        served = self.options['ratios'] or [self.options['ratio']]
        if ratio is not None and ratio not in served:
            raise ValueError(f'ratio={ratio} is not valid: the compressor serves {", ".join(map(str, served))}')
        return self.options | {'ratio': ratio or self.options['ratio']}

    def _parts(self, options: dict[str, Any], ids: Sequence[int], start: int) -> list[Cells]:
        """What is encoded on its own: the window of `ids` that starts at `start`, or its chunks where they are
        independent of each other.

        Raises:
          ValueError: the window needs more learned vectors or position ids than there are.
        """
        cells = self._cells(options, ids, start)
        if not chunk_local(options):
            return [cells]
        return [cells.pick(cells.chunk == chunk) for chunk in range(int(cells.chunk.max()) + 1)]

    def _cells(self, options: dict[str, Any], ids: Sequence[int], start: int, first_chunk: int = 0) -> Cells:
        """`make_cells`, checked against what was learned and what the base has."""
        cells, method = make_cells(options, self.options['ratio'], ids, start, first_chunk), options['method']
        tokens, longest = (
            first_chunk * (options['chunk_size'] or 0) + len(ids),
            options['window'] or options['context_length'],
        )
        by_place = options['memory_embeddings'] == 'per_window' or options['chunk_size'] is None
        if method != 'mean_pool' and by_place and tokens > longest:
            raise ValueError(f'a context of {tokens} tokens is too long: memory vectors were learned for {longest}')
        if method not in ('icformer', 'constant_memory'):
            read = cells.position[cells.kind == TOKEN] if method == 'mean_pool' else cells.position
            self._check_positions(int(read.max()) + 1)
        return Cells(*(field.to(self.device) for field in cells))

    def _check_positions(self, needed: int) -> None:
        base = self.base.config
        window = (
            base.sliding_window
            if getattr(base, 'use_sliding_window', True) and hasattr(base, 'sliding_window')
            else None
        )
        available = min(base.max_position_embeddings, window or base.max_position_embeddings)
        if needed > available:
            raise ValueError(f'{needed} position ids are needed, and the model has {available}')

    def _encode_all(self, options: dict[str, Any], parts: list[Cells]) -> dict[str, torch.Tensor]:
        """What the slots of all parts hold, one after the other, [slots, ...] by field of `Memory`."""
        rows = max(1, ROW_POSITIONS // max(len(part.kind) for part in parts))
        made = [self._encode(options, parts[first : first + rows], None)[0] for first in range(0, len(parts), rows)]
        return {name: torch.cat([vectors[name] for vectors in made]) for name in made[0]}

    def _encode(
        self, options: dict[str, Any], parts: list[Cells], past: DynamicCache | None
    ) -> tuple[dict[str, torch.Tensor], DynamicCache | None]:
        """What the slots of R parts hold.

        Args:
          past: keys and values of slots of earlier chunks, which come before everything in `parts`; None where nothing
            does, and nothing will come behind.

        Returns:
          the vectors, and `past` with all of `parts` behind it.
        """
        cells, n = _padded(parts)
        own_slots = cells.kind[:, n:] == SLOT
        if options['method'] == 'constant_memory':
            return {'embeddings': self._start_vectors(cells, n)[own_slots].to(self.base.dtype)}, None
        mask = sees(options, cells.pick((..., slice(None), None)), cells.pick((..., None, slice(None))))
        mask &= (cells.kind >= 0)[:, None]
        if past is not None:
            tokens_see, slots_see = (
                options['context_sees'] == 'chunk+memory',
                options['memory_sees_memory'] == 'previous',
            )
            earlier = torch.where(cells.kind == SLOT, slots_see, tokens_see)[..., None]
            mask = torch.cat([earlier.expand(-1, -1, past.get_seq_length()), mask], dim=2)
        mask |= ~mask.any(dim=2, keepdim=True)  # padding sees something, so that it stays finite
        words = self.base.get_input_embeddings()(cells.token[:, :n])
        if options['method'] == 'mean_pool':
            hidden, _ = self._run_base(words, cells.position[:, :n], mask[:, :n, :n], None)
            weights = mask[:, n:, :n].float()
            slots = (weights / weights.sum(dim=2, keepdim=True)) @ hidden.float()
            return {'embeddings': self._project(slots[own_slots].to(words.dtype))}, None
        x = torch.cat([words, self._start_vectors(cells, n).to(words.dtype)], dim=1)
        if options['method'] == 'icformer':
            return {'embeddings': self._project(self._digest(x, cells.position, n, mask[:, n:])[own_slots])}, None
        if options['method'] != 'kv500x':
            hidden, cache = self._run_base(x, cells.position, mask, past)
            return {'embeddings': self._project(hidden[:, n:][own_slots])}, cache
        with self._projections(n) as projected:
            _, cache = self._run_base(x, cells.position, mask, past)
        heads = (*own_slots.shape, self.base.config.num_key_value_heads, -1)
        stacks = {name: torch.stack([y.reshape(heads)[own_slots] for y in projected[name]], dim=1)
                  for name in ('keys', 'values')}  # fmt: skip
        return stacks, cache

    def _run_base(
        self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, past: DynamicCache | None
    ) -> tuple[torch.Tensor, DynamicCache | None]:
        """The base with its adapter, from embeddings to the final norm. `past` is not written to."""
        if self._is_frozen:
            raise ValueError('nothing can be compressed inside frozen(), which takes the adapter off')
        cache = None if past is None else copy_of(past)
        out = self.base.get_decoder()(
            inputs_embeds=x, position_ids=positions, attention_mask=mask[:, None], past_key_values=cache,
            use_cache=cache is not None,
        )  # fmt: skip
        return out.last_hidden_state, cache

    @contextlib.contextmanager
    def _projections(self, n: int) -> Iterator[dict[str, list[torch.Tensor]]]:
        """Collects keys (after any norm, before RoPE) and values of every layer, at the positions from n on."""
        found: dict[str, list[torch.Tensor]] = {'keys': [], 'values': []}
        hooks = []
        for layer in self.base.get_decoder().layers:
            attention = layer.self_attn
            for name, module in ('keys', getattr(attention, 'k_norm', attention.k_proj)), ('values', attention.v_proj):
                hooks.append(
                    module.register_forward_hook(lambda _, args, out, name=name: found[name].append(out[:, n:]))
                )
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def _start_vectors(self, cells: Cells, n: int) -> torch.Tensor:
        return self._vector('memory_embeddings')[cells.embedding[:, n:]]

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        if self.options['projector'] == 'none':
            return x
        if self.options['projector'] == 'linear':
            return x @ self._vector('projector.kernel').to(x.dtype)
        skip, up, down = (self._vector(f'projector.{name}').to(x.dtype) for name in ('skip', 'up', 'down'))
        return x @ skip + functional.gelu(x @ up, approximate='tanh') @ down

    def _digest(self, x: torch.Tensor, positions: torch.Tensor, n: int, mask: torch.Tensor) -> torch.Tensor:
        """IC-Former's layers: digests [R, k, D] from words and digests x [R, n + k, D]; mask [R, k, n + k]."""
        sizes, target = self.options['icformer'], self.base.config
        N = sizes['heads'] or target.num_attention_heads
        H = sizes['head_dim'] or getattr(target, 'head_dim', None) or target.hidden_size // target.num_attention_heads
        frequencies = 10000.0 ** -(torch.arange(0, H, 2, device=x.device).float() / H)
        angles = (positions[..., None].float() * frequencies).repeat(1, 1, 2)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

        def norm(y, weight):
            return weight.to(y.dtype) * functional.rms_norm(y.float(), y.shape[-1:], eps=1e-6).to(y.dtype)

        def heads(y, weight):
            return (y @ weight.to(y.dtype)).unflatten(2, (N, H)).transpose(1, 2)

        state = x[:, n:]
        for i in range(sizes['layers']):
            before, behind, around = (self._vector(f'icformer.layers.{name}_layernorm.weight')[i]
                                      for name in ('input', 'post_attention', 'context'))  # fmt: skip
            q, k, v, o = (self._vector(f'icformer.layers.cross_attn.{name}_proj.kernel')[i] for name in 'qkvo')
            gate, up, down = (self._vector(f'icformer.layers.mlp.{name}_proj.kernel')[i].to(x.dtype)
                              for name in ('gate', 'up', 'down'))  # fmt: skip
            context = norm(x, around)
            queries = _rotate(heads(norm(state, before), q), cos[:, :, n:], sin[:, :, n:])
            keys = _rotate(heads(context, k), cos, sin)
            seen = functional.scaled_dot_product_attention(queries, keys, heads(context, v), attn_mask=mask[:, None])
            state = state + seen.transpose(1, 2).flatten(2) @ o.to(x.dtype)
            y = norm(state, behind)
            state = state + (functional.silu(y @ gate) * (y @ up)) @ down
        return norm(state, self._vector('icformer.norm.weight'))

    def _memory(
        self, options: dict[str, Any], vectors: dict[str, torch.Tensor], sources: list[torch.Tensor], lengths: list[int]
    ) -> Memory:
        """Slots one after the other, by context: `sources` [slots of the context] and its tokens."""
        counts = [len(each) for each in sources]
        spread = [each + (options['ratio'] - 1) // 2 for each in sources]
        if options['decoder_positions'] == 'sequential':
            positions, text_start = [torch.arange(count, device=self.device) for count in counts], counts
        else:  # the last slot of a short group may stand past the context's end
            positions, text_start = spread, [max(n, int(x.max()) + 1) for n, x in zip(lengths, spread, strict=True)]
        valid = [torch.ones(count, dtype=torch.bool, device=self.device) for count in counts]
        arrays = {name: _stack(array.split(counts)) for name, array in vectors.items()}
        return Memory(_stack(positions), _stack(valid), torch.tensor(text_start, device=self.device), **arrays)

    def _past(self, memory: Memory, prefix: torch.Tensor) -> DynamicCache:
        """A cache of the prefix [B, P, D], which sees no memory, and of the memory behind it."""
        cache, P = DynamicCache(), prefix.shape[1]
        if P:
            with self.frozen() as base:
                base.get_decoder()(inputs_embeds=prefix, past_key_values=cache, use_cache=True)
        cos, sin = self.base.get_decoder().rotary_emb(prefix, P + memory.positions)
        vectors: Any = memory.keys, memory.values
        for layer in range(vectors[0].shape[2]):
            keys, values = (x[:, :, layer].transpose(1, 2).to(prefix.dtype) for x in vectors)
            cache.update(_rotate(keys, cos[:, None], sin[:, None]), values, layer)
        return cache


class Stream:
    """Compresses a text chunk by chunk, as its tokens come.

    Of earlier chunks only the keys and values of their slots are kept, or, where chunks are independent, nothing. For
    every split of a text, the memory is that of the whole.
    """

    def __init__(self, compressor: Compressor):
        options = compressor.options
        size, window = options['chunk_size'], options['window']
        causal = size is not None and options['context_sees'] == 'causal'
        at_end = size is not None and options['positions'] == 'end' and options['position_origin'] == 'window'
        for reason, is_so in (
            (f'method {options["method"]} has no iterative form',
             options['method'] in ('icformer', 'mean_pool', 'constant_memory')),
            ('the whole context is one chunk', size is None and window is None),
            ('window_split=even needs the length of the whole context', window and options['window_split'] == 'even'),
            ('context_sees=causal lets tokens see every earlier token', causal),
            ('positions=end needs the length of the whole context', at_end),
        ):  # fmt: skip
            if is_so:
                raise ValueError(f'this compressor cannot stream: {reason}')
        self.compressor, self.num_tokens = compressor, 0
        self._pending: list[int] = []
        self._past = None if chunk_local(options) else DynamicCache()
        self._made: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = []

    @torch.no_grad()
    def feed(self, text: str | Sequence[int]) -> None:
        """Appends text (tokenised by itself) or token ids, and compresses every chunk that is now full.

        Raises:
          ValueError: the window needs more learned vectors or position ids than there are; the stream stays as it was.
        """
        before = dict(self.__dict__)
        try:
            self._feed(self.compressor.token_ids(text))
        except ValueError:
            self.__dict__.update(before)
            raise

    def _feed(self, ids: list[int]) -> None:
        options = self.compressor.options
        self._pending, self.num_tokens = self._pending + ids, self.num_tokens + len(ids)
        while len(self._pending) >= (size := self._next_size()):
            vectors, sources, cache = self._compress(self._pending[:size])
            self._made = [*self._made, (vectors, sources)]
            self._pending = self._pending[size:]
            if self._past is None or cache is None:
                continue
            self._past = DynamicCache()
            if not options['window'] or self._done % options['window']:  # nothing crosses a window
                length, k = cache.get_seq_length(), len(sources)
                kept = [*range(length - size - k), *range(length - k, length)]
                self._past = copy_of(cache, kept)

    @torch.no_grad()
    def memory(self) -> Memory:
        """Memory of everything that was fed; the stream may go on.

        Raises:
          ValueError: nothing was.
        """
        made = self._made + ([self._compress(self._pending)[:2]] if self._pending else [])
        if not made:
            raise ValueError('the stream is empty: expected at least one token')
        vectors = {name: torch.cat([each[name] for each, _ in made]) for name in made[0][0]}
        sources = torch.cat([each for _, each in made])
        return self.compressor._memory(self.compressor.options, vectors, [sources], [self.num_tokens])

    @property
    def _done(self) -> int:
        """Tokens in finished chunks."""
        return self.num_tokens - len(self._pending)

    def _next_size(self) -> int:
        """Tokens of the chunk that comes next: a chunk ends where its window does."""
        size, window = self.compressor.options['chunk_size'], self.compressor.options['window']
        return min(size or window, window - self._done % window) if window else size

    def _compress(self, ids: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor, DynamicCache | None]:
        """The chunk of those ids: what its slots hold, their sources, and the cache behind them."""
        options = self.compressor.options
        in_window = self._done % options['window'] if options['window'] else self._done
        first_chunk = in_window // options['chunk_size'] if options['chunk_size'] else 0
        cells = self.compressor._cells(options, ids, self._done, first_chunk)
        vectors, cache = self.compressor._encode(options, [cells], self._past)
        return vectors, cells.source[cells.kind == SLOT], cache


def open_base(
    base: str | Path | PreTrainedModel | None,
    config: dict[str, Any],
    revision: str | None,
    device: str | torch.device,
) -> Any:
    """The frozen model, bare and with PyTorch's own attention; `config` is the artefact's, for the rest see
    `Compressor.from_pretrained`.

    Raises:
      ValueError: it has an adapter already, or another width.
    """
    model: Any = base
    if not isinstance(base, PreTrainedModel):
        name = str(base or config['target']['id'])
        model = AutoModelForCausalLM.from_pretrained(  # its config.json may name a kernel of the Hub as attention
            name, dtype=config['run']['dtype'], revision=revision, use_safetensors=True, trust_remote_code=False,
            attn_implementation='sdpa',
        )  # fmt: skip
        model = model.to(device)
    name, wanted = model.config.name_or_path, config['target']['hidden_size']
    if any('lora_' in parameter for parameter, _ in model.named_parameters()):
        raise ValueError(f'{name} has an adapter already: expected the bare model, one for each compressor')
    if model.config.hidden_size != wanted:
        raise ValueError(f'{name} has hidden_size {model.config.hidden_size}, the compressor expects {wanted}')
    model.set_attn_implementation('sdpa')
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id, pad_token_id=0)
    return model


def load_tokenizer(name: str, revision: str | None) -> Any:
    """The tokenizer of a folder, or of a name on the Hub.

    Raises:
      ValueError: it needs code of its own, or a file names a class that is no tokenizer.
    """
    files = get_tokenizer_config(name, revision=revision), PretrainedConfig.get_config_dict(name, revision=revision)[0]
    for named in (values.get('tokenizer_class') for values in files):
        if named is not None and not (isinstance(named, str) and TOKENIZER_CLASS.fullmatch(named)):
            raise ValueError(f'{name}: tokenizer_class={named!r} is not valid: expected the name of a tokenizer')
    return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)


def chunk_local(options: dict[str, Any]) -> bool:
    """Whether nothing crosses a chunk."""
    reads_chunks = options['context_sees'] == 'chunk' or (options['method'] == 'icformer' and options['chunk_size'])
    return bool(reads_chunks and options['memory_sees_memory'] == 'own')


def sees(options: dict[str, Any], query: Cells, key: Cells) -> torch.Tensor:
    """Whether each query may attend to each key: bool of the shape that the two broadcast to."""
    same, earlier = query.chunk == key.chunk, key.chunk < query.chunk
    query_is_slot, key_is_slot = query.kind == SLOT, key.kind == SLOT
    if options['method'] == 'mean_pool':  # a slot is the mean of its tokens
        slot_sees = ~key_is_slot & (key.source >= query.source) & (key.source < query.source + options['ratio'])
    else:
        slot_sees_slot = same & (key.place <= query.place)
        if options['memory_sees_memory'] == 'previous':
            slot_sees_slot |= earlier
        slot_sees = torch.where(key_is_slot, slot_sees_slot, same)
    if options['method'] == 'icformer':  # reads no context
        return query_is_slot & slot_sees
    token_sees_token = (key.source <= query.source) | (options['encoder_attention'] == 'bidirectional')
    if options['context_sees'] != 'causal':
        token_sees_token = token_sees_token & same
    token_sees_slot = earlier & (options['context_sees'] == 'chunk+memory')
    return torch.where(query_is_slot, slot_sees, torch.where(key_is_slot, token_sees_slot, token_sees_token))


def make_cells(options: dict[str, Any], finest: int, ids: Sequence[int], start: int = 0, first_chunk: int = 0) -> Cells:
    """A window, or chunks of one: n tokens, then their slots.

    Args:
      finest: the smallest ratio that the compressor serves; learned vectors are numbered at it.
      start: place of the first token in the context. first_chunk: number of its chunk in the window.
    """
    n, r, origin, c = len(ids), options['ratio'], options['position_origin'], options['chunk_size'] or len(ids)
    token = torch.arange(n)
    group = torch.cat([torch.arange(first, min(first + c, n), r) for first in range(0, n, c)])
    token_chunk, chunk, index = token // c + first_chunk, group // c + first_chunk, group % c // r
    stride = c + (c // r if options['positions'] == 'interleaved' else 0)
    stride = stride if options['chunk_size'] and origin == 'window' else 0
    if options['positions'] == 'spread':
        position = chunk * stride + index * r + (r - 1) // 2
    elif options['positions'] == 'interleaved':
        position = chunk * stride + c + index
    elif origin == 'chunk':
        position = (n - group // c * c).clamp(max=c) + index
    else:
        position = n + torch.arange(len(group))
    per_window = options['memory_embeddings'] == 'per_window' and options['chunk_size']
    embedding = index + chunk * (c // finest) if per_window else index
    zeros, none = torch.zeros_like(token), torch.zeros_like(group)
    position_of_token = token_chunk * stride + token % c
    tokens = torch.tensor(ids), zeros + TOKEN, token_chunk, token % c, token + start, position_of_token, zeros
    slots = none, none + SLOT, chunk, index, group + start, position, embedding
    return Cells(*(torch.cat(pair) for pair in zip(tokens, slots, strict=True)))


def _windows(options: dict[str, Any], ids: Sequence[int]) -> Iterator[tuple[Sequence[int], int]]:
    """The windows of a context, and where each starts."""
    size = min(options['window'] or len(ids), len(ids))
    if options['window_split'] == 'even':
        size = -(-len(ids) // -(-len(ids) // size))
    for start in range(0, len(ids), size):
        yield ids[start : start + size], start


def _padded(parts: list[Cells]) -> tuple[Cells, int]:
    """Parts as rows [R, n + k]: tokens padded to n, then slots padded to k."""

    def side(kind: int) -> Cells:
        picked = [part.pick(part.kind == kind) for part in parts]
        cells = Cells(*(_stack(fields) for fields in zip(*picked, strict=True)))
        return cells._replace(kind=_stack([part.kind for part in picked], PADDING))

    tokens, slots = side(TOKEN), side(SLOT)
    return Cells(*(torch.cat(pair, dim=1) for pair in zip(tokens, slots, strict=True))), tokens.kind.shape[1]


def _stack(rows: Sequence[torch.Tensor], padding: int = 0) -> torch.Tensor:
    """Rows [n, ...] of different lengths as one tensor [R, longest n, ...], padded behind."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)


def copy_of(cache: DynamicCache, places: Sequence[int] | slice = slice(None)) -> DynamicCache:
    """A cache of its own with the keys and values [B, K, S, H] at some places."""
    copy = DynamicCache()
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        copy.update(layer.keys[:, :, places], layer.values[:, :, places], number)
    return copy


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin
