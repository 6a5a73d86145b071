"""What a stored number must say about where it came from."""

from pic_jax.evaluation.environment import environment


def provenance(seed: int) -> dict[str, object]:
    """Commit (with '+' where the tree has changes), machine, version of jax, and seed."""
    here = environment()
    machine = f'{here["machine"]}, {here["cores"]} cores, {here["device"]}'
    return {'commit': here['commit'], 'machine': machine, 'jax': here['jax'], 'seed': seed}
