"""What tests of several rooms need: small stores, texts, a run folder, the command line as a function."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "bench" / "sample"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read as torch loads: as many tests as cores may run at once


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` skip by themselves; nothing is probed before one of them runs."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on a key, a cluster's variables or a width that the machine happens to have."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SKILLAXES_DEBUG", "SLURM_TMPDIR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(scope="module", params=["amx", "avx512", "cpu"])
def cpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation of the products that this processor can run, in this process and in those it starts."""
    from skillaxes_kernels.backends import native

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.CPU_BACKEND, request.param)
        missing = native.unserved_name()
        if missing is not None:
            pytest.skip(missing)
        yield request.param


@pytest.fixture(params=[1, 2])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, then two."""
    from support.threads import on_threads

    with on_threads(request.param):
        yield request.param


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def skillaxes(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The command line in this process: ``skillaxes("discover", store, run_dir, "--top", 3)``."""
    from skillaxes.cli import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        caught = capsys.readouterr()
        return Ran(code, caught.out, caught.err)

    return run


def small_matrix(n_rows: int = 120, n_features: int = 24, seed: int = 0) -> np.ndarray:
    """Rows with a decaying spectrum and a mean larger than their spread, as real activations have."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.normal(size=(n_features, n_features)))[0]
    spread = 8.0 * 0.6 ** np.arange(n_features)
    mean = 12 * random.normal(size=n_features) / np.sqrt(n_features)
    return (random.normal(size=(n_rows, n_features)) * spread) @ axes.T + mean


@pytest.fixture(name="small_matrix")
def _small_matrix() -> Callable[..., np.ndarray]:
    """:func:`small_matrix` for tests, which cannot import from here."""
    return small_matrix


@pytest.fixture
def sample() -> Path:
    """The folder of the real sample: ``activations.zarr`` and ``traces.jsonl``."""
    return SAMPLE


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """A store of given rows; float32 unless told otherwise."""

    def make(rows: np.ndarray, name: str = "store.zarr", dtype: str = "float32", **attributes: Any) -> Path:
        from skillaxes import create_store

        path = tmp_path / name
        with create_store(path, n_features=rows.shape[1], dtype=dtype, **attributes) as writer:
            writer.append(rows.astype(dtype))
        return path

    return make


@pytest.fixture
def store(make_store: Callable[..., Path]) -> Path:
    """120 rows of three layers with eight units each."""
    return make_store(small_matrix(), layer_ids=[3, 7, 11], hidden=8, model="tiny")


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """120 texts of two kinds."""
    path = tmp_path / "traces.jsonl"
    random = np.random.default_rng(1)
    nouns, verbs = ["apple", "river", "garden", "poem"], ["add", "divide", "multiply", "carry"]
    with path.open("w") as file:
        for row in range(120):
            words = random.choice(nouns if row % 2 else verbs, size=12).tolist()
            record = {"id": f"t{row}", "input": f"task {' '.join(words[:4])}", "output": " ".join(words)}
            file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the first rows of the sample, labelled offline; not to be changed."""
    import skillaxes
    from skillaxes.labeling import label

    run_dir = tmp_path_factory.mktemp("finished") / "run"
    skillaxes.discover(SAMPLE / "activations.zarr", run_dir, components=4)
    label(run_dir, SAMPLE / "traces.jsonl", baselines=3)
    return run_dir


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to do anything with."""
    from shutil import copytree

    return Path(copytree(finished, tmp_path / "run"))


@pytest.fixture
def shared_data() -> Path:
    """The large real data set, where it lies beside the checkout; its tests skip elsewhere."""
    folder = Path(os.environ.get("SKILLAXES_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the shared data are not here")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _an_ordinary_cache() -> Iterator[None]:
    """Panels of the same size on every machine."""
    from skillaxes.run import plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_outer_cache", lambda: 0)
        yield
