"""Pretrained transformers on hierarchical attention: replaced, measured, chosen, distilled."""

from .calibrate import Calibration, calibrate
from .distil import distil
from .fidelity_report import fidelity_report
from .replace_attention import replace_attention, restore_attention

__all__ = [
    "Calibration",
    "calibrate",
    "distil",
    "fidelity_report",
    "replace_attention",
    "restore_attention",
]
