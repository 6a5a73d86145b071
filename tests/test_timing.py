"""Programs that take turns: a turn has as many calls as fill it."""

import types

import timing


def test_a_turn_is_the_mean_of_as_many_calls_as_fill_it(monkeypatch):
    clock = iter([0.0, 1.5, 1.75, 2.25, 2.5])
    monkeypatch.setattr(timing, 'time', types.SimpleNamespace(perf_counter=lambda: next(clock)))
    assert timing.turn(lambda x: x, [1]) == 2.25 / 3


def test_programs_take_turns(monkeypatch):
    monkeypatch.setattr(timing, 'TURN_S', 0)
    called = []
    programs = {name: lambda name=name: called.append(name) for name in ('a', 'b')}
    seconds = timing.interleaved(programs, [], rounds=2)
    assert called == ['a', 'b', 'a', 'b']
    assert {name: len(times) for name, times in seconds.items()} == {'a': 2, 'b': 2}
