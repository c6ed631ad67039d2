"""What every test relies on: nothing phones home, and random draws start from the same seed."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed Python's, NumPy's and, where a test module loaded it, torch's global generators."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
