"""The programs: each a stage, which chooses; the library does."""

import unime.runtime.launcher  # noqa: F401  (first, as it says)
