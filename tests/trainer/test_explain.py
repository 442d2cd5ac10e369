"""Feature importance: what was planted ranks first, noise at zero, and MLflow keeps it once."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from typer.testing import CliRunner

from features.lake import Lake
from infra.commands import cli
from infra.settings import Settings, get_settings
from tests.trainer.downstream_world import CTR, UPSTREAM, World, day
from tests.trainer.planted import DAY, commit_day, planted_recipe
from trainer import tracking
from trainer.downstream.explain import TOGETHER, explain_downstream
from trainer.downstream.retrain import retrain_on
from trainer.explain import Explanation, explain
from trainer.explain_report import CSV, PNG, log_downstream, log_user_model
from trainer.importance import Effect, Feature, Importance, measure, rank
from trainer.recipes import USER_MODELS
from trainer.sample import permute_dense, permute_sparse, sample_rows
from trainer.trained import TrainedDay, load_model

mlflow_is_lazy = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
THIRD = DAY + timedelta(2)


def of(explanation: Explanation, task: str, feature: str) -> Importance:
    (ranking,) = (ranking for ranking in explanation.rankings if ranking.task == task)
    (found,) = (found for found in ranking.importances if found.feature.name == feature)
    return found


def test_the_planted_taste_ranks_first_and_noise_at_zero(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    found = explain(planted_recipe(), THIRD, settings=home, rows=4000, repeats=3)
    assert (found.scored_ds, found.scored_fingerprint) == (pair[1].ds, pair[1].fingerprint)
    assert found.num_rows == 4000
    assert [ranking.task for ranking in found.rankings] == ["click", "buy"]
    click = found.rankings[0]
    names = {importance.feature.name for importance in click.importances}
    assert names == {"id", "recent_topics", "recent_items", "item", "topic", "age", "activity", "hour"}
    assert [found.feature.name for found in click.importances[:2]] == ["topic", "recent_topics"]
    first = click.importances[0]
    assert first.increase > 10 * first.error
    assert first.verdict == "helps"
    for noise in ("age", "activity", "hour"):
        assert of(found, "click", noise).verdict == "zero" or of(found, "click", noise).increase < 0.01 * first.increase
    again = explain(planted_recipe(), THIRD, settings=home, rows=4000, repeats=3)
    assert again.rankings == found.rankings


def test_the_model_has_not_learnt_the_day(home: Settings, pair: tuple[TrainedDay, TrainedDay]) -> None:
    found = explain(planted_recipe(), DAY + timedelta(1), settings=home, rows=500, repeats=1)
    assert found.scored_ds == DAY
    with pytest.raises(ValueError, match=r"tiny is trained on no day before 2026-01-01.*Train a day before it first"):
        explain(planted_recipe(), DAY, settings=home, rows=500, repeats=1)


def test_the_loaded_model_predicts_what_training_ended_with(
    home: Settings, pair: tuple[TrainedDay, TrainedDay]
) -> None:
    explained = explain(planted_recipe(), THIRD, settings=home, rows=4000, repeats=1)
    assert explained.rankings[0].ne < (pair[1].metrics["click"]["ne"] or 0) + 0.02
    model = load_model(planted_recipe(), pair[1])
    assert not model.training


class Line:
    """A `Subject` whose logit is one feature plus nothing of another."""

    def __init__(self, num_rows: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self._x = torch.randn(num_rows, generator=generator)
        self.labels = (torch.rand(num_rows, generator=generator) < torch.sigmoid(2 * self._x)).float().unsqueeze(1)
        self.tasks = ("click",)
        self.features = [
            Feature(name="noise", side="user", kind="dense"),
            Feature(name="signal", side="user", kind="dense"),
        ]

    def logits(self, feature: Feature | None, order: torch.Tensor) -> torch.Tensor:
        x = self._x[order] if feature is not None and feature.name == "signal" else self._x
        return (2 * x).unsqueeze(1)


def test_the_increase_is_of_ne_and_its_error_shrinks_with_the_examples() -> None:
    errors = []
    for num_rows in (1_000, 16_000):
        (ranking,) = measure(Line(num_rows), repeats=4, seed=0)
        signal, noise = ranking.importances
        assert (signal.feature.name, signal.rank, signal.verdict) == ("signal", 1, "helps")
        assert (noise.feature.name, noise.rank, noise.verdict, noise.increase) == ("noise", 2, "zero", 0.0)
        errors.append(signal.error)
    assert 3 < errors[0] / errors[1] < 5.5


def test_a_sample_of_one_label_is_refused() -> None:
    line = Line(50)
    line.labels.zero_()
    with pytest.raises(ValueError, match=r"0 of the 50 sampled examples are positive for task click.*--rows"):
        measure(line, repeats=1, seed=0)


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        pytest.param([(0.3, 0.01), (0.2, 0.01), (0.1, 0.01)], [1, 2, 3], id="apart"),
        pytest.param([(0.3, 0.01), (0.01, 0.01), (-0.01, 0.01)], [1, 2, 2], id="zeros share"),
        pytest.param([(0.2, 0.01), (0.2, 0.01), (0.0, 0.0)], [1, 1, 3], id="ties"),
        pytest.param([(-0.2, 0.01), (0.0, 0.0), (0.2, 0.01)], [3, 2, 1], id="harm is last"),
    ],
)
def test_ranks_are_honest_about_ties(effects: Sequence[tuple[float, float]], expected: list[int]) -> None:
    features = [Feature(name=str(index), side="user", kind="dense") for index in range(len(effects))]
    given = {str(index): Effect(increase=mean, error=error) for index, (mean, error) in enumerate(effects)}
    ranks = {found.feature.name: found.rank for found in rank(features, given)}
    assert [ranks[str(index)] for index in range(len(effects))] == expected


def test_a_group_is_ranked_in_place_of_its_members() -> None:
    group = Feature(name="both", side="user", kind="embedding", members=("a", "b"))
    features = [*(Feature(name=name, side="user", kind="dense") for name in "abc"), group]
    given = {"a": 0.3, "b": 0.1, "c": 0.2, "both": 0.25}
    found = rank(features, {name: Effect(increase=mean, error=0.001) for name, mean in given.items()})
    assert [(of.feature.name, of.rank) for of in found] == [("a", 1), ("both", 1), ("c", 2), ("b", 3)]


def kjt(lists: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=list(lists),
        values=torch.tensor([i for rows in lists.values() for ids in rows for i in ids]),
        lengths=torch.tensor([len(ids) for rows in lists.values() for ids in rows], dtype=torch.int32),
        stride=len(next(iter(lists.values()))),
    )


def lists_of(of: KeyedJaggedTensor) -> dict[str, list[list[int]]]:
    return {name: [ids.tolist() for ids in of[name].to_dense()] for name in list(of.keys())}


def test_one_sparse_feature_goes_round_across_chunks() -> None:
    chunks = [kjt({"a": [[1], [2, 3]], "b": [[], [9]]}), kjt({"a": [[]], "b": [[7, 8]]})]
    first, second = permute_sparse(chunks, "b", torch.tensor([2, 0, 1]))
    assert lists_of(first) == {"a": [[1], [2, 3]], "b": [[7, 8], []]}
    assert lists_of(second) == {"a": [[]], "b": [[9]]}
    assert lists_of(chunks[0])["b"] == [[], [9]]


def test_one_dense_feature_goes_round_across_chunks() -> None:
    chunks = [torch.tensor([[1.0, 10], [2, 20]]), torch.tensor([[3.0, 30]])]
    first, second = permute_dense(chunks, 1, torch.tensor([2, 0, 1]))
    assert torch.cat([first, second]).tolist() == [[1, 30], [2, 10], [3, 20]]
    assert chunks[0][0, 1] == 10


def test_a_sample_is_drawn_without_replacement(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    partition = commit_day(lake, DAY, num_rows=500, activity=pa.array([float(i) for i in range(500)], pa.float32()))
    few = sample_rows(lake, partition, columns=["activity"], num_rows=100, seed=0)["activity"].to_pylist()
    assert len(set(few)) == 100
    assert few == sorted(few)
    assert max(few) > 400
    everything = sample_rows(lake, partition, columns=["activity"], num_rows=10_000, seed=0)
    assert everything["activity"].to_pylist() == [float(i) for i in range(500)]
    with pytest.raises(ValueError, match="--rows"):
        sample_rows(lake, partition, columns=["activity"], num_rows=0, seed=0)


def mlflow_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)  # a store without a server keeps its artifacts beside it
    return Settings(home=tmp_path / "home", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db", _env_file=None)


@mlflow_is_lazy
def test_the_ranking_of_a_user_model_is_in_its_run_once(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tracking.connect(mlflow_settings(tmp_path, monkeypatch))
    found = explain(planted_recipe(), THIRD, settings=home, rows=500, repeats=2)
    runs = {log_user_model(client, found) for _ in range(2)}
    (run,) = runs
    tags = client.get_run(run).data.tags
    assert (tags["ds"], tags["fingerprint"], tags["kind"]) == ("2026-01-02", pair[1].fingerprint, "version")
    names = {Path(file.path).name for file in client.list_artifacts(run, "explain/ds=2026-01-03")}
    assert names == {CSV, PNG}
    path = client.download_artifacts(run, f"explain/ds=2026-01-03/{CSV}", str(tmp_path))
    with Path(path).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 8
    assert rows[0]["rank"] == "1"
    assert float(rows[0]["ne_increase"]) == found.rankings[0].importances[0].increase
    picture = Path(client.download_artifacts(run, f"explain/ds=2026-01-03/{PNG}", str(tmp_path)))
    assert picture.read_bytes().startswith(b"\x89PNG")


@mlflow_is_lazy
def test_the_command_prints_the_ranking(
    home: Settings, pair: tuple[TrainedDay, TrainedDay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(USER_MODELS, "tiny", planted_recipe)
    monkeypatch.setenv("USERMODEL_HOME", str(home.home))
    monkeypatch.setenv("USERMODEL_MLFLOW_URI", f"sqlite:///{tmp_path}/mlflow.db")
    get_settings.cache_clear()
    command = ["trainer", "explain", "--recipe", "tiny", "--ds", "2026-01-03", "--rows", "1000", "--repeats", "2"]
    printed = CliRunner().invoke(cli, command)
    assert printed.exit_code == 0, printed.output
    assert "tiny as of 2026-01-02, which has not learnt 2026-01-03" in printed.stdout
    assert "not told from zero" in printed.stdout
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert found["run_id"] in printed.stdout
    assert found["rankings"][0]["importances"][0]["feature"]["name"] == "topic"


@pytest.mark.parametrize("models", [[], ["--recipe", "demo", "--downstream", "demo_ctr"]], ids=["none", "both"])
def test_the_command_explains_one_model(models: list[str]) -> None:
    done = CliRunner().invoke(cli, ["trainer", "explain", "--ds", "2026-01-03", *models])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == "name one model: --recipe R or --downstream NAME"


@mlflow_is_lazy
def test_user_embeddings_rank_among_the_features_of_a_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = mlflow_settings(tmp_path, monkeypatch)
    world = World(settings=settings)
    promoted = [world.commit_embeddings(day(0))]
    for index in (1, 2, 3, 4):
        world.commit_examples(day(index))
    for index in (1, 2, 3):
        trained = retrain_on(CTR, (UPSTREAM,), day(index), settings=settings, promoted={"tiny": promoted})
    found = explain_downstream(
        CTR, [UPSTREAM], day(4), settings=settings, promoted={"tiny": promoted}, rows=8000, repeats=2
    )
    assert found.scored_fingerprint == trained.fingerprint
    own = {"hour", "item", "slot", "price"}
    embeddings = {"user_embedding_0", "user_embedding_1", TOGETHER}
    assert {importance.feature.name for importance in found.rankings[0].importances} == own | embeddings
    assert of(found, "click", TOGETHER).rank <= 2
    assert of(found, "click", TOGETHER).verdict == "helps"
    assert of(found, "click", "item").rank <= 3
    for noise in ("hour", "slot", "price"):
        assert of(found, "click", noise).increase < 0.1 * of(found, "click", TOGETHER).increase
    client = tracking.connect(settings)
    (run,) = {log_downstream(client, found) for _ in range(2)}
    assert len(client.list_artifacts(run, "explain/ds=2026-01-05")) == 2
    with pytest.raises(ValueError, match="tiny_ctr is trained on no day before 2026-01-02"):
        explain_downstream(CTR, [UPSTREAM], day(1), settings=settings, promoted={"tiny": promoted}, rows=8, repeats=1)
