"""What every index of every dense tensor stands for, by name: a feature, a task, an embedding, a hidden unit.

A tensor is carried over index by index, where the names agree. An axis is a row of blocks, each a name and a
width; two blocks are the same when both are. Mirrors `trainer.model`: a test compares all sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from features.schema import Schema, Side
from trainer import towers
from trainer.config import Dlrm, Sum, TrainingConfig


class Block(NamedTuple):
    """`width` neighbouring indices of an axis."""

    name: str
    width: int


Axis = tuple[Block, ...]
Tensors = dict[str, tuple[Axis, ...]]
"""By the tensor's name: its axes."""
Names = tuple[str, ...]
"""Of embeddings, in order."""


def size(axis: Axis) -> int:
    """Number of indices."""
    return sum(block.width for block in axis)


def dense_axes(config: TrainingConfig) -> Tensors:
    """Every tensor of the model but the embedding tables."""
    match config.model:
        case Sum():
            return _sum(config, config.model)
        case Dlrm():
            return _dlrm(config, config.model)


def _sum(config: TrainingConfig, model: Sum) -> Tensors:
    tower, schema = model.user_tower, config.schema
    users = tuple(f"user embedding {k}" for k in range(tower.num_embeddings))
    return {
        **_prefixed("user_tower", _user_tower(schema, tower, users)),
        **_prefixed("mix_tower", _mix_tower(config, model.mix_tower, users, dim=tower.dim)),
    }


def _user_tower(schema: Schema, tower: towers.UserTower, users: Names) -> Tensors:
    dim = tower.dim
    tensors, sparse, dense = _inputs(schema, "user", dim=dim, num_dense=tower.num_dense)
    x = sparse + dense  # X_0
    for i, module in enumerate(tower.modules):
        where = f"levels.{i}"
        made, outputs = _interaction(where, module.extractors, x, dense, dim=dim)
        tensors |= _prefixed(f"{where}.interaction", made)
        after = outputs + dense
        if module.residual is not None:
            residual = _outputs(f"{where} residual", module.residual)
            made = _mlp("residual", _wide(x, dim), module.residual.hidden, _wide(residual, dim))
            tensors |= _prefixed(f"{where}.residual.layers", made)
            after += residual
        x = after
    return tensors | _linear("output", _wide(users, dim), _wide(x, dim))


def _mix_tower(config: TrainingConfig, tower: towers.MixTower, users: Names, *, dim: int) -> Tensors:
    tensors, sparse, dense = _inputs(config.schema, "item", dim=dim, num_dense=1)
    x = users + sparse + dense
    for i, extractors in enumerate(tower.layers):
        where = f"layers.{i}"
        made, outputs = _interaction(where, extractors, x, dense, dim=dim)
        tensors |= _prefixed(f"{where}.interaction", made)
        tensors[f"{where}.shortcut.weight"] = (_wide(outputs, 1), _wide(x, 1))
        tensors |= _norm(f"{where}.norm", dim)
        x = outputs
    last: Axis = _wide(x, dim)
    if tower.hidden:
        *hidden, width = tower.hidden
        outputs_axis: Axis = (Block("mix tower's last hidden", width),)
        tensors |= _prefixed("hidden.0", _mlp("mix tower", last, hidden, outputs_axis))
        last = outputs_axis
    return tensors | _linear("output", _wide(config.task_names, 1), last)


def _dlrm(config: TrainingConfig, dlrm: Dlrm) -> Tensors:
    schema, dim = config.schema, (Block("bottom", dlrm.dim),)
    dense = _dense_columns(schema, "user") + _dense_columns(schema, "item")
    vectors = ("bottom", *_sparse_names(schema, "user"), *_sparse_names(schema, "item"))
    last: Axis = dim + _wide(_pairs(vectors), 1)
    tensors = _prefixed("bottom.0", _mlp("bottom", dense, dlrm.bottom, dim))
    if dlrm.over:
        *hidden, width = dlrm.over
        outputs: Axis = (Block("over's last hidden", width),)
        tensors |= _prefixed("over.0", _mlp("over", last, hidden, outputs))
        last = outputs
    return tensors | _linear("output", _wide(config.task_names, 1), last)


def _inputs(schema: Schema, side: Side, *, dim: int, num_dense: int) -> tuple[Tensors, Names, Names]:
    """The initial embedding layers of a side: their tensors, the embeddings of its sparse and dense features."""
    tensors: Tensors = {}
    sparse = _sparse_names(schema, side)
    if sparse:
        tensors |= _norm("sparse.norm", dim)
    columns = _dense_columns(schema, side)
    dense = tuple(f"dense embedding {k}" for k in range(num_dense)) if columns else ()
    if dense:
        tensors |= _linear("dense.project", _wide(dense, dim), columns)
        tensors |= _norm("dense.norm", dim)
    return tensors, sparse, dense


def _sparse_names(schema: Schema, side: Side) -> Names:
    return tuple(f"feature {feature.name}" for feature in schema.sparse_of(side))


def _dense_columns(schema: Schema, side: Side) -> Axis:
    return tuple(Block(f"feature {f.name}, {f.transform}", 1) for f in schema.dense_of(side))


def _interaction(
    where: str, extractors: Sequence[towers.Extractor], x: Names, dense: Names, *, dim: int
) -> tuple[Tensors, Names]:
    """Extractors side by side: their tensors, and the embeddings that they give."""
    tensors = _norm("norm", dim)
    outputs: Names = ()
    for i, config in enumerate(extractors):
        own = _outputs(f"{where} extractor {i}", config)
        tensors |= _prefixed(f"extractors.{i}", _extractor(config, x, dense, own, dim=dim))
        outputs += own
    return tensors, outputs


def _outputs(where: str, config: towers.Extractor | towers.Residual) -> Names:
    """With their number: with another one, all of them are others."""
    kind = getattr(config, "kind", "residual")
    return tuple(f"{where} {kind} {m} of {config.num_outputs}" for m in range(config.num_outputs))


def _extractor(config: towers.Extractor, x: Names, dense: Names, outputs: Names, *, dim: int) -> Tensors:
    match config:
        case towers.Mlp():
            return _prefixed("layers", _mlp("mlp", _wide(x, dim), config.hidden, _wide(outputs, dim)))
        case towers.DotCompression():
            attention: Axis = (Block("attention", dim * config.num_outputs),)
            return {
                **_prefixed("attention", _branch(config, x, dense, attention, dim=dim)),
                **_prefixed("residual", _branch(config, x, dense, _wide(x, config.num_outputs), dim=dim)),
            }
        case towers.DeepCross():
            compressed: Axis = (Block("compressed", config.num_compressed),)
            crossed: Axis = (Block("crossed", config.num_compressed * dim),)
            layers = [_linear(f"layers.{i}", crossed, crossed) for i in range(config.num_layers)]
            return {
                "compress.weight": (compressed, _wide(x, 1)),
                **{name: axes for layer in layers for name, axes in layer.items()},
                "output.weight": (_wide(outputs, 1), compressed),
            }
        case towers.MlpMixer():
            tokens: Axis = (Block("tokens", config.token_hidden),)
            channels: Axis = (Block("channels", config.channel_hidden),)
            embedding: Axis = (Block("dim", dim),)
            return {
                **_norm("token_norm", dim),
                "w1.weight": (tokens, _wide(x, 1)),
                "w2.weight": (_wide(x, 1), tokens),
                **_norm("channel_norm", dim),
                "w3.weight": (channels, embedding),
                "w4.weight": (embedding, channels),
                "output.weight": (_wide(outputs, 1), _wide(x, 1)),
            }
        case towers.PairwiseDots():
            return _linear("project", _wide(outputs, dim), _wide(_pairs(x), 1))


def _branch(config: towers.DotCompression, x: Names, dense: Names, outputs: Axis, *, dim: int) -> Tensors:
    width = config.num_compressed * dim
    columns: Axis = (Block("LC(X)", width),)
    tensors: Tensors = {"sparse.weight": ((Block("compressed", config.num_compressed),), _wide(x, 1))}
    if dense:
        compressed: Axis = (Block("LC(X_dense)", width),)
        tensors |= _linear("dense", compressed, _wide(dense, dim))
        columns = compressed + columns
    return tensors | _prefixed("layers", _mlp("branch", columns, config.hidden, outputs))


def _pairs(names: Names) -> Names:
    """As `torch.tril_indices`; a dot product does not know its order."""
    return tuple(" x ".join(sorted((names[i], names[j]))) for i in range(len(names)) for j in range(i))


def _mlp(where: str, inputs: Axis, hidden: Iterable[int], outputs: Axis) -> Tensors:
    """The linear layers of `trainer.model.mlp.mlp`: every second of its modules."""
    widths: list[Axis] = [(Block(f"{where} hidden {i}", width),) for i, width in enumerate(hidden)]
    tensors: Tensors = {}
    for i, (before, after) in enumerate(zip([inputs, *widths], [*widths, outputs], strict=True)):
        tensors |= _linear(str(2 * i), after, before)
    return tensors


def _linear(name: str, outputs: Axis, inputs: Axis) -> Tensors:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, dim: int) -> Tensors:
    axis: Axis = (Block("dim", dim),)
    return {f"{name}.weight": (axis,), f"{name}.bias": (axis,)}


def _wide(names: Names, width: int) -> Axis:
    return tuple(Block(name, width) for name in names)


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": axes for name, axes in tensors.items()}
