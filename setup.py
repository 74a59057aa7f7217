"""Install with ``pip install -e . -c constraints.txt``, which uses the packages from the checkout,
or with ``pip install .``, which copies them with the configs and the weights that ship."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGES = ("engine", "data", "pretrain", "finetune", "slurm", "studies")


class BuildWithConfigs(build_py):
    """Copies configs/ into the package engine and weights/ into finetune.

    engine.config.shipped and finetune.released.catalogue find them there. Package data have to lie
    in a package, and these lie beside the packages.
    """

    def run(self) -> None:
        """Builds the packages, and copies the rest unless it is used from the checkout."""
        super().run()
        if not self.editable_mode:
            for name, package in (("configs", "engine"), ("weights", "finetune")):
                target = Path(self.build_lib) / package / name
                shutil.copytree(name, target, dirs_exist_ok=True)


setup(
    name="counterpose",
    version="0.1.0",
    description="Pre-training of human vision models by completing one view of a person with the "
    "help of another",
    license="Apache-2.0",
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["counterpose=engine.counterpose:run_main"]},
    packages=find_packages(include=[f"{name}*" for name in PACKAGES]),
    package_data={
        "engine.logging.page": ["*.html", "*.css", "*.js"],
        "finetune.animation.player": ["*.html", "*.css", "*.js"],
        "finetune.live": ["looks/*"],
        "finetune.page": ["*.html", "*.css", "*.js"],
        "studies": ["*.yaml", "rows/*.jsonl"],
    },
    install_requires=[
        "torch>=2.6",
        "timm>=1.0.20",  # the encoders; brings torchvision in the build that matches torch
        "webdataset>=1.0",  # the shards' format and writer
        "braceexpand>=0.1.7",  # shard-{000000..000099}.tar; webdataset brings it too
        # shards on s3, gs, ...: each needs its own package beside it, such as s3fs
        "fsspec>=2024.2",
        "submitit>=1.5",  # jobs on SLURM
        "omegaconf>=2.3",  # typed configs
        "numpy>=1.26",
        "wandb>=0.18",
        "einops>=0.8",
        "av>=12",  # PyAV: videos, each frame checked (docs/frames.md)
        # the open body model; brings warp-lang, whose kernels draw the synthetic humans
        "anny>=0.6.2,<0.7",
        "simplejpeg>=1.7",  # the fastest JPEG decoder measured, straight from and into numpy
        "opencv-python-headless>=4.8",  # lens distortion, and crops ten times as fast as Pillow's
        "pillow>=10.1",  # contact sheets with text
        "trimesh>=4.4",  # meshes as GLB; anny brings it too
        "jinja2>=3.1",  # the report's page, all text escaped
        "markupsafe>=2.1",
        "matplotlib>=3.8",  # plots of `python -m data stats`
        "safetensors>=0.4",  # weights and checkpoints without pickle
        "pyyaml>=6",  # config files, each value read as text
        "tqdm>=4.66",  # progress
        # calibration files in TOML; the standard library has it from 3.11 on
        "tomli>=2; python_version < '3.11'",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "pyrefly>=1.0",
            "scipy>=1.11",
            "cma>=4.0",
        ],
        # scipy: an independent source of rotations
        "studies": ["scipy>=1.11"],  # the t and F distributions behind intervals
        # runs the networks that find people and hands; `counterpose data models` fetches them
        "find": ["ai-edge-litert>=2.3"],
        # `counterpose examine`: its optimiser, quantiles and clusters
        "examine": ["cma>=4.0", "scipy>=1.11"],
        # weights from hf://owner/repo, and `counterpose weights push`
        "hub": ["huggingface_hub>=0.23"],
        # `counterpose export onnx`, which runs what it writes
        "onnx": ["onnx>=1.17", "onnxruntime>=1.20"],
        # `counterpose serve`: the local page. It wants an older Pillow than constraints.txt names.
        "serve": ["gradio>=6.2,<7"],
        # benchmarks/frames.py, which counts where its random access gives other frames
        "bench": ["decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],  # make docs
    },
)
