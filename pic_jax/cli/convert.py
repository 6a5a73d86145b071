"""`pic-jax convert`: frozen models between Hugging Face and Orbax, and other projects' compressors into this one's."""

import argparse
import math
from pathlib import Path

HELP = "a model's weights to Orbax and back to Hugging Face; or a compressor that other code trained to one of ours"
EXAMPLE = """examples:
  pic-jax convert --base=hub:meta-llama/Llama-2-7b-hf --out=llama2_orbax      then train with --config.base=llama2_orbax
  pic-jax convert --base=llama2_orbax --out=llama2_hf                         bit for bit what it was made from
  pic-jax convert --base=hub:mistralai/Mistral-7B-Instruct-v0.2 --icae=mistral_7b_ft_icae.safetensors --out=icae
  pic-jax convert --base=hub:meta-llama/Llama-2-7b-chat-hf --icformer=checkpoint-10000 --out=icformer
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, what to convert and where to write."""
    base_help = 'the model: a folder in Hugging Face format, hub:owner/name[@revision], or what this verb wrote'
    parser.add_argument('--base', metavar='MODEL', required=True, help=base_help)
    parser.add_argument('--out', metavar='OUT', required=True, help='the new folder')
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument('--icae', metavar='FILE', help="state dict of ICAE's authors' code (v2), for that model")
    kinds.add_argument('--icformer', metavar='DIR', help="checkpoint of IC-Former's authors' code, for that model")
    parser.add_argument('--ratio', type=int, help="tokens per vector of ICAE's or IC-Former's training (4)")
    parser.add_argument('--lora_alpha', type=float, help="of ICAE's training (32)")
    parser.add_argument('--dtype', help='compute dtype of the compressor (bfloat16)')


def run(args: argparse.Namespace) -> int:
    """Writes OUT; prints its path."""
    from pic_jax.errors import ConfigError
    from pic_jax.interop import foreign
    from pic_jax.models import orbax_base
    from pic_jax.run import named_folder
    from pic_jax.training.weights import write_weights

    out = Path(args.out)
    if out.exists():
        raise ConfigError(f'--out={args.out} exists: expected a new folder')
    for option, kinds in ('ratio', (args.icae, args.icformer)), ('dtype', (args.icae, args.icformer)), (
        'lora_alpha', (args.icae,)
    ):  # fmt: skip
        if getattr(args, option) is not None and not any(kinds):
            raise ConfigError(f'--{option} is not valid here: it is of a compressor that is converted')
    ratio = 4 if args.ratio is None else args.ratio
    alpha = 32.0 if args.lora_alpha is None else args.lora_alpha
    dtype = 'bfloat16' if args.dtype is None else args.dtype
    if not 0 < alpha < math.inf:
        raise ConfigError(f'--lora_alpha={alpha} is not valid: expected a finite positive number')
    if args.icae:
        write_weights(out, *foreign.read_icae(Path(args.icae), args.base, ratio, alpha, dtype), 'float32')
    elif args.icformer:
        write_weights(out, *foreign.read_icformer(Path(args.icformer), args.base, ratio, dtype), 'float32')
    elif orbax_base.is_orbax(folder := named_folder(args.base)):
        orbax_base.to_hf(folder, out)
    else:
        orbax_base.from_hf(folder, out, args.base)
    print(args.out)
    return 0
