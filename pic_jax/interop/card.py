"""The model card of an exported compressor: what the Hub reads in its head, and how to use it."""

from typing import Any


def model_card(config: dict[str, Any], on_hub: bool) -> str:
    """README.md of an artefact.

    Args:
      config: the artefact's config.json.
      on_hub: whether the target's id is a name on the Hub, for the card's `base_model`.
    """
    target, compressor = config['target'], config['run']['compressor']
    head = ['library_name: pic_jax', 'pipeline_tag: feature-extraction', 'tags:', '- context-compression',
            '- soft-prompt', '- jax']  # fmt: skip
    if on_hub:
        head = [f'base_model: {target["id"]}', 'base_model_relation: adapter', *head]
    ratios = compressor['ratios'] or [compressor['ratio']]
    method = compressor['method'] + (f', chunks of {compressor["chunk_size"]}' if compressor['chunk_size'] else '')
    revision = f' at revision {target["revision"]}' if target['revision'] else ''
    base = f"'path/to/{target['id'].rpartition('/')[2]}'"
    torch = f"from pic_jax.torch_runtime import Compressor\n\ncompressor = Compressor.from_pretrained('.', base={base})"
    if 'auto_map' in config:  # what stands in the folder needs no pic_jax
        torch = (
            'from transformers import AutoModel  # and peft is needed\n\n'
            f"compressor = AutoModel.from_pretrained('.', trust_remote_code=True, base={base})"
        )
    return (
        '\n'.join(['---', *head, '---', ''])
        + f"""
# A context compressor for {target['id']}

It turns text into memory vectors, {' or '.join(f'{ratio} tokens' for ratio in ratios)} to one, that the frozen model
`{target['id']}`{revision} reads in the text's place. Method: {method}. The licence of that model applies to its use.

In JAX:

```python
from pic_jax.interop import artefact

compressor = artefact.load('.', base={base})
memory = compressor.compress(['a long text ...'])
answers = compressor.generate(memory, ['What is it about?'])
```

In PyTorch, with the same two calls behind it:

```python
{torch}
```

`pic-jax check . --base=...` computes the memory in `golden.safetensors` again, in both. `adapter/`, where there is one,
is the encoder's LoRA adapter, which PEFT loads; every other trained tensor is in `pic.safetensors`. What they mean is
in docs/FORMATS.md of pic_jax.
"""
    )
