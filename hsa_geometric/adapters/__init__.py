"""Pretrained transformers on hierarchical attention: replaced, measured, chosen, distilled."""

from .calibrate import Calibration, Trial, calibrate
from .distil import Distillation, distil
from .fidelity_report import FidelityReport, Row, fidelity_report
from .replace_attention import replace_attention, restore_attention
from .text_tree import text_tree

__all__ = [
    "Calibration",
    "Distillation",
    "FidelityReport",
    "Row",
    "Trial",
    "calibrate",
    "distil",
    "fidelity_report",
    "replace_attention",
    "restore_attention",
    "text_tree",
]
