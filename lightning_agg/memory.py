"""Memory that a module carries from round to round."""

from typing import Any

import torch
from torch import Tensor, nn


class Remembers(nn.Module):
    """A module whose memory is in buffers that :meth:`memory` names, registered empty, ``torch.zeros(0)``.

    They are restored from a checkpoint whatever their size. A round replaces them and never writes into them.
    """

    def memory(self) -> dict[str, Tensor]:
        """The buffers that carry state from round to round, by their name in the state dict."""
        return {}

    def reset(self) -> None:
        """Forget: the next call is as the first."""
        self._restore({name: buffer.new_zeros(0) for name, buffer in self.memory().items()})

    def _restore(self, memory: dict[str, Tensor]) -> None:
        for name, buffer in memory.items():
            put_buffer(self, name, buffer)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.memory().items():
            stored = state_dict.get(prefix + name)
            if stored is not None:
                put_buffer(self, name, torch.zeros_like(stored, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def put_buffer(module: nn.Module, name: str, buffer: Tensor) -> None:
    """Replace the buffer that is called so in the state dict of ``module``."""
    part, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(part), leaf, buffer)
