"""Where judges behind an endpoint work: an event loop on a thread of its own for each request store, so that a verifier
can be called from plain code. Verifiers of one store share its room: a store is open once in a process.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.data.store import Store

Result = TypeVar("Result")
LAST_WAIT = 30.0  # seconds that the end of a process waits for calls on their way
_rooms: dict[Path, Room] = {}
_door = threading.RLock()


class Room:
    """A store, the loop its calls run on, and the teachers at work. Made by `enter`, closed by the last `leave`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.teachers: list[Teacher] = []
        self.store = Store(path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"judge {path.name}", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run asynchronous work to its end and return its result. An interrupt of the caller cancels it; calls that are
        on their way still end, and their replies are kept."""
        future: concurrent.futures.Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and close the store."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.store.close()


def enter(path: Path, profile: Profile, budget: float | None, retries: Retries | None) -> tuple[Room, Teacher]:
    """Return the room of a store, opened where nobody is in it yet, and a teacher that can be asked in it."""
    key = path.expanduser().resolve()
    with _door:
        room = _rooms.get(key) or Room(key)
        try:
            teacher = room.run(Teacher(profile, room.store, budget=budget, retries=retries).__aenter__())
        except BaseException:
            if not room.teachers:
                room.close()
            raise
        _rooms[key] = room
        room.teachers.append(teacher)
        return room, teacher


def leave(room: Room, teacher: Teacher) -> None:
    """See the teacher's calls to their end; the last to leave closes the store."""
    with _door:
        room.run(teacher.__aexit__())
        room.teachers.remove(teacher)
        if not room.teachers:
            del _rooms[room.path]
            room.close()


@atexit.register
def _close_all() -> None:
    """Close what nobody closed, so that nothing that was paid for is lost at the end of the process."""
    for room in list(_rooms.values()):
        with contextlib.suppress(Exception):
            for teacher in room.teachers:
                room.run(asyncio.wait_for(teacher.__aexit__(), LAST_WAIT))
            room.close()
