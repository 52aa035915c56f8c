"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

# Test folders are no packages; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent / "integration"))
