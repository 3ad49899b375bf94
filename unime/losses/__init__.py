"""The two losses of UniME: tensors in, a scalar and its statistics out.

Both see the rows of all ranks at once (see grad_cache.cached_backward), a block of them at a time;
neither knows of models, ranks or configuration files.
"""

from unime.losses.distillation import distillation_loss
from unime.losses.hard_negatives import false_negatives, hard_negative_loss
from unime.losses.instruction import instruction_loss
from unime.losses.matryoshka import truncated
from unime.losses.negatives import Negatives, negatives_of
from unime.losses.output import LossFunction, LossOutput
from unime.losses.statistics import (
    SPREAD_ROWS,
    effective_rank,
    first_unsound,
    mean_similarity,
    not_unit,
    spread,
)
from unime.losses.temperature import LearntTemperature
