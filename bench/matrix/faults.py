"""Carries a plan out, and notes what was done when. What must hold at once, while it is being done, is looked at here."""

import http.client
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.matrix.clocks import Clock
from bench.matrix.evidence import Copy, Kill, Restore, Span
from bench.matrix.load import Load
from bench.matrix.plan import Kind, Step
from bench.matrix.server import Server
from tocsin import upkeep
from tocsin.cli.selftest.pages import Damage
from tocsin.cli.selftest.service import Service
from tocsin.settings import Settings
from tocsin.settings import load as read_settings

READY_SECONDS = 60.0  # on a busy machine, with recovery
POINT_SECONDS = 6.0
LINGER_SECONDS = 3.0  # before a kill, in which what was kept may not be logged and counted yet
COUNTED_SECONDS = 6.0  # after an outage of the server, in which what ended meanwhile is still being counted
HELD_SECONDS = 35.0  # after a fault, in which held outcomes are still being kept
ASK_AGAIN_SECONDS = 1.0  # after a fault that nothing was said of
FOREVER = 1e12
LAG_SECONDS = 1.0  # of the log behind the store


class Faults:
    """`complaints`: promises that were broken at the time. The other lists are what the books need to know."""

    def __init__(
        self, service: Service, clock: Clock, load: Load, folder: Path, seed: int, small_disk: Path | None, server: Server | None
    ) -> None:
        self.kills: list[Span] = []
        self.faults: list[Span] = []
        self.outages: list[Span] = []
        self.uneven: list[Span] = []
        self.copies: list[Copy] = []
        self.restores: list[Restore] = []
        self.complaints: list[str] = []
        self._service, self._clock, self._load = service, clock, load
        self.done: Counter[str] = Counter()
        """How often each disturbance was carried out, and the service was killed."""
        self.cut_off: list[Kill] = []
        self._folder, self._small_disk, self._server = folder, small_disk, server
        self._data, self._log = service.data, folder / "service.log"
        self._dice = random.Random(f"{seed} faults")
        self._files: dict[Copy, Path] = {}
        self._acts: dict[Kind, Callable[[Step], None]] = {
            "kill": self._kill,
            "point": self._point,
            "term": self._term,
            "freeze": self._freeze,
            "full": self._full,
            "damage": self._damage,
            "clock": self._clock_to,
            "copy": self._copy,
            "restore": self._restore,
            "server": self._end_server,
            "stall": self._stall,
            "sessions": self._end_sessions,
        }

    def carry_out(self, step: Step) -> None:
        time.sleep(step.after)
        began = time.monotonic()
        lasting = {"full": self.faults, "damage": self.faults, "server": self.outages, "stall": self.outages}.get(step.kind, [])
        lasting.append(Span(began, FOREVER))  # for a kill within it
        self._acts[step.kind](step)
        if step.kind != "kill":  # each kill is counted
            self.done[f"server {step.by}" if step.kind == "server" else step.kind] += 1
        lasting[-1] = Span(began, time.monotonic())
        if step.kind in {"freeze", "clock", "full", "damage", "restore", "server", "stall", "sessions"}:
            self.uneven.append(Span(began, time.monotonic() + 1.0))

    # --------------------------------------------------------------------------------------------------------- the ends

    def kill(self, frozen_at: float | None = None) -> None:
        now = time.monotonic()
        began = (frozen_at or now) - LINGER_SECONDS
        for fault in self.faults:
            if fault.ended > now - HELD_SECONDS:
                began = min(began, fault.began)
        for outage in reversed(self.outages):
            if outage.ended > began - COUNTED_SECONDS:
                began = min(began, outage.began)
        self._service.kill()
        self._note_in_flight("service")
        self.done["kills of the service"] += 1
        self.kills.append(Span(began, time.monotonic()))

    def _note_in_flight(self, killed: str) -> None:
        """By the file in which the service notes it, which outlives it."""
        entries = struct.iter_unpack("<qIIq", (self._data / "in-flight").read_bytes())
        self.cut_off.append(Kill(killed, len(self._load.accepted), {entry[0] for entry in entries if entry[0] > 0}))

    def _up(self) -> None:
        self._service.launch()
        self._service.wait_until_ready(READY_SECONDS)

    def end(self) -> None:
        """SIGTERM."""
        if not self._service.stop():
            self._complain("told to stop, it did not end with 0 in time")

    def _kill(self, step: Step) -> None:
        self.kill()
        for _ in range(int(step.by)):
            self._service.launch()
            time.sleep(step.lasts)  # somewhere in its start
            self.kill()
        self._up()

    def _point(self, step: Step) -> None:
        self.kill()
        self._service.launch(step.by)
        if self._service.died(POINT_SECONDS):
            self.kills.append(Span(time.monotonic() - POINT_SECONDS - LINGER_SECONDS, time.monotonic()))
        else:
            self.kill()
        self._up()

    def _term(self, step: Step) -> None:
        self.end()
        if step.by:
            self._clock.step_to(int(step.by))
            self.uneven.append(Span(time.monotonic(), time.monotonic()))
        self._up()

    def _freeze(self, step: Step) -> None:
        frozen_at = time.monotonic()
        with self._service.frozen():
            time.sleep(step.lasts)
            if step.by:
                self.kill(frozen_at)
        if step.by:
            self._up()

    def _clock_to(self, step: Step) -> None:
        before = self._clock.offset
        self._clock.step_to(int(step.by))
        if step.lasts:
            time.sleep(step.lasts)
            self._clock.step_to(before)

    # ------------------------------------------------------------------------------------------------- a disk that fails

    def _full(self, step: Step) -> None:
        filler = self._fill()
        try:
            time.sleep(step.lasts / 2)
            if step.by == "killed":
                self.kill()
            elif step.by == "stopped":
                self.end()
            if step.by:
                self._service.launch()
                if filler is None:
                    self._limit_files()
            time.sleep(step.lasts / 2)
            if self._call("/healthz")[0] != 200 and not step.by:
                self._complain("on a full disk it does not say that it is alive")
        finally:
            if filler is not None:
                filler.unlink()
            else:
                self._service.limit_files()
        self._service.wait_until_ready(READY_SECONDS)

    def _fill(self) -> Path | None:
        """To the last byte, where the disk is ours alone; else by a limit on the size of files, which to the service is the same."""
        if self._small_disk is None:
            self._limit_files()
            return None
        filler = self._small_disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as out:
            while out.write(bytes(1 << 16)):
                pass
        with suppress(OSError), filler.open("ab", buffering=0) as out:
            while out.write(bytes(512)):
                pass
        return filler

    def _limit_files(self) -> None:
        with suppress(OSError):
            self._service.limit_files((self._data / "tocsin.db-wal").stat().st_size)

    def _damage(self, step: Step) -> None:
        what, _, is_stopped = step.by.partition(" ")
        if is_stopped:
            self.end()
        damage = Damage(self._data / "tocsin.db", what, self._dice)
        said_before = self._log.stat().st_size
        if is_stopped:
            self._service.launch()
        said = self._watch(step.lasts)
        text = self._log.read_bytes()[said_before:]
        code = self._service.ended()
        if code is not None:
            if code != 1 or b"is damaged" not in text or b"Traceback" in text:
                self._complain(f"on a damaged store it ended with {code}: {text[-300:]!r}")
            damage.undo()
            self._up()
            return
        if b'"settle.waits"' in text:
            said += self._watch(ASK_AGAIN_SECONDS)  # it may have been met after the last look
        if b'"settle.waits"' in text and not any("The store is damaged (" in one for one in said):
            self._complain(f"outcomes could not be kept on a damaged store, and readyz said {said[-1:]}")
        if b"Traceback" in text or b'"exception"' in text:
            self._complain(f"a damaged store made a traceback: {text[text.find(b'Traceback') :][:1500]!r}")
        with self._service.frozen():
            damage.undo()

    def _watch(self, seconds: float) -> list[str]:
        """What readyz says for so long."""
        ends_at, said = time.monotonic() + seconds, [""]
        while time.monotonic() < ends_at:
            said.append(self._call("/readyz")[1])
            time.sleep(0.05)
        return said

    # ----------------------------------------------------------------------------------------------------------- copies

    def _copy(self, _: Step) -> None:
        file = self._folder / f"copy{len(self.copies)}.db"
        began, log_began = time.monotonic(), self._log.stat().st_size
        upkeep.back_up(self._settings(), file)
        ended = time.monotonic()
        time.sleep(LAG_SECONDS)
        copy = Copy(began, ended, log_began, self._log.stat().st_size)
        self._files[copy] = file
        self.copies.append(copy)

    def _restore(self, step: Step) -> None:
        copy = self._dice.choice(self.copies[-2:])
        if step.by == "command killed":
            self.kill()
        else:
            self.end()
        self._make_room()
        if step.by == "by hand":
            for file in self._data.glob("tocsin.db*"):
                file.unlink()
            shutil.copy(self._files[copy], self._data / "tocsin.db")
        else:
            upkeep.restore(self._settings(), self._files[copy], replace=True)
        self.restores.append(Restore(time.monotonic(), self._log.stat().st_size, copy))
        self._up()
        self._load.look_again()

    def _make_room(self) -> None:
        """Stores that were put aside before: on a small disk they would be in the way."""
        for file in self._data.glob("tocsin.db.before-*"):
            file.unlink()

    def _settings(self) -> Settings:
        return read_settings({"TOCSIN_DATA_DIR": str(self._data)}, self._folder / "none.env")

    # ----------------------------------------------------------------------------------------------------- the database

    def _end_server(self, step: Step) -> None:
        """It is back after a while, and so is the service, by itself."""
        if self._server is None:
            return
        if step.by in {"killed", "both"}:
            self._server.end("killed")
            self._note_in_flight("server")
        else:
            self._server.end(step.by)
        time.sleep(step.lasts)
        if self._call("/healthz")[0] != 200:
            self._complain("while its database is away it does not say that it is alive")
        if step.by == "both":
            self.kill()
        self._server.start()
        if step.by == "both":
            self._service.launch()
        self._service.wait_until_ready(READY_SECONDS)

    def _stall(self, step: Step) -> None:
        if self._server is None:
            return
        with self._server.frozen():
            time.sleep(step.lasts)
            if step.by:
                self.kill()
        if step.by:
            self._up()
        self._service.wait_until_ready(READY_SECONDS)

    def _end_sessions(self, _: Step) -> None:
        if self._server is not None:
            self._server.end_sessions()

    def look_at_log(self) -> None:
        """An outage of the database is said in a line, without a traceback. A damaged file is looked at when it is damaged."""
        text = self._log.read_bytes()
        if self._server is not None and b"Traceback" in text:
            self._complain(f"an outage made a traceback: {text[text.find(b'Traceback') :][:1500]!r}")

    # ------------------------------------------------------------------------------------------------------------ tools

    def _call(self, path: str) -> tuple[int, str]:
        """Status and body, 0 if it is down."""
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def _complain(self, sentence: str) -> None:
        self.complaints.append(sentence)
