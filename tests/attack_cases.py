"""One table of attacks for all shared properties, and the matrices they are tried on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_agg.aggregators import CenteredClipping, TrimmedMean
from lightning_agg.attacks import (
    ALittleIsEnough,
    Attack,
    BitFlip,
    Disguise,
    Drop,
    Fang,
    Gaussian,
    Infinity,
    InnerProduct,
    LabelFlip,
    LineSearch,
    Mimic,
    MinMax,
    MinSum,
    NotANumber,
    Reverse,
    SignFlip,
)


@dataclass(frozen=True)
class AttackCase:
    """An attack and what is true of it."""

    name: str
    make: Callable[[], Attack]
    random: bool = False
    finite: bool = True
    collusive: bool = True  # all attackers send one row


CASES = [
    AttackCase("alie", lambda: ALittleIsEnough(z=1.5)),
    AttackCase("alie-above-ddof1", lambda: ALittleIsEnough(z=1.5, direction="above", ddof=1)),
    AttackCase("alie-own", lambda: ALittleIsEnough(z=1.5, statistics="own", ddof=1)),
    AttackCase("bit-flip-sign", BitFlip),
    AttackCase("bit-flip-bits", lambda: BitFlip(kind="bits"), collusive=False),
    AttackCase("bit-flip-some-bits", lambda: BitFlip(kind="bits", coordinates=2), collusive=False),
    AttackCase("disguise", lambda: Disguise(ALittleIsEnough(z=1.5)), random=True, collusive=False),
    AttackCase("disguise-mimic", lambda: Disguise(Mimic(warmup=2), 0.01), random=True, collusive=False),
    AttackCase("drop", Drop),
    AttackCase("fang", Fang, random=True, collusive=False),
    AttackCase("fang-partial", lambda: Fang(knowledge="partial"), random=True, collusive=False),
    AttackCase("gaussian", Gaussian, random=True, collusive=False),
    AttackCase("gaussian-shared", lambda: Gaussian(shared=True), random=True),
    AttackCase("infinity", Infinity, finite=False),
    AttackCase("inner-product", InnerProduct),
    AttackCase("label-flip", LabelFlip, collusive=False),
    AttackCase("label-flip-shifted", lambda: LabelFlip(shift=3), collusive=False),
    AttackCase("label-flip-targeted", lambda: LabelFlip(source=2, target=7), collusive=False),
    AttackCase("line-search-alie", lambda: LineSearch(ALittleIsEnough(), TrimmedMean(0))),
    AttackCase("line-search-clipping", lambda: LineSearch(InnerProduct(), CenteredClipping(1.0))),
    AttackCase("line-search-min-max", lambda: LineSearch(MinMax("unit"), TrimmedMean(0))),
    AttackCase("mimic", Mimic),
    AttackCase("mimic-warmup", lambda: Mimic(warmup=2)),
    AttackCase("mimic-worker", lambda: Mimic(worker=1)),
    AttackCase("min-max", MinMax),
    AttackCase("min-max-unit", lambda: MinMax("unit")),
    AttackCase("min-max-sign", lambda: MinMax("sign")),
    AttackCase("min-sum", MinSum),
    AttackCase("min-sum-unit-min", lambda: MinSum("unit", bound="min")),
    AttackCase("not-a-number", NotANumber, finite=False),
    AttackCase("reverse", Reverse),
    AttackCase("sign-flip-own", SignFlip, collusive=False),
    AttackCase("sign-flip-mean", lambda: SignFlip(of="mean")),
]


def rows(number: int, width: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """``(number, width)`` normal numbers, all different."""
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
