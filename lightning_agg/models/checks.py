"""Which layers a pool of workers cannot train."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_agg.errors import require


def check_model(model: nn.Module, setting: str = "model.model") -> None:
    """Raise :class:`~lightning_agg.errors.SettingError` if a layer has running statistics, draws random numbers or has sparse gradients, or parameters are of several types."""
    dtypes = {str(p.dtype) for p in model.parameters() if p.requires_grad}
    require(
        len(dtypes) < 2,
        f"{setting} must have parameters of one type, as they are rows of one matrix, got {' and '.join(sorted(dtypes))}.",
    )
    for name, layer in model.named_modules():
        place = f"layer {name!r} is {type(layer).__name__}" if name else f"it is {type(layer).__name__}"
        require(
            not isinstance(layer, _BatchNorm) and getattr(layer, "running_mean", None) is None,
            f"{setting} must not use batch normalisation ({place}): the workers' running statistics are never"
            " aggregated, so the server would evaluate another model than the one it trains. Use"
            " torch.nn.GroupNorm.",
        )
        require(
            _dropout(layer) == 0.0,
            f"{setting} must not use dropout ({place}, p = {_dropout(layer)}): it draws from the global random"
            " generator, so a run could be neither resumed nor spread over processes exactly. Set p to 0.",
        )
        require(
            not (isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.sparse),
            f"{setting} must not have sparse gradients ({place}): a worker sends one row of numbers, zeros included. Set"
            " sparse to false.",
        )


def _dropout(layer: nn.Module) -> float:
    if isinstance(layer, _DropoutNd):
        return layer.p
    return float(layer.dropout) if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) else 0.0
