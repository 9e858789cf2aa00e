"""``python -m embedtui`` is ``embedtui``."""

from __future__ import annotations

from embedtui.cli import main

if __name__ == "__main__":  # a process of the work imports this module
    main()
