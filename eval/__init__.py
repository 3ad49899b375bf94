"""The evaluation and its results."""

import unime.runtime.launcher  # noqa: F401  (first, as it says)
