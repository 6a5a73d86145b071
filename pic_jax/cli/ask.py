"""`pic-jax ask`: the frozen model answers from a stored context."""

import argparse

from pic_jax.cli import settings

HELP = 'answer a question from a stored context'
EXAMPLE = """example:
  pic-jax ask --workdir=runs/pic contexts.safetensors "Where does Mara live?" --row=0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the compressor, the contexts and the question."""
    parser.add_argument('--workdir', metavar='DIR', required=True, help='folder of the compressor')
    parser.add_argument('file', metavar='FILE', help='stored contexts')
    settings.add_reading(parser)
    parser.add_argument('question', metavar='QUESTION', help='or, after continuation training, how the text goes on')
    parser.add_argument('--row', type=int, default=0, metavar='N', help='which context of the file (default 0)')
    parser.add_argument('--max_new_tokens', type=int, default=64, metavar='N')
    parser.add_argument('--temperature', type=float, default=0.0, help='0 is greedy (default)')
    parser.add_argument('--top_k', type=int, default=0, help='0 keeps every token (default)')
    parser.add_argument('--top_p', type=float, default=1.0)
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Prints the answer."""
    from pic_jax.errors import ConfigError
    from pic_jax.interop import contexts

    stored = settings.read_row(args)
    if not 0 <= args.seed < 2**32:
        raise ConfigError(f'--seed={args.seed} is not valid: expected 0 to {2**32 - 1}')

    from pic_jax.models.generation import Sampling, check_new_tokens

    check_new_tokens(args.max_new_tokens)  # before the model is read
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    trained = settings.load(args)
    memory = trained.memory_of(contexts.select(stored, [args.row]))
    print(trained.generate(memory, [args.question], args.max_new_tokens, sampling, args.seed)[0])
    return 0
