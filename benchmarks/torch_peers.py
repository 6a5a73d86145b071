"""The training step of benchmarks/train_step.py in PyTorch: transformers' Llama with a PEFT adapter, in five forms.

Nothing here comes from pic_jax but the numbers of the case: masks, positions and folding are written once more, so that
equal losses and gradients mean something.
"""

import copy
import functools
import os
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from timing import Side
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from train_case import PEERS, Case, Form, matmul_shapes
from transformers import AutoModelForCausalLM, PreTrainedModel


class Loss(torch.nn.Module):
    """Nats per text token behind the memory of the context.

    B contexts of n tokens; the encoder reads R rows of [tokens][slots], S positions each: whole contexts, or chunks.
    """

    def __init__(self, case: Case, folder: Path, form: Form):
        super().__init__()
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        # The frozen decoder: the same weights, without the adapter that PEFT puts into the other one. Switching that
        # off and on again instead would make torch.compile check and guard every layer.
        self.reader = _twin(base)
        self.reader.set_attn_implementation('sdpa')
        self.encoder = PeftModel.from_pretrained(base, folder / 'adapter', is_trainable=True)
        self.encoder.set_attn_implementation(form.attention)
        rest = load_file(folder / 'rest.safetensors')
        self.memory_embeddings = torch.nn.Parameter(rest['memory_embeddings'])
        self.special = torch.nn.Parameter(rest['special'])
        chunk, slots = case.compressor.chunk_size, case.compressor.chunk_size // case.compressor.ratio
        chunks = 1 if form.folds else case.context_tokens // chunk
        self.row_tokens = chunks * chunk
        self.chunk_embeddings = slice(slots)
        self.chunks = chunks
        # A folded row needs neither: ids count up, and slots behind the tokens see all before them.
        self.position_ids = self.mask = None
        if not form.folds:
            ids = [torch.arange(chunk).repeat(chunks), chunk + torch.arange(slots).repeat(chunks)]
            self.position_ids = torch.cat(ids)[None]
            self.mask = _mask(chunks, chunk, slots, form.attention)

    def forward(self, context_Bn: torch.Tensor, text_BT: torch.Tensor) -> torch.Tensor:
        B, T = text_BT.shape
        embed = self.reader.get_input_embeddings()
        tokens_RnD = embed(context_Bn.reshape(-1, self.row_tokens))
        slots_kD = self.memory_embeddings[self.chunk_embeddings].repeat(self.chunks, 1)
        x_RSD = torch.cat([tokens_RnD, slots_kD.expand(len(tokens_RnD), -1, -1)], dim=1)
        encoded = self.encoder.get_base_model().get_decoder()(
            inputs_embeds=x_RSD, attention_mask=self.mask, position_ids=self.position_ids, use_cache=False
        )
        memory_BkD = encoded.last_hidden_state[:, self.row_tokens :].reshape(B, -1, x_RSD.shape[2])
        special_B1D = self.special.expand(B, 1, -1)
        read = self.reader.get_decoder()(
            inputs_embeds=torch.cat([memory_BkD, special_B1D, embed(text_BT)], dim=1), use_cache=False
        )
        logits_BTV = self.reader.lm_head(read.last_hidden_state[:, -T - 1 : -1])
        return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), text_BT.flatten())


@functools.cache
def torch_side(case: Case, folder: Path, name: str) -> Side:
    """What `train_case.our_side` has, of the peer of that name, on as many threads as the process has cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    form, rest = PEERS[name], load_file(folder / 'rest.safetensors')
    arguments = rest['context'].long(), rest['text'].long()
    loss = Loss(case, folder, form)
    trained = {_short(name): weight for name, weight in loss.named_parameters() if weight.requires_grad}
    compute = torch.compile(loss, dynamic=False) if form.compiled else loss

    @torch.no_grad()
    def forward() -> float:
        return compute(*arguments).item()

    def gradient() -> tuple[float, dict[str, object]]:
        value = compute(*arguments)
        grads = torch.autograd.grad(value, list(trained.values()))
        return value.item(), {name: grad.numpy() for name, grad in zip(trained, grads, strict=True)}

    x_TD, w_DF = (torch.ones(shape) for shape in matmul_shapes(case))
    return {'forward': forward, 'gradient': gradient, 'matmul': lambda: x_TD @ w_DF}


def _short(name: str) -> str:
    """`...layers.3.self_attn.q_proj.lora_A.default.weight` -> `q_proj.3.lora_A`; other names stay."""
    if '.layers.' not in name:
        return name
    layer, _, target, part = name.partition('.layers.')[2].split('.')[:4]
    return f'{target}.{layer}.{part}'


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """Another model on the same parameters."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _mask(chunks: int, chunk: int, slots: int, attention: str) -> torch.Tensor | BlockMask:
    """Causal within each chunk, over [all tokens][all slots].

    A dense one is of numbers to add, [1, 1, S, S]: every layer would turn a bool mask into that again.
    """
    chunk_S = torch.cat([torch.arange(chunks).repeat_interleave(size) for size in (chunk, slots)])

    def sees(_row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (chunk_S[query] == chunk_S[key]) & (key <= query)

    S = len(chunk_S)
    if attention == 'flex_attention':
        return create_block_mask(sees, None, None, S, S, device='cpu')
    place_S = torch.arange(S)
    sees_SS = sees(place_S, place_S, place_S[:, None], place_S[None])
    return torch.zeros(S, S).masked_fill(~sees_SS, -torch.inf)[None, None]
