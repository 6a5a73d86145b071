"""Collectives read from compiled programs, against programs whose communication is known by construction."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from crossing import crosses

from pic_jax.planning import hlo
from pic_jax.planning.collectives import Collective, collectives, totals
from pic_jax.planning.groups import parse_groups

# X_BD of programs.py: [8, 16] float32 split over ('a', 'b') = (2, 4): 64 bytes on each device.
SHARD = 4 * 4 * 4
ALONG_A = {(0, 4), (1, 5), (2, 6), (3, 7)}
ALONG_B = {(0, 1, 2, 3), (4, 5, 6, 7)}
MESH = SimpleNamespace(devices=np.arange(8).reshape(2, 4), axis_names=('a', 'b'))


@pytest.fixture(scope='module', params=['plain', 'optimised'])
def programs(request) -> dict[str, str]:
    """Texts of programs.py, compiled with and without most of XLA's optimisations."""
    settings = {
        'JAX_DISABLE_MOST_OPTIMIZATIONS': str(int(request.param == 'plain')),
        'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
    }
    command = [sys.executable, str(Path(__file__).parent / 'programs.py')]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def found_in(text: str, rounds: int | None = None) -> list[Collective]:
    return collectives(hlo.parse(text), rounds)


def only(text: str) -> Collective:
    (found,) = found_in(text)
    return found


@pytest.mark.parametrize(
    ('program', 'kind', 'size', 'groups'),
    [
        ('once', 'all-reduce', SHARD, ALONG_B),
        ('everyone', 'all-reduce', SHARD, {tuple(range(8))}),
        ('all_gather', 'all-gather', 4 * SHARD, ALONG_B),
        ('reduce_scatter', 'reduce-scatter', SHARD, ALONG_A),
        ('all_to_all', 'all-to-all', SHARD, ALONG_B),
        ('permute', 'collective-permute', SHARD, {(4 * a + b, 4 * a + (b + 1) % 4) for a in (0, 1) for b in range(4)}),
    ],
)
def test_each_kind_is_found_with_its_bytes_and_groups(programs, program, kind, size, groups):
    found = only(programs[program])
    assert (found.kind, found.bytes, found.count, set(found.groups)) == (kind, size, 1, groups)


def test_what_the_partitioner_inserts_is_found(programs):
    found = found_in(programs['replicate'])
    assert {each.kind for each in found} <= {'all-gather', 'collective-permute', 'all-reduce'}
    assert max(each.bytes for each in found) == 8 * SHARD  # the whole array arrives on every device
    assert {axis for axis in 'ab' if any(crosses(each, MESH, axis) for each in found)} == {'a', 'b'}


@pytest.mark.parametrize(('program', 'count'), [('scan', 5), ('reverse', 6), ('nested', 15), ('from_three', 7)])
def test_loops_are_multiplied_out(programs, program, count):
    assert only(programs[program]).count == count
    assert totals(found_in(programs[program])) == {'all-reduce': (count, SHARD * count, 0)}


def test_both_branches_count(programs):
    in_branches = [each for each in found_in(programs['branches']) if each.bytes == SHARD]
    assert {frozenset(each.groups): each.count for each in in_branches} == {
        frozenset(ALONG_A): 1,
        frozenset(ALONG_B): 1,
    }


@pytest.mark.parametrize(('program', 'count'), [('scan', 5), ('reverse', 6), ('nested', 15), ('from_three', 7)])
def test_trip_counts_are_derived_where_the_compiler_notes_none(programs, program, count):
    text = programs[program].replace('known_trip_count', 'no_such_note')
    assert only(text).count == count
    # A bound that comes in from outside is not known.
    assert only(text.replace('direction=LT', 'direction=EQ')).count is None


@pytest.mark.parametrize('program', ['unknown', 'scan_in_unknown'])
def test_a_loop_of_unknown_length_is_not_counted_as_one_round(programs, program):
    found = [each for each in found_in(programs[program]) if set(each.groups) == ALONG_B]
    assert found
    assert all(each.count is None for each in found)
    assert totals(found)['all-reduce'][2] == len(found)


def test_a_program_without_communication_has_none(programs):
    assert found_in(programs['nothing']) == []


def test_crossing_is_told_by_the_place_along_the_axis(programs):
    along_b = only(programs['once'])
    assert crosses(along_b, MESH, 'b')
    assert not crosses(along_b, MESH, 'a')
    everyone = only(programs['everyone'])
    assert crosses(everyone, MESH, 'a')
    assert crosses(everyone, MESH, 'b')
    assert not crosses(only(programs['permute']), MESH, 'a')


@pytest.mark.parametrize(
    ('text', 'groups'),
    [
        ('replica_groups={{0,1},{2,3}}, x=1', ((0, 1), (2, 3))),
        ('replica_groups={}, x=1', ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ('replica_groups=[2,4]<=[8], x=1', ((0, 1, 2, 3), (4, 5, 6, 7))),
        ('replica_groups=[4,2]<=[2,4]T(1,0), x=1', ((0, 4), (1, 5), (2, 6), (3, 7))),
        ('replica_groups=[2,4]<=[2,2,2]T(1,0,2)', ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x=1", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4] {'a','c'}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'a'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", ((0, 1), (2, 3))),
        ('source_target_pairs={{0,1},{1,0}}, x=1', ((0, 1), (1, 0))),
    ],
)
def test_every_notation_of_groups(text, groups):
    assert parse_groups(text, 8) == groups


def test_an_unknown_notation_is_refused():
    with pytest.raises(ValueError, match='unknown form: <0,1>'):
        parse_groups('replica_groups=<0,1>', 8)


def test_text_that_is_no_compiled_program_is_refused():
    with pytest.raises(ValueError, match='no ENTRY computation'):
        found_in('module @jit_f')


# As compiled for a TPU: no note of trip counts, a gather spread over the fusions that compute meanwhile, and a sum of
# which every device keeps a slice. Names and shapes as there, everything else left out.
FOR_TPU = """HloModule jit_step, is_scheduled=true, num_partitions=4

%start (param_0: bf16[8,16]) -> (bf16[8,16], bf16[32,16], u32[]) {
  %param_0 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gather.1 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.1 = (bf16[8,16]{1,0:S(1)}, bf16[32,16]{1,0:S(1)}, /*index=2*/u32[]{:S(2)}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (param_0.1: bf16[8,16], param_1.1: bf16[32,16]) -> (bf16[8,16], bf16[32,16]) {
  %param_0.1 = bf16[8,16]{1,0} parameter(0)
  %param_1.1 = bf16[32,16]{1,0} parameter(1)
  %gather.2 = bf16[32,16]{1,0} all-gather(%param_0.1), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %tuple.1 = (bf16[8,16]{1,0}, bf16[32,16]{1,0}) tuple(%param_0.1, %gather.2)
}

%done (param_0.2: bf16[8,16]) -> bf16[32,16] {
  %param_0.2 = bf16[8,16]{1,0} parameter(0)
  %gather.3 = bf16[32,16]{1,0} all-gather(%param_0.2), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %custom-call.2 = bf16[32,16]{1,0:S(1)} custom-call(%param_0.2, %gather.3), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (param_0.3: f32[64]) -> f32[16] {
  %param_0.3 = f32[64]{0} parameter(0)
  %sum.1 = f32[64]{0} all-reduce(%param_0.3), channel_id=4, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice.1 = f32[16]{0} dynamic-slice(%sum.1), dynamic_slice_sizes={16}
}

%body (param.1: (s32[], bf16[8,16], f32[64])) -> (s32[], bf16[8,16], f32[64]) {
  %param.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, f32[64]{0}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %counter = s32[]{:T(128)} get-tuple-element(%param.1), index=0
  %copied = s32[]{:T(128)S(6)} copy(%counter)
  %shard = bf16[8,16]{1,0} get-tuple-element(%param.1), index=1
  %sums = f32[64]{0} get-tuple-element(%param.1), index=2
  %started = (bf16[8,16]{1,0:S(1)}, bf16[32,16]{1,0:S(1)}, u32[]{:S(2)}) fusion(%shard), kind=kCustom, calls=%start
  %whole = bf16[32,16]{1,0:S(1)} get-tuple-element(%started), index=1
  %busy = (bf16[8,16]{1,0}, bf16[32,16]{1,0}) fusion(%shard, %whole), kind=kOutput, calls=%meanwhile
  %finished = bf16[32,16]{1,0:S(1)} fusion(%shard), kind=kCustom, calls=%done
  %scattered = f32[16]{0} fusion(%sums), kind=kCustom, calls=%all-reduce-scatter.1
  %permuted = (bf16[8,16]{1,0}, bf16[8,16]{1,0}, u32[]{:S(2)}) collective-permute-start(%shard), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %permute = bf16[8,16]{1,0} collective-permute-done(%permuted)
  %next = s32[]{:T(128)} add(%copied, %one)
  ROOT %tuple.2 = (s32[]{:T(128)}, bf16[8,16]{1,0}, f32[64]{0}) tuple(%next, %permute, %sums)
}

%condition (param.2: (s32[], bf16[8,16], f32[64])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6)
  %param.2 = (s32[]{:T(128)}, bf16[8,16]{1,0}, f32[64]{0}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%param.2), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count, %bound), direction=LT
}

ENTRY %main (x: bf16[8,16], y: f32[64]) -> bf16[8,16] {
  %x = bf16[8,16]{1,0} parameter(0)
  %y = f32[64]{0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %begin = s32[]{:T(128)} copy(%zero)
  %tuple.3 = (s32[]{:T(128)}, bf16[8,16]{1,0}, f32[64]{0}) tuple(%begin, %x, %y)
  %while.1 = (s32[]{:T(128)}, bf16[8,16]{1,0}, f32[64]{0}) while(%tuple.3), condition=%condition, body=%body
  ROOT %result = bf16[8,16]{1,0} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501


def test_forms_that_the_tpu_compiler_writes():
    found = found_in(FOR_TPU)
    assert [(each.kind, each.bytes, each.count) for each in found] == [
        ('all-gather', 4 * 8 * 16 * 2, 6),
        ('reduce-scatter', 64 * 4, 6),
        ('collective-permute', 8 * 16 * 2, 6),
    ]


@pytest.mark.parametrize(
    ('change', 'count'),
    [
        (('%zero = s32[]{:T(128)} constant(0)', '%zero = s32[]{:T(128)} constant(2)'), 4),
        (('%one = s32[]{:T(128)} constant(1)', '%one = s32[]{:T(128)} constant(4)'), 2),
        (('direction=LT', 'direction=LE'), 7),
        (('compare(%count, %bound), direction=LT', 'compare(%bound, %count), direction=GT'), 6),
        (('direction=LT', 'direction=NE'), 6),
        (('direction=LT', 'direction=GT'), None),
        (('add(%copied, %one)', 'multiply(%copied, %one)'), None),
    ],
)
def test_trip_counts_follow_start_step_and_bound(change, count):
    changed = FOR_TPU.replace(*change)
    assert changed != FOR_TPU
    assert {each.count for each in found_in(changed)} == {count}


def test_a_loop_of_unknown_length_takes_the_rounds_that_are_assumed():
    text = FOR_TPU.replace('constant(6)', 'custom-call()')
    assert {each.count for each in found_in(text)} == {None}
    assert {each.count for each in found_in(text, rounds=63)} == {63}
