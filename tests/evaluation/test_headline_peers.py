"""The table of every method at 4x, from rows that nobody trained."""

import json

import headline
import headline_peers as peers
import headline_report
import numpy as np
import pytest

QUESTIONS = 12


@pytest.fixture
def write(monkeypatch, tmp_path):
    """A function that stores the row of a method and seed: right answers per context, and metrics beside EM."""
    monkeypatch.setattr(headline, 'RESULTS', tmp_path)

    def write(label, seed, right, **metrics):
        marks = ''.join('1' * number + '0' * (QUESTIONS - number) for number in right)
        metrics = {'em': marks.count('1') / len(marks)} | metrics
        cells = [{'task': 'qa', 'metric': name, 'value': value, 'k': 59.96} for name, value in metrics.items()]
        cells.append({'task': 'qa_by_position', 'metric': 'em_q1', 'value': 0.99, 'k': 1.0})
        row = {'label': label, 'ratio': 4, 'seed': seed, 'marks': marks, 'rows': cells, 'stages': []}
        (tmp_path / f'main-{label}-4x-s{seed}.json').write_text(json.dumps(row))

    return write


def lines(block):
    """The table of a block: the heading, and the cells of every line by the name in front."""
    table, *notes = block.split('\n\n')
    heading, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]
    return heading, {name: dict(zip(heading[1:], cells, strict=True)) for name, *cells in rows}, notes


def test_methods_without_rows_are_left_out_and_named(write):
    write('constant_memory', 0, (0, 0, 0, 6), f1=0.25)
    write('pic', 0, (12, 12, 12, 6), f1=0.9)
    write('pic', 1, (12, 12, 12, 12), f1=1.0)
    heading, rows, notes = lines(peers.peers_block())
    assert list(rows) == ['pic', 'constant_memory']
    assert notes == [
        'No rows yet: epl, icae, icae_windowed, icformer, icformer_windowed, mean_pool, kv500x, kv500x_windowed.'
    ]
    assert 'ROUGE-L' not in heading
    assert rows['pic']['k'] == '60.0'
    assert rows['pic']['EM'] == '93.8% [87.5%, 100.0%]'
    assert rows['pic']['F1'] == '95.0% [90.0%, 100.0%]'
    assert rows['pic']['seeds'] == '2'
    # Of the one seed that both have; the contexts differ by 12, 12, 12 and 0 answers of 12.
    assert rows['pic']['EM minus constant_memory, points'] == '+75.0 [+75.0, +75.0]'
    assert rows['pic']['95% over contexts'] == '[+25.0, +100.0]'
    assert rows['constant_memory']['95% over contexts'] == '-'


def test_no_rows_at_all_are_said(write):
    heading, rows, notes = lines(peers.peers_block())
    assert (heading[0], rows) == ('method', {})
    assert notes == [f'No rows yet: {", ".join(peers.METHODS)}.']


def test_questions_of_a_document_are_drawn_together(write):
    """As many documents as there are, by chance, each with all of its questions: 10 right ones of 20, give or take."""
    write('constant_memory', 0, (0,) * 20)
    write('icae', 0, (12, 0) * 10)
    _, rows, _ = lines(peers.peers_block())
    ends = 100 * np.percentile(np.random.default_rng(5).binomial(20, 0.5, 20000) / 20, [2.5, 97.5])
    found = [float(word) for word in rows['icae']['95% over contexts'].strip('[]').split(',')]
    assert found == pytest.approx(ends, abs=5.1)  # a document is 5 points
    assert ends.tolist() == [30, 70]  # of single questions it would be about 44 to 56


def test_rouge_is_shown_for_the_seeds_that_have_it(write):
    write('constant_memory', 0, (0, 0, 0, 0), f1=0.1)
    for seed in (0, 1):
        write('icae', seed, (6, 6, 6, 6), f1=0.5, **({'rougeL': 0.25} if seed else {}))
        write('icformer', seed, (6, 6, 6, 0), f1=0.45, rougeL=0.2 + seed / 10)
    heading, rows, notes = lines(peers.peers_block())
    assert heading[2:5] == ['EM', 'F1', 'ROUGE-L']
    assert rows['icae']['ROUGE-L'] == '25.0% [25.0%, 25.0%] of 1'
    assert rows['icformer']['ROUGE-L'] == '25.0% [20.0%, 30.0%]'
    assert rows['constant_memory']['ROUGE-L'] == '-'
    assert notes[1:] == [
        "IC-Former reaches 90% of the F1 of ICAE's same form (the paper: over 90%).",
        "IC-Former reaches 100% of the ROUGE-L of ICAE's same form (the paper: over 90%).",
    ]


def test_windows_are_compared_with_windows(write):
    write('icformer_windowed', 0, (6, 6, 6, 6), f1=0.3)
    write('icae_windowed', 0, (6, 6, 6, 6), f1=0.6)
    write('icae', 0, (6, 6, 6, 6), f1=0.1)
    _, rows, notes = lines(peers.peers_block())
    assert {'icformer_windowed', 'icae_windowed'} <= set(rows)
    assert notes[1:] == [
        "IC-Former in windows of one chunk reaches 50% of the F1 of ICAE's same form (the paper: over 90%)."
    ]


def test_the_comparison_with_icae_needs_both(write):
    write('icformer', 0, (6, 6, 6, 6), f1=0.5)
    assert not any('reaches' in note for note in lines(peers.peers_block())[2])
    write('icae', 0, (0, 0, 0, 0), f1=0.0)  # of nothing there is no share
    assert not any('reaches' in note for note in lines(peers.peers_block())[2])


def test_the_rates_of_a_method_have_a_line_once_there_are_trials(monkeypatch):
    def trial(label, rate):
        cells = [{'task': 'qa', 'metric': name, 'value': 0.5} for name in ('nats_per_token', 'em')]
        return {'label': label, 'ratio': 4, 'rate': rate, 'rows': cells}

    monkeypatch.setattr(headline_report, 'stored', lambda phase: [trial('icae', 1e-3), trial('kv500x', 5e-4)])
    _, rows, _ = lines(headline_report.rates_table(4))
    assert rows == {
        'icae': {'0.0005': '', '0.001': '0.500 (50.0%)'}, 'kv500x': {'0.0005': '0.500 (50.0%)', '0.001': ''},
    }  # fmt: skip
