"""The loop of `tpu_vm.sh spot`, against a gcloud that keeps one slice and answers from a script."""

import pytest

TRAIN = ('train', '--config=configs/own_data.py', '--workdir=/mnt/pic_jax/runs/pic')
SPOT = ('spot', '--zone=z', '--nfs=10.0.0.2:/share', '--poll=0')

# $FAKES/state: state of the slice; $FAKES/script: a line for every run, exit code and the state that the slice is in
# afterwards; $FAKES/requests: the states that the first requests for a slice end in, ACTIVE when it runs out.
GCLOUD = """
pop() { line=$(head -n 1 "$1" 2>/dev/null); sed -i 1d "$1" 2>/dev/null; }
case $* in
    *'tpu-vm list'*) cat "$FAKES/state" 2>/dev/null || true ;;
    *'queued-resources delete'*) rm "$FAKES/state" 2>/dev/null || exit 1 ;;
    *'queued-resources create'*) 
        [[ ! -e $FAKES/state ]] || exit 1
        pop "$FAKES/requests"
        echo "$line" >"$FAKES/state" ;;
    *'queued-resources describe'*)
        state=$(<"$FAKES/state")
        echo "${state:-ACTIVE}"
        [[ -n $state ]] || echo READY >"$FAKES/state" ;;
    *'tpu_worker.sh run'*)
        pop "$FAKES/script"
        set -- $line
        if [[ $2 == GONE ]]; then rm "$FAKES/state"; else echo "$2" >"$FAKES/state"; fi
        exit "$1" ;;
esac
"""


@pytest.fixture
def spot(fakes):
    """A function from runs, each 'exit_code state', to (exit code of the loop, what it did)."""
    fakes.add('git')
    fakes.add('gcloud', GCLOUD)

    def run(*runs, requests=(), flags=(), train=TRAIN):
        (fakes.folder / 'script').write_text(''.join(f'{line}\n' for line in runs))
        (fakes.folder / 'requests').write_text(''.join(f'{line}\n' for line in requests))
        done = fakes.run('tpu_vm.sh', *SPOT, *flags, '--', *train)
        assert (fakes.folder / 'script').read_text() == '', 'runs were left over'
        return done.returncode, [name for call in fakes.calls if (name := named(call))]

    return run


def named(call):
    line = ' '.join(call)
    names = {
        'queued-resources create': 'create', 'queued-resources delete': 'delete', 'tpu_worker.sh setup': 'setup',
        'tpu_worker.sh run': 'run', 'git archive': 'pack',
    }  # fmt: skip
    return next((name for text, name in names.items() if text in line), None)


LIFE = ['delete', 'create', 'setup', 'run']


def test_one_life(spot):
    assert spot('0 READY') == (0, ['pack', *LIFE, 'delete'])


@pytest.mark.parametrize(
    'end', ['75 READY', '75 PREEMPTED', '101 PREEMPTED', '255 GONE', '1 TERMINATED', '137 PREEMPTED', '137 READY']
)
def test_a_lost_slice_is_made_again_and_runs_the_same_command(fakes, spot, end):
    code, did = spot(end, end, '0 READY')
    assert code == 0
    assert [step for step in did if step != 'delete'] == ['pack', *(LIFE[1:] * 3)]
    assert did[-1] == 'delete'
    creates = [call for call in fakes.calls if 'create' in call]
    assert all(call == creates[0] for call in creates)
    assert '--spot' in creates[0]
    commands = [word for call in fakes.calls for word in call if 'tpu_worker.sh run' in word]
    assert {command.split(' ', 3)[3] for command in commands} == {' '.join(TRAIN) + ' --distributed=on'}


def test_preemptions_never_run_out(spot):
    code, did = spot(*['101 PREEMPTED', '75 READY', '255 GONE'] * 3, '0 READY')
    assert (code, did.count('create')) == (0, 10)


@pytest.mark.parametrize(('arrives', 'code'), [('101 READY', 1), ('102 READY', 2)])
def test_a_training_that_fails_ends_it(spot, arrives, code):
    assert spot(arrives) == (code, ['pack', *LIFE, 'delete'])


def test_keep_leaves_the_slice(spot):
    assert spot('101 READY', flags=['--keep=1']) == (1, ['pack', *LIFE])


@pytest.mark.parametrize('end', ['255 READY', '1 READY'])
def test_a_lost_connection_keeps_the_slice_and_the_run(fakes, spot, end):
    assert spot(end, '0 READY') == (0, ['pack', *LIFE, 'run', 'delete'])
    first, second = [call for call in fakes.calls if named(call) == 'run']
    assert first == second  # the same id: the worker follows what it has started


def test_it_gives_up_after_crashes_in_a_row(spot):
    code, did = spot('137 READY', '134 READY', '75 READY', *['134 READY'] * 3)
    assert (code, did.count('run')) == (1, 6)
    assert did[-1] == 'delete'


def test_no_capacity_is_given_up_as_well(spot):
    code, did = spot(requests=['FAILED'] * 3)
    assert (code, did.count('create'), did.count('setup')) == (1, 3, 0)


def test_a_slice_that_is_there_is_used(fakes, spot):
    (fakes.folder / 'state').write_text('READY\n')
    assert spot('0 READY') == (0, ['pack', 'run', 'delete'])


@pytest.mark.parametrize(('arrives', 'code'), [(0, 0), (75, 75), (101, 1), (102, 2), (255, 255)])
def test_run_exits_as_the_training_did(fakes, arrives, code):
    fakes.add('gcloud', f'exit {arrives}')
    assert fakes.run('tpu_vm.sh', 'run', '--zone=z', '--', *TRAIN).returncode == code


def test_interrupted_it_says_what_still_costs(fakes):
    fakes.add('git')
    fakes.add('gcloud', '[[ $* == *describe* ]] && echo ACTIVE; [[ $* != *worker.sh\\ run* ]] || kill -TERM $PPID')
    done = fakes.run('tpu_vm.sh', *SPOT, '--', *TRAIN)
    assert done.returncode == 1
    assert 'may exist and cost' in done.stderr
