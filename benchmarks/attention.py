"""Where the memory vectors of global compressors look, before and after training: the observation behind PIC.

    python benchmarks/attention.py runs/headline/main-0.002-epl-s0-1/qa4 [...]

Each WORKDIR holds a trained icae or epl. Writes docs/attention_BASE_METHOD.png and
benchmarks/results/attention/BASE_METHOD.json with the diagonality of every layer and of their mean, trained and
untrained, on 12 validation documents.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from provenance import provenance

ROOT = Path(__file__).parents[1]
DOCUMENTS, TOKENS = 12, 192


def measure(workdir: str) -> None:
    """The figure and the numbers of one trained compressor."""
    from pic_jax.api import load
    from pic_jax.errors import PicJaxError
    from pic_jax.evaluation import harness, plots
    from pic_jax.evaluation.diagonality import diagonality, memory_attention

    trained = load(workdir)
    run, config = trained.run, trained.run.config
    records = harness.held_out(run, 'validation')
    contexts = {record.context.tobytes(): record.context for record in records if len(record.context) >= TOKENS}
    if len(contexts) < DOCUMENTS:
        raise PicJaxError(
            f'{workdir}: {len(contexts)} validation documents have {TOKENS} tokens, expected {DOCUMENTS}: '
            'train it with a larger data.validation or longer documents'
        )
    tokens_BS = np.stack([context[:TOKENS] for context in contexts.values()][:DOCUMENTS])
    found = {}
    for state, trainable in ('trained', trained.trainable), ('untrained', run.init_trainable()):
        attention_Lkn = np.asarray(memory_attention(run, trainable, tokens_BS))
        layers = [diagonality(layer_kn, config.compressor.ratio) for layer_kn in attention_Lkn]
        mean = diagonality(attention_Lkn.mean(axis=0), config.compressor.ratio)
        found[state] = {'layers': [round(value, 3) for value in layers], 'mean_of_layers': round(mean, 3)}
        if state == 'trained':
            method, k = config.compressor.method, attention_Lkn.shape[1]
            title = f'{method}, {TOKENS} tokens in {k} vectors: diagonality {mean:.2f}'
            name = f'{Path(config.base).name}_{method}'
            plots.plot_attention(ROOT / 'docs' / f'attention_{name}.png', attention_Lkn, title)
    row = {'method': config.compressor.method, 'ratio': config.compressor.ratio, 'steps': config.train.steps,
           'base': config.base, 'objective': dataclasses.asdict(config.objective), 'documents': len(tokens_BS),
           'tokens': TOKENS, **found, **provenance(config.seed)}  # fmt: skip
    out = ROOT / 'benchmarks' / 'results' / 'attention' / f'{name}.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(row, indent=1) + '\n')
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workdirs', nargs='+', metavar='WORKDIR')
    for workdir in parser.parse_args().workdirs:
        measure(workdir)


if __name__ == '__main__':
    main()
