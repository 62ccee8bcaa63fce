"""Models and rules that a user might bring."""

from torch import Tensor, float64, nn, zeros

from lightning_agg.aggregators import Aggregator


class Normed(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Wide(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Linear(nn.Module):
    """One linear layer, with one parameter that training must leave alone."""

    def __init__(self, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(
            nn.init.constant_(nn.Parameter(Tensor(1)), scale).detach(), requires_grad=False
        )
        self.linear = nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.scale * images.flatten(1))


class Forgetful(nn.Module):
    """Drops out without a layer that tells so."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(nn.functional.dropout(images.flatten(1), 0.5, self.training))


class Spare(nn.Module):
    """Has parameters that the output does not depend on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)
        self.spare = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


class NeedsWhatIsMissing:
    """A rule whose package is not there, which shows only when it is made."""

    def __init__(self) -> None:
        import not_installed  # noqa: F401

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.mean(dim=0)


class Unfinished(Aggregator):
    """A rule that lacks what makes it one."""


class NoClasses(nn.Linear):
    """Does not ask how many classes there are."""

    def __init__(self) -> None:
        super().__init__(64, 10)


class Words(nn.Module):
    """The mean of what stands for each word."""

    def __init__(self, num_classes: int, num_words: int = 60) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, 8)
        self.out = nn.Linear(8, num_classes)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.words(words).mean(1))


class Precise(nn.Sequential):
    """A linear model in float64."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes, dtype=float64))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double())


class Growing(nn.Sequential):
    """Not the same twice."""

    made = 0

    def __init__(self, num_classes: int) -> None:
        type(self).made += 1
        super().__init__(nn.Flatten(), nn.Linear(64, 4 + self.made), nn.Linear(4 + self.made, num_classes))


class Late(nn.Sequential):
    """Takes the number of classes by name, after something else."""

    def __init__(self, hidden_size: int = 7, num_classes: int = 3) -> None:
        super().__init__(
            nn.Flatten(), nn.LazyLinear(hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_classes)
        )


class Counting(nn.Module):
    """Counts its inputs in a buffer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)
        self.register_buffer("seen", zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.linear(images.flatten(1))


class Frozen(nn.Sequential):
    """Has nothing to train."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes).requires_grad_(False))


class Detached(nn.Sequential):
    """Cuts its output off from its parameters."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()
