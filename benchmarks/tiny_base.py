"""Numbers about the model that ships with the package (pic_jax/tiny_base).

    python benchmarks/tiny_base.py losses    the first 20 losses of its recipe, trained again from scratch
    python benchmarks/tiny_base.py bars      what the shipped weights reach on the test split

Results: benchmarks/results/tiny_base/{losses,bars}.json, or --out FILE.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from provenance import provenance

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'tiny_base.py'
STEPS = 20
BATCHES, TEST_SEED = 24, 7


def stage(name: str):
    """A stage of the recipe, as the settings of a run."""
    from pic_jax.cli.settings import load_file
    from pic_jax.config import PretrainConfig, from_mapping

    return from_mapping(PretrainConfig, load_file(f'{CONFIG}:{name}'))


def losses() -> dict[str, list[float]]:
    """The training losses of the first steps of the first stage."""
    from pic_jax.evaluation.plots import read_metrics
    from pic_jax.training.pretrain import pretrain

    config = stage('copy')
    short = dataclasses.replace(config.train, steps=STEPS, log_every=1, eval_every=STEPS, checkpoint_every=STEPS)
    with tempfile.TemporaryDirectory() as folder:
        pretrain(dataclasses.replace(config, train=short), Path(folder))
        records = read_metrics(Path(folder) / 'metrics.jsonl')
    return {'loss': [record['loss'] for record in records if record['split'] == 'train']}


def bars() -> dict[str, dict[str, float]]:
    """Per stage whose rows are scored: the fields of a validation record, on test documents (scored, not generated)."""
    import numpy as np

    from pic_jax.data.rows import RowBatches
    from pic_jax.data.tokenise import load_tokenizer, template
    from pic_jax.models import hf
    from pic_jax.models.decoder import Decoder
    from pic_jax.run import TINY_BASE
    from pic_jax.training.pretrain import make_validation, pretrain_loss, token_frequency

    decoder, tokenizer = Decoder(hf.read_config(TINY_BASE)), load_tokenizer(TINY_BASE)
    params = hf.load_params(TINY_BASE, decoder.config, np.float32)
    found = {}
    for name in ('long', 'wide'):
        config = stage(name)
        # Word lists are asked for one by one in the experiments; here every answer is a fact's.
        corpus = dataclasses.replace(config.corpus, word_lists=0.0)
        frequency_V = token_frequency(tokenizer, config)
        batches = RowBatches(
            config.rows, corpus, tokenizer, template('plain', tokenizer), frequency_V, 'test', TEST_SEED
        )
        fields = make_validation(
            decoder, pretrain_loss(decoder, config).weights, [batches[step] for step in range(BATCHES)]
        )(params)
        found[name] = {key: round(value, 4) for key, value in fields.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('losses', 'bars'))
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    out = args.out or ROOT / 'benchmarks' / 'results' / 'tiny_base' / f'{args.what}.json'
    origin = provenance(stage('copy').seed if args.what == 'losses' else TEST_SEED)
    found = losses() if args.what == 'losses' else bars()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**found, **origin}, indent=1) + '\n')
    print(f'written {out}')


if __name__ == '__main__':
    main()
