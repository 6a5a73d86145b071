"""Every launcher prints its commands under --dry_run and runs none of them; wrong flags are refused by name."""

import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TRAIN = ('train', '--config=configs/own_data.py', '--workdir=/mnt/pic_jax/runs/pic')
TPU = ('--zone=us-west4-a', '--nfs=10.0.0.2:/share')
LAUNCHERS = {
    'tpu_vm.sh': ('create', 'setup', 'run', 'logs', 'stop', 'delete', 'spot'),
    'gke.sh': ('apply', 'status', 'logs', 'delete'),
    'sky.sh': ('launch', 'logs', 'cancel'),
}
FLAGS = {'tpu_vm.sh': TPU, 'gke.sh': ('--image=r/pic_jax:tpu',), 'sky.sh': ('--bucket=b',)}
VERBS = [(script, verb) for script, verbs in LAUNCHERS.items() for verb in verbs]


def dry(fakes, script, verb, *flags, command=TRAIN):
    """The commands that a launcher prints, as words; comments are left out."""
    done = fakes.run(script, verb, *FLAGS[script], *flags, '--dry_run', '--', *command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [shlex.split(line) for line in lines if not line.startswith('#')]


@pytest.mark.parametrize(('script', 'verb'), VERBS)
def test_dry_run_runs_nothing(no_programs, script, verb):
    done = no_programs.run(script, verb, *FLAGS[script], '--dry_run', '--', *TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(('gcloud ', 'git ', 'kubectl ', 'sky '))
    # Whether anything is uncommitted is looked up, and only said.
    assert [call for call in no_programs.calls if call[:2] != ['git', 'diff']] == []


@pytest.mark.parametrize(('script', 'verb'), VERBS)
def test_what_runs_is_what_dry_run_prints(fakes, script, verb):
    """Up to the id of a run, which is the time."""
    fakes.add('gcloud', '[[ $* == *describe* ]] && echo ACTIVE; exit 0')
    for name in ('git', 'kubectl', 'sky'):
        fakes.add(name, 'cat >"$FAKES/stdin" </dev/stdin; exit 0' if name == 'kubectl' else 'exit 0')
    printed = fakes.run(script, verb, *FLAGS[script], '--dry_run', '--', *TRAIN).stdout
    (fakes.folder / 'calls').unlink(missing_ok=True)
    assert fakes.run(script, verb, *FLAGS[script], '--', *TRAIN).returncode == 0
    ran = [call for call in fakes.calls if call[:2] != ['git', 'diff']]
    if (script, verb) == ('gke.sh', 'apply'):
        command, text = printed.split(" <<'EOF'\n")
        assert ran == [shlex.split(command)]
        assert (fakes.folder / 'stdin').read_text() + 'EOF\n' == text
        return
    wanted = [shlex.split(line) for line in printed.splitlines() if not line.startswith('#')]
    assert [without_id(words) for words in ran] == [without_id(words) for words in wanted]


def without_id(words):
    """A command without the id that follows `tpu_worker.sh run`."""
    return [word if 'tpu_worker.sh run' not in word else ['run', *word.split()[3:]] for word in words]


@pytest.mark.parametrize('script', [*LAUNCHERS, 'slurm.sbatch'])
def test_help(no_programs, script):
    done = no_programs.run(script, '--help')
    assert done.returncode == 0
    assert '--dry_run' in done.stdout
    assert '#' not in done.stdout
    assert done.stderr == ''


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help_names_every_flag(no_programs, script):
    text = (ROOT / 'launch' / script).read_text()
    flags = text.split("\nparse '")[1].split("'")[0].split()
    listed = no_programs.run(script, '--help').stdout
    assert [flag for flag in flags if f'  --{flag}=' not in listed] == []


@pytest.mark.parametrize(
    ('script', 'words', 'named'),
    [
        ('tpu_vm.sh', ['explode'], "'explode'"),
        ('tpu_vm.sh', ['create'], '--zone'),
        ('tpu_vm.sh', ['create', *TPU, '--colour=red'], '--colour'),
        ('tpu_vm.sh', ['create', *TPU, 'fast'], 'fast'),
        ('tpu_vm.sh', ['create', *TPU, '--type=v9-8'], '--type=v9-8'),
        ('tpu_vm.sh', ['create', *TPU, '--capacity=cheap'], '--capacity=cheap'),
        ('tpu_vm.sh', ['spot', *TPU, '--keep=true', '--', *TRAIN], '--keep=true'),
        ('tpu_vm.sh', ['spot', *TPU, '--poll=1m', '--', *TRAIN], '--poll=1m'),
        ('tpu_vm.sh', ['spot', *TPU, '--max_crashes=0', '--', *TRAIN], '--max_crashes=0'),
        ('tpu_vm.sh', ['run', *TPU], 'no command'),
        ('tpu_vm.sh', ['run', *TPU, '--', 'train', '--workdir=gs://bucket/run'], 'gs://bucket/run'),
        ('tpu_vm.sh', ['spot', *TPU, '--', 'train', '--workdir=/tmp/run'], '/tmp/run'),
        ('tpu_vm.sh', ['spot', *TPU, '--', 'train', '--workdir=/mnt/pic_jax/../run'], '/mnt/pic_jax/../run'),
        ('tpu_vm.sh', ['spot', '--zone=z', '--', *TRAIN], '--nfs'),
        ('tpu_vm.sh', ['spot', *TPU, '--bucket=b', '--', *TRAIN], '--bucket'),
        ('gke.sh', ['apply', '--', *TRAIN], '--image'),
        ('gke.sh', ['apply', '--image=i', '--topology=4by4', '--', *TRAIN], '4by4'),
        ('gke.sh', ['apply', '--image=i', '--topology=2x3', '--', *TRAIN], '6 chips'),
        ('gke.sh', ['apply', '--image=i', '--name=Pic_1', '--', *TRAIN], 'Pic_1'),
        ('gke.sh', ['apply', '--image=i', '--spot=true', '--dry_run', '--', *TRAIN], '--spot=true'),
        ('gke.sh', ['apply', '--image=i', '--spot=0 1', '--dry_run', '--', *TRAIN], '--spot=0 1'),
        ('gke.sh', ['apply', '--image=i', '--max_restarts=many', '--dry_run', '--', *TRAIN], '--max_restarts=many'),
        ('gke.sh', ['apply', '--image=i', '--', *TRAIN, 'a\nb'], 'line break'),
        ('sky.sh', ['launch', '--', *TRAIN], '--bucket'),
        ('sky.sh', ['launch', '--bucket=b', '--', *TRAIN, 'two words'], 'two words'),
        ('sky.sh', ['launch', '--bucket=b', '--spot=yes', '--', *TRAIN], '--spot=yes'),
        ('sky.sh', ['launch', '--bucket=b', '--nodes=02', '--', *TRAIN], '--nodes=02'),
        ('sky.sh', ['launch', '--bucket=b', '--accelerators=tpu-v6e-8', '--nodes=2', '--', *TRAIN], '--nodes=2'),
        ('slurm.sbatch', [], '--workdir'),
        ('slurm.sbatch', ['train', '--workdir=gs://bucket/run'], '--workdir'),
    ],
)  # fmt: skip
def test_wrong_usage(no_programs, script, words, named):
    done = no_programs.run(script, *words)
    assert done.returncode == 2
    assert 'error: ' in done.stderr
    assert named in done.stderr
    assert [call for call in no_programs.calls if call[0] != 'git'] == []


@pytest.mark.parametrize(
    ('kind', 'version'),
    [
        ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
        ('v5p-128', 'v2-alpha-tpuv5'),
        ('v6e-8', 'v2-alpha-tpuv6e'),
        ('v4-32', 'tpu-ubuntu2204-base'),
    ],
)
def test_create_takes_the_runtime_of_the_type(no_programs, kind, version):
    create, _ = dry(no_programs, 'tpu_vm.sh', 'create', f'--type={kind}')
    assert {f'--accelerator-type={kind}', f'--runtime-version={version}'} <= set(create)
    assert not {'--spot', '--reserved'} & set(create)


def test_flags_are_also_environment_variables(no_programs):
    done = no_programs.run('tpu_vm.sh', 'delete', '--dry_run', PIC_JAX_ZONE='z', PIC_JAX_NAME='n', PIC_JAX_PROJECT='p')
    assert done.stdout.split()[4:] == ['delete', 'n', '--force', '--quiet', '--zone=z', '--project=p']


def test_tpu_run_goes_to_all_workers_as_one_job(no_programs):
    ((*words, remote, zone),) = dry(no_programs, 'tpu_vm.sh', 'run')
    assert words[:4] + words[5:] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'pic', '--worker=all']
    assert (remote.split()[0], zone) == ('--command=pic_jax/launch/tpu_worker.sh', '--zone=us-west4-a')
    assert remote.split()[3:] == [*TRAIN, '--distributed=on']


def test_quotes_survive_the_way_to_the_worker(no_programs):
    odd = "--config.data.source=it's a $HOME file"
    ((*_, remote, _zone),) = dry(no_programs, 'tpu_vm.sh', 'run', command=(*TRAIN, '--distributed=auto', odd))
    assert shlex.split(remote.removeprefix('--command='))[3:] == [*TRAIN, '--distributed=auto', odd]


def test_spot_asks_for_spot_capacity_and_ends_with_a_delete(no_programs):
    commands = dry(no_programs, 'tpu_vm.sh', 'spot')
    (create,) = [words for words in commands if 'create' in words]
    assert '--spot' in create
    assert 'delete' in commands[-1]


def jobset(fakes, *flags, command=TRAIN):
    printed = fakes.run('gke.sh', 'apply', '--image=r/pic_jax:tpu', *flags, '--dry_run', '--', *command).stdout
    return yaml.safe_load(printed.split("<<'EOF'\n")[1].removesuffix('EOF\n'))


def test_jobset_has_a_pod_for_every_host(no_programs):
    text = jobset(no_programs, '--topology=4x4x4', '--accelerator=tpu-v5p-slice')
    job = text['spec']['replicatedJobs'][0]['template']['spec']
    pod = job['template']['spec']
    assert (job['parallelism'], job['completions']) == (16, 16)
    assert pod['containers'][0]['resources']['limits'] == {'google.com/tpu': '4'}
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice', 'cloud.google.com/gke-tpu-topology': '4x4x4',
    }  # fmt: skip
    assert pod['containers'][0]['args'] == list(TRAIN)


def test_jobset_on_spot_nodes(no_programs):
    pod = jobset(no_programs, '--spot=1')['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
    assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'


def test_quotes_survive_the_way_into_the_jobset(no_programs):
    odd = '--config.data.source=a "quoted" \\ ${HOSTS} & # path'
    (job,) = jobset(no_programs, command=(*TRAIN, odd))['spec']['replicatedJobs']
    assert job['template']['spec']['template']['spec']['containers'][0]['args'] == [*TRAIN, odd]


def test_sky_passes_command_bucket_and_extra(no_programs):
    (words,) = dry(no_programs, 'sky.sh', 'launch', '--accelerators=tpu-v6e-8', '--spot=0')
    assert words[:4] == ['sky', 'jobs', 'launch', 'launch/sky.yaml']
    wanted = {'--gpus=tpu-v6e-8', '--no-use-spot', '--env=PIC_JAX_BUCKET=b', '--env=PIC_JAX_EXTRA=tpu'}
    assert wanted < set(words)
    assert f'--env=PIC_JAX_COMMAND={" ".join(TRAIN)}' in words


def test_slurm_dry_run(no_programs):
    done = no_programs.run('slurm.sbatch', '--dry_run', *TRAIN, SLURM_JOB_ID='7', PIC_JAX='/shared/pic-jax')
    srun, _, requeue = done.stdout.splitlines()
    assert srun.split() == ['srun', '--kill-on-bad-exit=0', '--wait=120', '/shared/pic-jax', *TRAIN]
    assert requeue.split() == ['scontrol', 'requeue', '7']
    assert no_programs.calls == []
