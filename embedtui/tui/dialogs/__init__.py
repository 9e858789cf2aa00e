"""Dialogs, one for each thing that is asked."""

from __future__ import annotations

from embedtui.tui.dialogs.base import Dialog
from embedtui.tui.dialogs.cutover import CutoverAnswer, CutoverDialog
from embedtui.tui.dialogs.ending import Either, NamedAnswer, NameDialog
from embedtui.tui.dialogs.limits import LimitsDialog
from embedtui.tui.dialogs.prepare import PrepareDialog
from embedtui.tui.dialogs.prompts import ForgetDialog, PromptDialog, QueriesAnswer, QueriesDialog, StopDialog
from embedtui.tui.dialogs.verify import ReportDialog, VerifyAnswer, VerifyDialog
from embedtui.tui.dialogs.waiting import WaitingDialog

__all__ = [
    "CutoverAnswer",
    "CutoverDialog",
    "Dialog",
    "Either",
    "ForgetDialog",
    "LimitsDialog",
    "NameDialog",
    "NamedAnswer",
    "PrepareDialog",
    "PromptDialog",
    "QueriesAnswer",
    "QueriesDialog",
    "ReportDialog",
    "StopDialog",
    "VerifyAnswer",
    "VerifyDialog",
    "WaitingDialog",
]
