"""The other processes of a run: who has died, who hangs, who failed first; told in one line, whatever their number.

A process that waits in a collective learns nothing when another one is gone: it waits for the group's timeout, or all
of them print that a connection was closed, and the one error that matters stands among theirs. So each process has a
thread and a connection to rank 0, beside the process group:

- a process that fails says so before it ends, and the others end without a word;
- a connection that breaks without a farewell is a process that was killed;
- a process without a sign of life for `silent_after` s is stopped, or its machine is gone;
- where no process moves for `stuck_after` s, as the stacks of their main threads tell, those are named that do not wait
  in a collective. A long evaluation moves; so does a rank 0 that writes while the others wait.

Sockets and threads of Python alone: nothing here depends on what may hang.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from common.config import Rate, configclass
from common.errors import EXIT_OTHER_FAILED
from common.links import CONNECTING, Link
from common.stacks import describe_stand_still, place_of_main_thread

GRACE = 2.0  # seconds in which the cause of a broken connection may still be told
QUIET = 3.0  # seconds that the others give the one that failed, so that a launcher sees it end first


@configclass
class ProcessConfig:
    """When a run of several processes counts as broken, in seconds.

    Args:
        silent_after: without a sign of life from a process: it is stopped, or its machine is gone. One that is killed
            is found at once.
        stuck_after: in which none of the processes moves. Nothing that they do in one call may take longer.
        collective_timeout: that a collective waits for the slowest, as while rank 0 alone writes; what torch knows.
    """

    silent_after: Rate = 120.0
    stuck_after: Rate = 900.0
    collective_timeout: Rate = 7200.0


class Peers:
    """This process's connection to the others, and the thread that watches it.

    Args:
        rank, world: of this process.
        exchange: gives every rank's value to every rank; called once, by all.
        speaks: whether it is this process that tells when rank 0 is gone: one on each machine.
        end: ends this process at once, with an exit code; replaced in tests.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        limits: ProcessConfig,
        exchange: Callable[[Any], list[Any]],
        speaks: bool,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.rank, self.world, self.limits, self.speaks = rank, world, limits, speaks
        self.step: int | None = None
        """The step that this process is at, while it trains; None: standing still is no fault."""
        self._end = end
        self._verdict: dict[str, Any] | None = None
        self._told, self._closing = threading.Event(), threading.Event()
        self._links: dict[int, Link] = {}
        self._failures: list[dict[str, Any]] = []
        self._decide_at: float | None = None
        self._moved = time.monotonic()
        problem = self._connect(exchange)
        if problems := [found for found in exchange(problem) if found]:
            self._forget()
            raise ConnectionError(problems[0])
        os.register_at_fork(
            after_in_child=self._forget
        )  # a loading process would keep a dead one's connection
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    def _connect(self, exchange: Callable[[Any], list[Any]]) -> str | None:
        """Connects this process; what went wrong, if anything did."""
        listener, offer = None, (0, "")
        master = os.environ["MASTER_ADDR"]
        try:
            if self.rank == 0:
                family = socket.getaddrinfo(master, None)[0][0]
                listener = socket.create_server(("", 0), family=family, backlog=self.world)
                offer = (listener.getsockname()[1], secrets.token_hex(16))
        finally:
            port, token = exchange(offer)[0]
        try:
            if listener is None:
                link = Link(socket.create_connection((master, port), timeout=CONNECTING))
                link.send(
                    {"token": token, "rank": self.rank, "host": socket.gethostname(), "pid": os.getpid()}
                )
                self._links[0] = link
                return None
            with listener:
                listener.settimeout(CONNECTING)
                while len(self._links) < self.world - 1:
                    link = Link(listener.accept()[0])
                    hello = link.first()
                    if secrets.compare_digest(str(hello.get("token")), token):  # else a stranger
                        link.who = hello
                        self._links[hello["rank"]] = link
        except OSError as error:
            return f"rank {self.rank}: {error}"
        return None

    def failed(self, message: str, consequence: bool) -> bool:
        """This process ends with an error; whether it is the one to tell it: the first, or one with another error.

        Args:
            consequence: the error is one that the end of another process leads to.
        """
        self._tell({"failed": self.rank, "message": message, "consequence": consequence})
        self._told.wait((GRACE if consequence else 0) + QUIET)
        verdict = self._verdict
        if verdict is None or verdict.get("failed") == self.rank:
            return True
        return not consequence and verdict.get("message") != message

    def stopped(self, message: str) -> None:
        """This process was asked to end, and the others end with it; it is no failure."""
        self._tell({"stopped": self.rank, "message": message})

    def _tell(self, event: dict[str, Any]) -> None:
        if self.rank == 0:
            self._note(event)
            return
        with suppress(OSError):
            self._links[0].send(event)

    def close(self) -> None:
        """Farewell: this process has done its work."""
        self._closing.set()
        for link in self._links.values():
            with suppress(OSError):
                link.send({"bye": self.rank})
        self._thread.join(timeout=5)
        self._forget()

    def _forget(self) -> None:
        for link in self._links.values():
            link.close()

    # --- The thread

    def _watch(self) -> None:
        self._heard = {rank: time.monotonic() for rank in self._links}
        self._places: dict[int, list[Any]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, link in self._links.items():
                selector.register(link.socket, selectors.EVENT_READ, rank)
            sent = 0.0
            while not self._closing.is_set():
                pause = min(2.0, self.limits.silent_after / 5)
                began = time.monotonic()
                if began - sent >= pause:
                    sent = began
                    self._beat()
                for key, _ in selector.select(pause / 2):
                    if not self._read(key.data):
                        selector.unregister(key.fileobj)
                if time.monotonic() - began > max(5.0, 2 * pause):
                    # This process was stopped itself: the others have to be heard before they are judged.
                    self._heard = dict.fromkeys(self._heard, time.monotonic())
                elif self._verdict is None:
                    self._judge(time.monotonic())
                if self._verdict is not None:
                    return self._obey()

    def _beat(self) -> None:
        place = [self.step, place_of_main_thread()]
        self._note_place(self.rank, place)
        for link in self._links.values():
            with suppress(OSError):
                link.send({"at": place} if self.rank else {"at": None})

    def _read(self, rank: int) -> bool:
        """Reads what has come from `rank`; false where nothing comes any more."""
        messages, open_ = self._links[rank].receive()
        self._heard[rank] = time.monotonic()
        for message in messages:
            if "verdict" in message:
                self._verdict = message["verdict"]
            elif "failed" in message or "stopped" in message:
                self._note(message)
            elif message.get("at"):
                self._note_place(rank, message["at"])
            elif "bye" in message:
                self._heard.pop(rank, None)
                return False
        if not open_:
            self._heard.pop(rank, None)
            self._note({"gone": rank, "message": f"{self._name(rank)} is gone without a word: killed?"})
        return open_

    def _name(self, rank: int) -> str:
        step = self._places.get(rank, [None])[0]
        who = self._links[rank].who
        where = f" (process {who['pid']} on {who['host']})" if who else ""
        return f"rank {rank}{where}" + ("" if step is None else f", at step {step},")

    def _note(self, failure: dict[str, Any]) -> None:
        """Something went wrong; what led to it may be told a moment later."""
        self._failures.append(failure)
        own = failure.get("consequence") is False or "stopped" in failure
        due = time.monotonic() + (0 if own else GRACE)
        self._decide_at = due if self._decide_at is None else min(due, self._decide_at)

    def _note_place(self, rank: int, place: list[Any]) -> None:
        if self._places.get(rank) != place:
            self._places[rank] = place
            self._moved = time.monotonic()

    def _judge(self, now: float) -> None:
        for rank, heard in list(self._heard.items()):
            if now - heard > self.limits.silent_after:
                self._heard.pop(rank)
                name, limit = self._name(rank), self.limits.silent_after
                said = f"{name}: no sign of life for {limit:.0f} s; stopped, or its machine is gone"
                self._note({"gone": rank, "message": said})
        still = now - self._moved
        if self.rank == 0 and self.step is not None and still > self.limits.stuck_after:
            told = describe_stand_still({rank: place[1] for rank, place in sorted(self._places.items())})
            self._note(
                {"stuck": True, "message": f"step {self.step}: nothing moves for {still:.0f} s: {told}"}
            )
        if self._decide_at is not None and now >= self._decide_at:
            self._decide()

    def _decide(self) -> None:
        """The first error of its own; else who is gone; else who complains of it."""

        def order(failure: dict[str, Any]) -> int:
            own = failure.get("consequence") is False or "stopped" in failure
            return 0 if own else 1 if "failed" not in failure else 2

        verdict = min(self._failures, key=order)
        if self.rank == 0:
            for link in self._links.values():
                with suppress(OSError):
                    link.send({"verdict": verdict})
        if "failed" not in verdict and "stopped" not in verdict and (self.rank == 0 or self.speaks):
            print(f"\nerror: {verdict['message']}", file=sys.stderr, flush=True)  # below a progress bar
        self._verdict = verdict

    def _obey(self) -> None:
        assert self._verdict is not None
        self._told.set()
        if self.rank in (self._verdict.get("failed"), self._verdict.get("stopped")):
            return  # the main thread tells its error, and ends
        time.sleep(QUIET)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        self._end(0 if "stopped" in self._verdict else EXIT_OTHER_FAILED)
