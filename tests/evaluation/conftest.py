"""Pages as trees, and small workdirs whose every text is hostile."""

import base64
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pic_jax.config import CompressorConfig, DataConfig, ObjectiveConfig, RunConfig, to_mapping
from pic_jax.evaluation import plots
from pic_jax.training.workdir import write_config

VOID = ('img', 'meta')
PHRASES = ('p', 'span', 'caption', 'h1', 'h2', 'h3', 'h4', 'summary', 'figcaption', 'dt', 'li', 'a', 'code', 'q')
BLOCKS = ('p', 'div', 'table', 'section', 'article', 'figure', 'details', 'ul', 'dl', 'h1', 'h2', 'h3', 'h4')


@dataclasses.dataclass
class Node:
    """An element: `children` are elements and texts."""

    tag: str
    attributes: dict[str, str | None] = dataclasses.field(default_factory=dict)
    children: list = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return ''.join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, *tags: str) -> list['Node']:
        """The elements of these kinds in this one, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                found += [child] if child.tag in tags or not tags else []
                found += child.all(*tags)
        return found

    def cells(self) -> list[list[str]]:
        """The texts of a table."""
        return [[cell.text for cell in row.all('th', 'td')] for row in self.all('tr')]

    def table(self, caption: str) -> list[list[str]]:
        """The texts of the one table in this element with that caption."""
        (found,) = [table for table in self.all('table') if table.all('caption')[0].text == caption]
        return found.cells()

    def section(self, anchor: str) -> 'Node':
        (found,) = [section for section in self.all('section') if section.attributes['id'] == anchor]
        return found


class _Builder(HTMLParser):
    """Takes nothing for granted: what a browser would mend is an error."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open = [Node('document')]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f'<{tag}> has an attribute twice'
        assert not (tag in BLOCKS and any(node.tag in PHRASES for node in self.open)), f'<{tag}> where text belongs'
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f'</{tag}> closes another element'

    def handle_data(self, data):
        self.open[-1].children.append(data)

    def handle_comment(self, data):
        raise AssertionError(f'a comment: {data}')


@pytest.fixture(scope='session')
def parse_page():
    """A function from HTML to its tree, which checks that elements are nested as they should be."""

    def parse(text: str) -> Node:
        builder = _Builder()
        builder.feed(text)
        builder.close()
        (document,) = builder.open
        (page,) = document.all('html')
        return page

    return parse


HOSTILE = '</td></table><script>alert("1\')</script><img src=x onerror=alert(2)> & &lt; \x00\ud800 ü'
SHOWN = HOSTILE.replace('\x00', '\ufffd').replace('\ud800', '\ufffd')


@pytest.fixture(scope='session')
def hostile() -> tuple[str, str]:
    """A text that breaks out of careless markup, and how a page may show it."""
    return HOSTILE, SHOWN


def make_config(ratio: int = 4, seed: int = 0) -> RunConfig:
    return RunConfig(
        base='tiny_base',
        seed=seed,
        compressor=CompressorConfig.preset('pic', ratio=ratio, chunk_size=8, context_length=24),
        data=DataConfig(source=f'{HOSTILE}.jsonl'.replace('\ud800', ''), context_length=24, min_context=4),
        objective=ObjectiveConfig(ae=0.5, lm=0.0, ft=1.0),
    )


def result_row(method: str, task: str, metric: str, value: float | None, k: float = 6.0) -> dict:
    low, high = (None, None) if value is None else (value - 0.125, value + 0.125)
    return {'method': method, 'ratio': 24 / k if k else None, 'k': k, 'task': task, 'metric': metric, 'value': value,
            'low': low, 'high': high, 'n': 12}  # fmt: skip


def result_rows() -> list[dict]:
    """Two tasks, a method with a hostile name, a metric that has no heading, and a cell without a value."""
    rows = [result_row('pic', 'qa', 'em', 0.5), result_row('no_context', 'qa', 'em', 0.25, k=0)]
    rows += [result_row(HOSTILE, 'qa', 'em', 0.125), result_row('pic', 'qa', 'gap_share', None)]
    return [*rows, result_row('pic', 'reconstruction', 'bleu4', 0.75), result_row('pic', 'qa', 'new_metric', 0.375)]


def sample_answers() -> list[dict]:
    """One question: a right, a partly right, a wrong and an empty answer."""
    answers = {'pic': ('the Mill', 1.0, 1.0), 'icae': ('mill town', 0.0, 2 / 3), 'no_context': (HOSTILE, 0.0, 0.0)}
    answers |= {'full_context': ('', 0.0, 0.0)}
    return [{'source': HOSTILE, 'context': f'At the mill. {HOSTILE}', 'question': f'Where? {HOSTILE}',
             'golds': ['Mill', HOSTILE],
             'answers': {name: dict(zip(('text', 'em', 'f1'), said, strict=True)) for name, said in answers.items()},
             }]  # fmt: skip


def sample_reconstructions() -> list[dict]:
    """One that is right, one with errors, one of nothing."""
    pairs = ('one two three', 'one two three', 1.0), ('a b c d', 'a x c', 0.25), (HOSTILE, '', 0.0)
    return [{'source': 'file:3', 'context': context, 'written': written, 'prefix_em': share}
            for context, written, share in pairs]  # fmt: skip


def curve(last: float) -> list[dict]:
    return [{'step': step, 'loss': 3.0 - step / 10 * (3.0 - last), 'ft_nats': 2.5}
            for step in (0, 5, 10)]  # fmt: skip


ENVIRONMENT = {'pic_jax': '0.1.0', 'commit': None, 'jax': '0.10', 'machine': HOSTILE, 'time': '2030-01-01T00:00:00Z'}


def make_workdir(folder: Path) -> Path:
    workdir = folder / 'run <b>'
    write_config(workdir, make_config())
    train = [{'step': step, 'split': 'train', 'loss': 2.5, 'ft_nats': 2.0, 'ae_nats': 1.0} for step in range(1, 11)]
    records = sorted(
        train + [{'split': 'validation', **record} for record in curve(1.0)], key=lambda record: record['step']
    )
    (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    cost = {'compression_flops': 2.5e9, 'stored_bytes': 768.0, 'first_token_s': 0.0125}
    results = {
        'split': 'test',
        'source': HOSTILE,
        'seed': 0,
        'step': 10,
        'bleu_signature': HOSTILE,
        'rouge_signature': 'rouge-score',
    }
    results |= {'rows': result_rows(), 'costs': {'pic': cost, HOSTILE: cost}}
    (workdir / 'results.json').write_text(json.dumps(results))
    shown = {'answers': sample_answers(), 'reconstructions': sample_reconstructions()}
    (workdir / 'samples.json').write_text(json.dumps(shown))
    (workdir / 'environment.json').write_text(json.dumps({'train': ENVIRONMENT, 'eval': ENVIRONMENT}))
    return workdir


@pytest.fixture
def report_workdir(tmp_path) -> Path:
    """A workdir with all that a page can show. Nothing in it was computed."""
    return make_workdir(tmp_path)


@pytest.fixture(scope='session')
def shared_report_workdir(tmp_path_factory) -> Path:
    """The same. Not to be written to, but for its page."""
    return make_workdir(tmp_path_factory.mktemp('report'))


@pytest.fixture
def quick_pictures(monkeypatch):
    """Pictures of one grey pixel, for tests that are about something else."""
    pixel = base64.b64decode(
        'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=='
    )
    for name in ('plot_curves', 'plot_mask', 'plot_sweep'):
        monkeypatch.setattr(plots, name, lambda path, *_, **__: path.write_bytes(pixel))


@pytest.fixture(scope='session')
def shared_stored_rows() -> list[dict]:
    """As `stored_rows`. Not to be written to."""
    return make_rows()


@pytest.fixture
def stored_rows() -> list[dict]:
    """Rows of a sweep as `ablation.run_sweep` gives them: two ratios, two seeds; the second ratio is made elsewhere."""
    return make_rows()


def make_rows() -> list[dict]:
    rows = []
    for ratio in (2, 4):
        for seed in (0, 1):
            cells = [result_row('pic', 'qa', 'em', 1 / ratio + seed / 8), result_row('no_context', 'qa', 'em', 0.125)]
            row = {'name': f'ratio={ratio},seed={seed}', 'overrides': {'compressor.ratio': ratio, 'seed': seed}}
            row |= {'config': json.loads(json.dumps(to_mapping(make_config(ratio, seed)))), 'split': 'validation'}
            row |= {'examples': 12, 'environment': ENVIRONMENT | {'jax': f'0.{ratio}', 'time': f'{seed}'}}
            row |= {'trained_together': 2, 'together_s': 1.5, 'curve': curve(1 / ratio), 'rows': cells}
            rows.append(row | {'samples': {'answers': sample_answers(), 'reconstructions': []}})
    return rows
