"""The command line: every act of the dashboard as a command, for scripts, cron, CI and screen readers."""

from embedtui.cli.main import main

__all__ = ["main"]
