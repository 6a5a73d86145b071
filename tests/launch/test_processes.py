"""The commands of slurm.sbatch and gke_jobset.yaml as two processes of this machine, with the variables that Slurm and
JobSet give them. What is changed: a tiny config, a local folder for shared storage, CPUs (gloo) for accelerators."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

pytestmark = pytest.mark.slow

TINY = {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1', 'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}


@pytest.fixture
def pic_jax(tmp_path):
    """The command, of this checkout."""
    path = tmp_path / 'pic-jax'
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m pic_jax.cli.main "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def environment():
    """What both processes see: neither the tests' own launcher variables nor a shared compile cache."""
    ours = ('SLURM', 'JAX_', 'OMPI', 'TPU_', 'XLA_')
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | TINY


def start(command, environments):
    return [
        subprocess.Popen(command, env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in environments
    ]


def ended(processes):
    """[(exit code, stdout)] of them; they end together or the test fails."""
    try:
        outputs = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, out, err[-2000:]) for process, (out, err) in zip(processes, outputs, strict=True)]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {(line['step'], name): value for line in lines for name, value in line.items() if name.endswith('loss')}


def one_job(results, workdir):
    """Both processes trained, and the first alone says so."""
    assert [code for code, _, _ in results] == [0, 0], results
    said = [[line for line in out.splitlines() if not line.startswith('[Gloo]')] for _, out, _ in results]
    assert said == [[str(workdir)], []]


def free_port():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def slurm_environments(environment):
    """Of the two tasks of a step. JAX derives the port from the job's number: the last of 4096 below 65536."""
    job = next(job for job in range(os.getpid() % 4096, 4096) if is_free(61440 + job))
    step = {
        'SLURM_JOB_ID': str(job), 'SLURM_STEP_ID': '0', 'SLURM_NTASKS': '2', 'SLURM_STEP_NUM_TASKS': '2',
        'SLURM_STEP_NUM_NODES': '1', 'SLURM_STEP_NODELIST': 'localhost',
    }  # fmt: skip
    return [environment | step | {'SLURM_PROCID': rank, 'SLURM_LOCALID': rank} for rank in '01']


def is_free(port):
    with socket.socket() as server:
        try:
            server.bind(('127.0.0.1', port))
        except OSError:
            return False
        return True


def slurm_command(fakes, pic_jax, config, workdir, *overrides):
    """What srun would start for every task."""
    words = ('train', f'--config={config}', f'--workdir={workdir}', *overrides)
    line = fakes.run('slurm.sbatch', '--dry_run', *words, PIC_JAX=str(pic_jax)).stdout.splitlines()[0].split()
    assert line[0] == 'srun'
    return line[line.index(str(pic_jax)) :]


def test_slurm_tasks_are_one_job(fakes, pic_jax, environment, tiny_config_file, trained_workdir, tmp_path):
    workdir = tmp_path / 'run'
    command = slurm_command(fakes, pic_jax, tiny_config_file, workdir)
    one_job(ended(start(command, slurm_environments(environment))), workdir)
    assert losses(workdir) == pytest.approx(losses(trained_workdir), rel=1e-5)


def test_slurm_tasks_save_on_sigterm_and_go_on(fakes, pic_jax, environment, tiny_config_file, tmp_path):
    """SIGTERM to both, as srun passes it on: both exit 75, and the requeued job goes on from there."""
    workdir = tmp_path / 'run'
    overrides = [f'--config.train.{name}=100000' for name in ('steps', 'eval_every', 'checkpoint_every')]
    command = slurm_command(fakes, pic_jax, tiny_config_file, workdir, *overrides)
    records = {}
    for _ in range(2):
        stopped, processes = records, start(command, slurm_environments(environment))
        wait_for_steps(workdir, len(stopped) + 3, processes)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        results = ended(processes)
        assert [code for code, _, _ in results] == [75, 75], results
        records = losses(workdir)
        assert stopped.items() < records.items()  # nothing is trained twice
    assert [step for step, _ in records] == list(range(len(records)))  # 0 is the validation before the first


def wait_for_steps(workdir, steps, processes):
    path, deadline = workdir / 'metrics.jsonl', time.monotonic() + 1200
    while not path.exists() or len(path.read_text().splitlines()) < steps:
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            pytest.fail(f'not {steps} steps: {ended(processes)}')
        time.sleep(0.02)


def test_jobset_pods_are_one_job(fakes, pic_jax, environment, tiny_config_file, trained_workdir, tmp_path):
    words = ('train', f'--config={tiny_config_file}', '--workdir=/mnt/pic_jax/run')
    flags = ('--image=i', '--topology=2x4', '--dry_run', '--')
    printed = fakes.run('gke.sh', 'apply', *flags, *words).stdout.split("<<'EOF'\n")[1].removesuffix('EOF\n')
    (job,) = yaml.safe_load(printed)['spec']['replicatedJobs']
    job = job['template']['spec']
    (container,) = job['template']['spec']['containers']
    assert container['command'] == ['pic-jax']
    command = [str(pic_jax), *(word.replace('/mnt/pic_jax', str(tmp_path)) for word in container['args'])]
    port = free_port()

    def of_pod(index):
        """As the Job controller resolves them: the headless service is this machine."""
        annotations = {'batch.kubernetes.io/job-completion-index': str(index)}
        values = {}
        for variable in container['env']:
            path = variable.get('valueFrom', {}).get('fieldRef', {}).get('fieldPath', '')
            key = path.removeprefix("metadata.annotations['").removesuffix("']")
            values[variable['name']] = annotations[key] if path else variable['value']
        assert values['JAX_COORDINATOR_ADDRESS'] == 'pic-workers-0-0.pic:8476'
        values['JAX_COORDINATOR_ADDRESS'] = f'127.0.0.1:{port}'
        values['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path / 'cache')
        return environment | values

    results = ended(start(command, [of_pod(index) for index in range(job['parallelism'])]))
    one_job(results, tmp_path / 'run')
    assert losses(tmp_path / 'run') == pytest.approx(losses(trained_workdir), rel=1e-5)
