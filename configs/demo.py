"""What `make demo` trains: questions about 4x compressed notebooks, through the model that ships with the package.

Three minutes on a core.
    pic-jax train --config=configs/demo.py --config.compressor.method=icae --workdir=runs/icae
"""

from pic_jax.cli.demo import demo_config as get_config  # noqa: F401
