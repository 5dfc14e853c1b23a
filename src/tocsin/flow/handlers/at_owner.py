"""Test sends where several processes share a store: each goes out where the deliveries of its credential do, in turn with them."""

import time
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.flow.directory import Loaded
from tocsin.flow.handlers.register import HandlerDraft
from tocsin.flow.handlers.trial import TRIAL_SECONDS, Letter, Trial, Trials, mailbox
from tocsin.flow.pace import paces_to_note
from tocsin.model import Busy, Missing, Reason
from tocsin.ports.asks import Asks, NotAnswered
from tocsin.ports.claims import Claims
from tocsin.ports.workers import Partitions
from tocsin.vault import Vault, WrongKey

ANSWER_SECONDS = 2.0  # for an answer to arrive that was given at the last moment
AGAIN_SECONDS = 0.5  # until a worker is asked again that is not the owner as it sees it, if nothing changes sooner
NOBODY = "No worker sends for this handler now."
NO_WORD = "The worker that was to send it ended, or did not answer in time: the test may have arrived."
_NOT_DONE = b""  # an answer: somebody else is to send it


class Question(Struct, frozen=True):
    """A test that another worker is to send. `handler_id`: of a stored handler, in this `version` or a newer one; else `draft` is tested.
    `until`: when its time is over. `letter`: what is mailed in place of a test."""

    user_id: int
    until: Micros = 0
    handler_id: int = 0
    version: int = 0
    draft: HandlerDraft = HandlerDraft()
    letter: Letter | None = None

    def __repr__(self) -> str:
        return f"Question(handler_id={self.handler_id})"


class TrialsByOwners:
    """See `tocsin.flow.handlers.trial.Tests`. Questions and answers are sealed: they lie in the store until they are read."""

    def __init__(self, trials: Trials, partitions: Partitions, asks: Asks, claims: Claims, vault: Vault) -> None:
        self._trials = trials
        self._partitions = partitions
        self._asks = asks
        self._claims = claims
        self._vault = vault
        asks.answer_with(self._answer)

    async def saved(self, user_id: int, handler_id: int) -> Trial:
        async def load() -> Loaded:
            return await self._trials.load_saved(user_id, handler_id)

        return await self._tried(load, Question(user_id, handler_id=handler_id))

    async def draft(self, user_id: int, draft: HandlerDraft) -> Trial:
        return await self._drafted(Question(user_id, draft=draft))

    async def mail(self, user_id: int, address: str, letter: Letter) -> Trial:
        return await self._drafted(Question(user_id, draft=mailbox(address), letter=letter))

    async def _drafted(self, question: Question) -> Trial:
        loaded = self._trials.load_draft(question.user_id, question.draft)

        async def load() -> Loaded:
            return loaded

        return await self._tried(load, question)

    async def _tried(self, load: Callable[[], Awaitable[Loaded]], question: Question) -> Trial:
        """By the process that sends for the handler; by the next one if that changes before anything has gone out."""
        deadline, until = time.monotonic() + TRIAL_SECONDS, clock.now() + int(TRIAL_SECONDS * SECOND)
        while True:
            loaded = await load()
            owner, trial = self._partitions.owner(loaded.partition or 0), None
            left = deadline - time.monotonic()
            if owner and owner == self._partitions.worker_id:
                trial = await self._here(loaded, until, question.letter)
            elif owner:
                trial = await self._asked(owner, replace(question, until=until, version=loaded.handler.version), left)
            if trial is not None:
                return trial
            left = deadline - time.monotonic()
            if left <= 0:
                raise Busy(NOBODY, 5)
            await self._partitions.owner_change(min(left, AGAIN_SECONDS))

    async def _here(self, loaded: Loaded, until: Micros, letter: Letter | None) -> Trial | None:
        """None: this process does not send for the handler. What its paces count is noted first, for the next one that sends: no delivery
        tells of it. Raises Busy, and nothing is sent."""
        partition, seconds = loaded.partition or 0, (until - clock.now()) / SECOND
        if seconds <= 0:
            return None
        if loaded.paces and not await self._claims.note(self._partitions.worker_id, until, partition, paces_to_note(loaded.paces)):
            return None
        return await self._trials.while_ours(loaded, seconds, self._partitions, letter)

    async def _asked(self, owner: int, question: Question, seconds: float) -> Trial | None:
        try:
            answer = await self._asks.ask(owner, self._vault.seal(msgspec.to_builtins(question)), seconds + ANSWER_SECONDS)
            return None if answer == _NOT_DONE else msgspec.convert(self._vault.open(answer), Trial)
        except NotAnswered as nothing:
            return _unknown() if nothing.is_begun else None
        except (WrongKey, msgspec.ValidationError):  # the key is being changed, or the worker is of another version
            return _unknown()

    async def _answer(self, sealed: bytes) -> bytes:
        try:
            question = msgspec.convert(self._vault.open(sealed), Question)
            loaded = await self._loaded(question)
            trial = await self._here(loaded, question.until, question.letter)
        except (WrongKey, msgspec.ValidationError, Missing, Busy):
            return _NOT_DONE
        return _NOT_DONE if trial is None else self._vault.seal(msgspec.to_builtins(trial))

    async def _loaded(self, question: Question) -> Loaded:
        if question.handler_id:
            return await self._trials.load_saved(question.user_id, question.handler_id, question.version)
        return self._trials.load_draft(question.user_id, question.draft)


def _unknown() -> Trial:
    return Trial("unknown", Reason.UNKNOWN.value, 0, None, None, NO_WORD)
