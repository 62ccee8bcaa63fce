"""Attacks: what the Byzantine workers of a round send.

An :class:`Attack` sees all honest gradients, ``(H, d)``, and what the attackers would have sent, ``(f, d)``,
and answers with ``(f, d)`` rows. What else it may know (the round, who is who, the server's rule) is in an
:class:`AttackContext`.

==========================  ======================================================================================
against the direction       :class:`SignFlip`, :class:`BitFlip`, :class:`Reverse`, :class:`InnerProduct`
hidden among honest rows    :class:`ALittleIsEnough`, :class:`MinMax`, :class:`MinSum`, :class:`Fang`, :class:`Mimic`
that know the rule          :class:`LineSearch` over an attack with a factor, a :class:`LineAttack`
that seem independent       :class:`Disguise` of another attack; :class:`Wrapper` is for others of that kind
through the data            :class:`LabelFlip`
blind                       :class:`Gaussian`, :class:`Drop`, :class:`Infinity`, :class:`NotANumber`
==========================  ======================================================================================

Example:
    >>> import torch
    >>> honest, own = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.zeros(2, 2)
    >>> Reverse(scale=3.0)(honest, own)
    tensor([[-6., -3.],
            [-6., -3.]])
"""

from lightning_agg.attacks.a_little_is_enough import ALittleIsEnough
from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.bit_flip import BitFlip
from lightning_agg.attacks.context import AttackContext
from lightning_agg.attacks.disguise import Disguise
from lightning_agg.attacks.drop import Drop
from lightning_agg.attacks.fang import Fang
from lightning_agg.attacks.gaussian import Gaussian
from lightning_agg.attacks.infinity import Infinity
from lightning_agg.attacks.inner_product import InnerProduct
from lightning_agg.attacks.label_flip import LabelFlip
from lightning_agg.attacks.line_attack import LineAttack
from lightning_agg.attacks.line_search import LineSearch
from lightning_agg.attacks.mimic import Mimic
from lightning_agg.attacks.min_max import MinMax
from lightning_agg.attacks.min_sum import MinSum
from lightning_agg.attacks.not_a_number import NotANumber
from lightning_agg.attacks.reverse import Reverse
from lightning_agg.attacks.sign_flip import SignFlip
from lightning_agg.attacks.wrapper import Wrapper

__all__ = [
    "ALittleIsEnough",
    "Attack",
    "AttackContext",
    "BitFlip",
    "Disguise",
    "Drop",
    "Fang",
    "Gaussian",
    "Infinity",
    "InnerProduct",
    "LabelFlip",
    "LineAttack",
    "LineSearch",
    "Mimic",
    "MinMax",
    "MinSum",
    "NotANumber",
    "Reverse",
    "SignFlip",
    "Wrapper",
]
