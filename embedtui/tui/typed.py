"""Keys that arrive in one burst act as if they had been typed one by one."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from textual import events
from textual.app import App, ReturnType
from textual.dom import DOMNode
from textual.message_pump import MessagePump

KEY_SECONDS = 0.5
"""Longest wait for what a key does before the next one is looked at: one whose work never ends must not end typing."""


class TypedInOrder(App[ReturnType]):
    """An app in which each key goes where the one before it has led.

    Textual hands a key to the field that has the focus as it is read, and Tab moves the focus only once the field has
    passed it on: of a burst, as a slow line brings it, all would land in the first field.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._typed: deque[events.Event] = deque()
        """Not looked at yet."""
        self._under_way: events.Event | None = None
        """What has not ended yet."""
        self.typed_at = 0.0
        """When the newest key came, by the monotonic clock."""

    async def on_event(self, event: events.Event) -> None:
        """Take keys and pastes one after the other; all else as ever."""
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            self._typed.append(event)
            self.typed_at = time.monotonic()
            await self._take()
        else:
            await super().on_event(event)

    async def _take(self) -> None:
        while self._typed and self._under_way is None:
            event = self._under_way = self._typed.popleft()
            screen, target = self.screen, self.focused or self.screen
            await super().on_event(event)
            asyncio.get_running_loop().call_later(KEY_SECONDS, self._end, event)
            self._follow(event, target, screen)

    def _follow(self, event: events.Event, node: DOMNode | None, screen: DOMNode) -> None:
        """Wait until ``node`` and all that it hands the key on to have done with it."""
        while node is not None:
            if isinstance(node, MessagePump) and node.call_later(self._passed, event, node, screen):
                return
            node = node.parent
        self._end(event)

    def _passed(self, event: events.Event, node: DOMNode, screen: DOMNode) -> None:
        if node.parent is not None:
            self._follow(event, node.parent, screen)
        elif self.screen is not screen:  # what it opened has to be there before it can be typed into
            self.screen.call_after_refresh(self._end, event)
        else:
            self._end(event)

    def _end(self, event: events.Event) -> None:
        if self._under_way is event:
            self._under_way = None
            if self._typed:
                self.call_later(self._take)
