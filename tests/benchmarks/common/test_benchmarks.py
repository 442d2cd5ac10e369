"""Every benchmark runs, in its quick form, and ends with the line that is compared; what it counts is right."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import orc
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batches import Batch
from features.lake import Lake
from infra.settings import REPOSITORY, child_environment
from tests.benchmarks import gpu
from tests.benchmarks.common import criteo
from tests.benchmarks.common.cost import embedding_bytes, flops
from tests.benchmarks.common.kernels import kind_of, seconds_by_kind
from tests.benchmarks.common.process import Rank
from tests.benchmarks.common.report import Options, spread
from tests.benchmarks.common.split import PARTS
from tests.benchmarks.common.workloads import workload
from tests.forked import run_module

ARGUMENTS = {
    "train_loop": ["--quick", "--ranks", "2", "--recipes", "demo"],
    "dlrm": ["--quick", "--ranks", "1"],
    "wide": ["--quick", "--ranks", "1"],
    "scaling": ["--quick"],
    "checkpoint": ["--quick"],
    "artifact_store": ["--quick"],
    "resume": ["--quick"],
    "incremental": ["--quick", "--worlds", "demo"],
    "shift": ["--quick"],
    "batch_inference": ["--quick"],
    "embedding_write": ["--quick"],
    "distributed_inference": ["--quick"],
    "object_store": ["--quick"],
    "feature_store": ["--quick"],
    "compute": ["--quick"],
    "soap_read": ["--quick"],
    "soap_load": ["--quick"],
    "solaris": ["--quick"],
    "dag_parsing": ["--quick"],
    "gpu": ["--quick", "--steps", "10", "--batch-size", "256", "--models", "demo"],
}
"""The quick forms."""
OTHERS = ("reader", "scheduling", "hosts")
"""Without one here: `reader` starts no ranks, `scheduling` starts all services twice, `hosts` trains a day often."""
TRAINING = ("train_loop", "dlrm", "wide")
"""Those whose results say where a step's time goes."""


def test_every_benchmark_is_listed_here_and_in_the_page() -> None:
    names = {path.stem for path in (REPOSITORY / "tests/benchmarks").glob("[a-z]*.py")}
    assert names == {*ARGUMENTS, *OTHERS}
    page = (REPOSITORY / "tests/benchmarks/README.md").read_text()
    assert {name for name in names if f"| `{name}` |" in page} == names


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_runs_and_its_last_line_ends_with_the_ratio(name: str, tmp_path: Path) -> None:
    code, output, errors = run_module(
        f"tests.benchmarks.{name}",
        [*ARGUMENTS[name], "--home", str(tmp_path / "home")],
        env=child_environment(OMP_NUM_THREADS="1"),
        folder=tmp_path,
    )
    assert code == 0, errors
    last = json.loads(output.splitlines()[-1])
    assert (last["benchmark"], list(last)[-1]) == (name, "ratio")
    if "skipped" in last:
        assert last == {"benchmark": "gpu", "skipped": "needs a GPU", "ratio": None}
        return
    assert last["ratio"] > 0
    assert last["machine"].keys() >= {"load_before", "load_after", "cores_used_by_others"}
    for result in last["results"] if name in TRAINING else []:
        assert list(result["step_ms"]) == list(PARTS)
        assert min(result["step_ms"].values()) >= 0
        assert result["last_ne"] < result["first_ne"]  # it learns


def test_spread() -> None:
    assert spread([3.0, 1.0, 8.4]) == {"median": 3.0, "slowest": 1.0, "fastest": 8.0}


def batch_of(values: list[int], lengths: list[int]) -> Batch:
    """Two features on the user side, none on the item side, two examples."""
    ids = KeyedJaggedTensor(keys=["c1", "c2"], values=torch.tensor(values), lengths=torch.tensor(lengths))
    return Batch(
        user_sparse=ids,
        user_dense=torch.zeros(2, 0),
        item_sparse=KeyedJaggedTensor(
            keys=[], values=torch.empty(0, dtype=torch.int64), lengths=torch.empty(0, dtype=torch.int32), stride=2
        ),
        item_dense=torch.zeros(2, 0),
        labels=torch.zeros(2, 1),
        weights=torch.ones(2),
        num_examples=torch.tensor(2.0),
    )


@pytest.mark.parametrize(
    ("values", "lengths", "lookups", "unique"),
    [
        pytest.param([5, 6, 5, 6], [1, 1, 1, 1], 4, 4, id="the same ids in two tables are two rows"),
        pytest.param([5, 5, 5, 6], [2, 1, 1, 0], 4, 2, id="repeated in one table"),
        pytest.param([], [0, 0, 0, 0], 0, 0, id="no ids"),
    ],
)
def test_bytes_of_embedding_rows(values: list[int], lengths: list[int], lookups: int, unique: int) -> None:
    found = embedding_bytes(criteo.config(), batch_of(values, lengths))
    assert (found.lookups, found.unique, found.dim) == (lookups, unique, 64)
    assert (found.requested, found.least) == (lookups * 64 * 4 * 3, unique * 64 * 4 * 3)


def test_flops_of_a_step_are_three_times_those_of_forward() -> None:
    layer = torch.nn.Linear(8, 4)
    x = torch.ones(16, 8, requires_grad=True)
    assert flops(lambda: layer(x)) == 2 * 16 * 8 * 4
    assert flops(lambda: layer(x).sum().backward()) == 3 * 2 * 16 * 8 * 4


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void split_embedding_codegen_forward_unweighted_kernel<float, float>", "embedding"),
        ("split_embedding_backward_codegen_rowwise_adagrad_unweighted_kernel_warp_per_row_1", "embedding"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32", "matrix_products"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix_products"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "between_gpus"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at_cuda_detail::cub::DeviceRadixSortOnesweepKernel<>", "ids"),
        ("void at::native::vectorized_elementwise_kernel<4>", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind
    assert seconds_by_kind([(kernel, 0.25), (kernel, 0.5)])[kind] == 0.75


def test_the_gpu_benchmark_counts_on_a_cpu(tmp_path: Path, one_rank: None) -> None:
    options = Options(runs=1, quick=True, home=tmp_path, data_dir=None)
    day = workload("dlrm", options=options, drawn=True)
    job = gpu.Job(config=day.config, lake=day.lake, examples=day.examples, steps=3, runs=1)
    found = gpu.measure(job, Rank(device=torch.device("cpu"), local_world_size=1, wait=lambda: None))
    assert found["rates"].keys() == {"bare", "pipeline", "whole"}
    assert found["requested_bytes"] == 1024 * 26 * 64 * 4 * 3  # one id per feature
    assert 0.9 < found["least_bytes"] / found["requested_bytes"] < 1
    bottom, over = (13, 512, 256, 64), (64 + 27 * 26 // 2, 512, 512, 256, 1)
    products = sum(wide * narrow for widths in (bottom, over) for wide, narrow in itertools.pairwise(widths))
    dots = 27 * 27 * 64
    # Forward once, backward twice; of the dots, once.
    assert found["flops"] == pytest.approx(2 * 1024 * (3 * products + 2 * dots), rel=0.01)
    line = gpu.line_of(found | LIMITS, name="dlrm", matmul="tf32", batch_size=1024)
    assert line["bandwidth_ratio"] == pytest.approx(found["requested_bytes"] / 1e-3 / 4e12, abs=1e-3)


LIMITS: dict[str, Any] = {
    "kernel_seconds": seconds_by_kind([("embedding_forward", 1e-3), ("gemm", 1e-3)]),
    "slowest_kernels_us": {"gemm": 1000.0},
    "copy_bytes_per_second": 4e12,
    "peak_flops_per_second": 4e14,
}


def test_the_log_in_the_lake(tmp_path: Path) -> None:
    """Missing values stay missing, counts below 0 become 0, ids come as they are."""
    column = pa.array([[-1.0], [], [3.0]])
    columns = {feature.name: pa.array([[7], [], [9]]) for feature in criteo.SCHEMA.sparse}
    columns |= {feature.name: column for feature in criteo.SCHEMA.dense} | {"label": pa.array([[0.0], [1.0], [0.0]])}
    folder = tmp_path / "log"
    folder.mkdir()
    orc.write_table(pa.table(columns), folder / "part-0.orc")
    lake = Lake(tmp_path / "lake")
    rows = lake.read(criteo.commit(lake, folder, num_rows=5))
    first = rows.slice(0, 3).sort_by("user_id")
    assert first["c26"].to_pylist() == [[7], [], [9]]
    assert first["i1"].to_pylist() == [0.0, None, 3.0]
    assert first["label"].to_pylist() == [0, 1, 0]
    assert np.all(np.isin(rows["user_id"].to_numpy()[3:], [0, 1, 2]))
