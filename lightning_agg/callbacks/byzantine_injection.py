"""Makes some workers Byzantine."""

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_agg import seeding
from lightning_agg.attacks.base import Attack
from lightning_agg.attacks.context import AttackContext
from lightning_agg.callbacks.base import VALIDATION_EPISODES, PoolCallback
from lightning_agg.data.pool import RoundBatch, num_participants
from lightning_agg.errors import SettingError, require, require_count, require_tensor

if TYPE_CHECKING:
    from lightning_agg.modules.base import PoolModule


class ByzantineInjection(PoolCallback):
    """Replaces what some workers send by an attack.

    How many attackers there really are is set here; how many the aggregator is told is its own setting.

    Args:
        attack: What they send; or a list from which an attack is drawn per episode; no attack when null.
        num_byzantine: Number of attackers f, fewer than the workers; or a list from which a number is drawn per
            episode (a run of ``ParameterServer`` is one episode); in proportion where an episode of ``MetaLearner`` has fewer workers.
        fixed: Whether the attackers are the workers 0 to f - 1; otherwise they are drawn from the seed.
        first_round: First round of the attack, from 0; before it all workers are honest. ``MetaLearner``: of the episode, or a list
            from which it is drawn per episode.
        last_round: Last round of the attack; the last of the run when null.
        val_attack: ``MetaLearner``: attacks of the validation and test episodes, in turn; drawn from ``attack`` when null.
        val_num_byzantine: Their numbers of attackers, in turn; drawn from ``num_byzantine`` when null.
        seed: Seed of the draw and of random attacks; the run's seed when null.
    """

    def __init__(
        self,
        attack: Attack | list[Attack] | None = None,
        num_byzantine: int | list[int] = 0,
        fixed: bool = False,
        first_round: int | list[int] = 0,
        last_round: int | None = None,
        val_attack: Attack | list[Attack] | None = None,
        val_num_byzantine: int | list[int] | None = None,
        seed: int | None = None,
    ) -> None:
        counts = _listed(num_byzantine)
        require(
            len(counts) > 0, "byzantine.num_byzantine must be a number or a list of at least one, got []."
        )
        self.val_attacks, self.val_counts = _listed(val_attack), _listed(val_num_byzantine)
        self.attacks = _listed(attack)
        for name, attacks in (("attack", self.attacks), ("val_attack", self.val_attacks)):
            for value in attacks:
                require(
                    isinstance(value, Attack),
                    f"byzantine.{name} must be an attack, got {type(value).__name__}.",
                )
        for name, values in (("num_byzantine", counts), ("val_num_byzantine", self.val_counts)):
            for value in values:
                require_count(f"byzantine.{name}", value)
        require(
            bool(attack or val_attack) or max(self.val_counts, default=0) == 0,
            "byzantine.val_attack must be set where byzantine.val_num_byzantine is not 0"
            f" (val_num_byzantine = {val_num_byzantine}).",
        )
        require(
            not val_attack or max([*counts, *self.val_counts]) > 0,
            "byzantine.val_attack needs a byzantine.val_num_byzantine above 0, or num_byzantine where that is null (val_num_byzantine ="
            f" {val_num_byzantine}, num_byzantine = {num_byzantine}).",
        )
        require(
            bool(attack) or max(counts) == 0,
            f"byzantine.attack must be set where byzantine.num_byzantine is not 0 (num_byzantine = {num_byzantine}).",
        )
        self.first_rounds = _listed(first_round)
        for first in self.first_rounds:
            require_count("byzantine.first_round", first)
        if last_round is not None:
            require_count("byzantine.last_round", last_round)
        require(
            len(self.first_rounds) > 0
            and all(last_round is None or first <= last_round for first in self.first_rounds),
            "byzantine must satisfy 0 <= first_round <= last_round"
            f" (first_round = {first_round}, last_round = {last_round}).",
        )
        self.attack = self.attacks[0] if self.attacks else None
        self.counts = counts
        self.fixed = fixed
        self.first_round = self.first_rounds[0]
        self.last_round = last_round
        self.seed = seeding.run_seed(seed)

    def setup(self, trainer: L.Trainer, pl_module: "PoolModule", stage: str) -> None:  # type: ignore[override]
        """Check the numbers, draw the attackers, and let their attacks forget an earlier training."""
        require_one_injection(trainer.callbacks)  # type: ignore[attr-defined]
        pool_size = pl_module.pool_size
        require(
            pl_module.validates_episodes or not (self.val_attacks or self.val_counts),
            f"byzantine.val_attack and byzantine.val_num_byzantine must be null in {type(pl_module).__name__}: its"
            " validation has no attackers.",
        )
        for name, counts in (("num_byzantine", self.counts), ("val_num_byzantine", self.val_counts)):
            for count in counts:
                require(
                    count < pool_size,
                    f"byzantine.{name} must be below data.pool_size ({name} = {count}, pool_size = {pool_size}).",
                )
        for setting, attack, count in self._pairs(pl_module.validates_episodes):
            _check_attack(setting, attack, count, pl_module)
        require(
            pl_module.validates_episodes or len(self.first_rounds) == 1,
            f"byzantine.first_round must be one round in {type(pl_module).__name__}, got {self.first_rounds}.",
        )
        self.on_episode(trainer, pl_module, episode=0)
        if stage == "fit" and trainer.global_step == 0:  # what a checkpoint remembers is loaded after this
            for attack in [*self.attacks, *self.val_attacks]:
                attack.load_state_dict({})

    def _pairs(self, validates_episodes: bool) -> Iterator[tuple[str, Attack, int]]:
        """Every attack with every number of attackers, above 0, that it may meet, and the setting that it comes from."""
        pairs = [("attack", *pair) for pair in product(self.attacks, self.counts)]
        if validates_episodes:
            setting = "val_attack" if self.val_attacks else "attack"
            attacks, counts = self.val_attacks or self.attacks, self.val_counts or self.counts
            if self.val_attacks and self.val_counts:
                turns = math.lcm(len(attacks), len(counts))
                met = [(attacks[turn % len(attacks)], counts[turn % len(counts)]) for turn in range(turns)]
            else:
                met = list(product(attacks, counts))
            pairs += [(setting, *pair) for pair in met]
        return ((f"byzantine.{setting}", attack, count) for setting, attack, count in pairs if count)

    def on_fit_start(self, trainer: L.Trainer, pl_module: "PoolModule") -> None:  # type: ignore[override]
        """Tell who attacks, and how: both may have been drawn; and where nobody does, with an attack given."""
        if self.attacks and not any([*self.counts, *self.val_counts]):
            rank_zero_info(
                f"Byzantine: {type(self.attack).__name__} by nobody, as byzantine.num_byzantine is 0"
            )
        if pl_module.rounds_in_order and self.byzantine:
            workers = ", ".join(map(str, sorted(self.byzantine)))
            drawn = f", drawn from {len(self.attacks)} attacks" if len(self.attacks) > 1 else ""
            rank_zero_info(
                f"Byzantine: {type(self.attack).__name__}{drawn} by {len(self.byzantine)} of {pl_module.pool_size} workers ({workers})"
            )
            rounds = trainer.max_steps
            if 0 < rounds <= self.first_round:
                rank_zero_warn(
                    f"byzantine.first_round should be below trainer.max_steps, or nobody attacks (first_round = {self.first_round},"
                    f" max_steps = {rounds})."
                )

    def on_episode(self, trainer: L.Trainer, pl_module: "PoolModule", episode: int) -> None:
        """Draw attackers and attack of an episode, and when it begins: a function of (seed, episode) alone."""
        self.byzantine = self.draw(pl_module.pool_size, episode, pl_module.episode_size(episode))
        if held_out := _in_turn(self.val_attacks, episode):
            (self.attack,) = held_out
        elif self.attacks:
            rng = seeding.generator(self.seed, "attack", step=episode)
            self.attack = self.attacks[int(rng.integers(len(self.attacks)))]
        rng = seeding.generator(self.seed, "first round", step=episode)
        self.first_round = self.first_rounds[int(rng.integers(len(self.first_rounds)))]

    def draw(self, pool_size: int, episode: int, size: int | None = None) -> frozenset[int]:
        """The attackers of an episode of the first ``size`` workers, or of all: a function of (seed, episode) alone."""
        rng = seeding.generator(self.seed, "byzantine", step=episode)
        drawn = int(rng.choice(self.counts))
        (count,) = _in_turn(self.val_counts, episode) or [drawn]
        size = size or pool_size
        count = in_proportion(count, size, pool_size)
        if self.fixed:
            return frozenset(range(count))
        return frozenset(rng.choice(size, count, replace=False).tolist())

    @property
    def who(self) -> str:
        """The attack of the episode."""
        return super().who if self.attack is None else type(self.attack).__name__

    def active(self, index: int) -> bool:
        """Whether the attack is on in round ``index`` of the run, or of the episode."""
        return self.first_round <= index and (self.last_round is None or index <= self.last_round)

    def on_worker_batch(self, trainer: L.Trainer, pl_module: "PoolModule", batch: RoundBatch) -> RoundBatch:
        """Let the attack poison the labels of Byzantine workers."""
        rows = [row for row, worker in enumerate(batch.local) if worker in self.byzantine]
        if self.attack is None or not rows or not self.active(pl_module.round_of_episode(batch.round)):
            return batch
        targets = batch.targets.clone()
        targets[rows] = poisoned(self.attack, targets[rows], pl_module.num_classes)
        return batch._replace(targets=targets)

    def on_byzantine_gradients(
        self, trainer: L.Trainer, pl_module: "PoolModule", gradients: Tensor, batch: RoundBatch
    ) -> Tensor:
        """Replace the rows of Byzantine workers."""
        rows = [row for row, worker in enumerate(batch.workers) if worker in self.byzantine]
        if self.attack is None or not rows or not self.active(pl_module.round_of_episode(batch.round)):
            return gradients
        byzantine = torch.zeros(len(gradients), dtype=torch.bool, device=gradients.device)
        byzantine[rows] = True
        context = AttackContext(
            round=batch.round,
            seed=self.seed,
            byzantine=tuple(batch.workers[row] for row in rows),
            honest=tuple(worker for worker in batch.workers if worker not in self.byzantine),
        )
        sent = gradients.clone()
        context = pl_module.tell_attackers(context)
        sent[byzantine] = self.attack(gradients[~byzantine], gradients[byzantine], context)
        return sent

    def state_dict(self) -> dict[str, Any]:
        """What the attack remembers."""
        memory = {} if self.attack is None else self.attack.state_dict()
        return {"attack": type(self.attack).__name__, "memory": memory} if memory else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the attack go on; one of another class than in the checkpoint begins anew."""
        if self.attack is not None and type(self.attack).__name__ == state_dict["attack"]:
            self.attack.load_state_dict(state_dict["memory"])


def in_proportion(count: int, size: int, pool_size: int) -> int:
    """As many of ``size`` workers as ``count`` are of ``pool_size``, but not all.

    Example:
        >>> [in_proportion(count, 5, 10) for count in (0, 1, 3, 7, 9)]
        [0, 1, 2, 4, 4]
    """
    return min(-(-count * size // pool_size), size - 1)


def _in_turn(values: list[Any], episode: int) -> list[Any]:
    """The one of the values set aside for validation and test whose turn it is; none in training, or where none are set aside."""
    if not values or episode < VALIDATION_EPISODES:
        return []
    return [values[episode % VALIDATION_EPISODES % len(values)]]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def require_one_injection(callbacks: Iterable[Any]) -> None:
    """Check that no second injection attacks on top of the first."""
    found = sum(isinstance(callback, ByzantineInjection) for callback in callbacks)
    require(
        found == 1,
        f"there must be one ByzantineInjection, got {found}: set its options under byzantine, not in"
        " trainer.callbacks.",
    )


def poisoned(attack: Attack, targets: Tensor, num_classes: int) -> Tensor:
    """``targets`` as the attack changes them.

    Raises:
        SettingError: If they are not such ones any more.
    """
    found = attack.poison(targets, num_classes)
    name = f"{type(attack).__name__}.poison"
    require_tensor(name, found, targets.shape, targets.dtype)
    wrong = (found != targets) & ((found < 0) | (found >= num_classes))
    if not targets.is_floating_point() and bool(wrong.any()):
        raise SettingError(
            f"{name} must return labels of at least 0 and below the number of classes {num_classes}, got {found[wrong].tolist()[:10]}."
        )
    return found


def _check_attack(setting: str, attack: Attack, count: int, pl_module: "PoolModule") -> None:
    """Require that ``attack`` is defined in this module, for every number of attackers that may come of ``count``."""
    module, name = type(pl_module).__name__, type(attack).__name__
    require(
        pl_module.rounds_in_order or not attack.remembers,
        f"{setting} must not remember earlier rounds in {module}, got {name} with such settings.",
    )
    require(
        pl_module.tells_rule or not attack.needs_rule,
        f"{setting} must be given the aggregator it knows in {module}, which tells attackers of none, got {name} without.",
    )
    for size in pl_module.episode_sizes:
        attack.check(size, in_proportion(count, size, pl_module.pool_size))
    _check_draws(setting, attack, count, pl_module)
    # A rule of the attack on the number of classes is told now, not in the middle of a run.
    poisoned(attack, torch.zeros(0, dtype=torch.long), pl_module.num_classes)


def _check_draws(setting: str, attack: Attack, count: int, pl_module: "PoolModule") -> None:
    """Require that ``attack`` is defined for every number of attackers that a round's draw of workers may hold."""
    pool_size = pl_module.pool_size
    size = num_participants(pool_size, pl_module.participation)
    if size == pool_size:
        return
    for drawn in range(max(1, count - (pool_size - size)), min(count, size) + 1):
        try:
            attack.check_round(size, drawn)
        except SettingError as error:
            raise SettingError(
                f"model.participation draws {size} of {pool_size} workers, up to {min(count, size)} of them attackers, for"
                f" which {setting} is not defined: {error}"
            ) from error
