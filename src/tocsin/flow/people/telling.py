"""Users are mailed when something about how they sign in changes, so that they notice what somebody else did.

The audit log says what there is to tell, and a value in the store how far it was told: a process that dies loses nothing of it, and repeats
one mail at most. What happens to a user at about the same time is one mail. There are a few an hour at most; the next one tells the rest.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog
from msgspec import Struct

from tocsin import clock, observe, zones
from tocsin.clock import DAY, HOUR, SECOND, Micros
from tocsin.flow.handlers.trial import Letter, Tests, Trial
from tocsin.flow.speech import Languages, Retell
from tocsin.markup.length import clean_line, cut_characters
from tocsin.model import Busy, Reason
from tocsin.net.addresses import read_address
from tocsin.ports.audit import Act, AuditFilter, AuditLog, Entry, News
from tocsin.ports.values import Values
from tocsin.settings import Settings

LOOK_SECONDS = 2.0
STATE = "telling"  # its row of `meta`
ROWS_AT_ONCE = 500
MAX_AN_HOUR = 10  # mails to one user
MAX_NAMED = 20  # changes in one mail; the others are counted
MAX_KEY_NAME = 60
KEPT_FOR: Micros = DAY  # what could not be mailed for so long is left to the audit log
COMMITTED_AFTER: Micros = 60 * SECOND  # entries of other processes may come to light after those with higher ids
AGAIN_FIRST, AGAIN_MOST = 15 * SECOND, HOUR  # until another try, twice as long each time
AGAIN_SERVER: Micros = 5 * 60 * SECOND  # the most where it is the mail server that takes nothing
MAX_UNKNOWN = 3  # mails that may have arrived, until it is believed
_OF_RECIPIENT = frozenset({Reason.MAILBOX, Reason.SERVER_ERROR, Reason.UNKNOWN})  # others are mailed to meanwhile
_SERVER = 0  # in place of a user
ACTS = (
    Act.PASSWORD_SET,
    Act.FACTOR_SET_UP,
    Act.FACTOR_REMOVED,
    Act.CODES_RENEWED,
    Act.RECOVERY_CODE_USED,
    Act.LINK_MADE,
    Act.ROLE_CHANGED,
    Act.USER_BOUND,
    Act.USER_UNBOUND,
    Act.KEY_ADDED,
)

log = structlog.get_logger(__name__)


class State(Struct, frozen=True):
    """How far it was told: everything up to the entry `passed`, and of the later ones those in `done`."""

    passed: int
    done: tuple[int, ...] = ()


class Again(Struct, frozen=True):
    tries: int = 0
    at: Micros = 0


class Telling:
    """`leads`: whether it is this process that tells."""

    def __init__(
        self,
        audit: AuditLog,
        values: Values,
        tests: Tests,
        languages: Languages,
        settings: Settings,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._audit = audit
        self._values = values
        self._tests = tests
        self._languages = languages
        self._settings = settings
        self._leads = leads
        self._newest: deque[tuple[Micros, int]] = deque()
        self._again: dict[int, Again] = {}
        self._mailed: dict[int, list[Micros]] = {}

    async def run(self) -> None:
        """Until cancelled; at once where there is no mail server."""
        while self._settings.smtp_url:
            if self._leads():
                try:
                    await self.look()
                except Exception as error:  # noqa: BLE001  # whatever it was, users are still to be told
                    observe.seldom(log.error, "telling.failed", exc_info=None if isinstance(error, Busy) else error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Tell what is not told yet. The first look ever tells nothing: what was before it is no news. Raises Busy."""
        now, newest = clock.now(), await self._newest_id()
        if (state := _read(await self._values.read(STATE))) is None:
            await self._values.write(STATE, msgspec.json.encode(State(newest)))
            return
        self._newest.append((now, newest))
        self._forget(now)
        untold = await self._untold(state, now)
        waiting = {one.entry.id for news in untold.values() for one in news}
        for user_id, news in untold.items():
            if not self._leads() or self._waits(_SERVER, now):
                break
            if self._waits(user_id, now) or not await self._tell(user_id, news):
                continue
            ids = {one.entry.id for one in news}
            waiting -= ids
            state = State(state.passed, (*state.done, *sorted(ids)))
            await self._values.write(STATE, msgspec.json.encode(state))
        await self._pass_on(state, waiting, now)

    async def _newest_id(self) -> int:
        found = await self._audit.page(AuditFilter(), 1)
        return found[0].id if found else 0

    async def _untold(self, state: State, now: Micros) -> dict[int, list[News]]:
        """By user, the longest waiting one first."""
        found: dict[int, list[News]] = {}
        done, last, late = set(state.done), state.passed, 0
        while True:
            news = await self._audit.news(last, ACTS, ROWS_AT_ONCE)
            for one in news:
                owner = one.entry.owner_id
                if owner is None or one.entry.id in done or not _is_mailable(one.email):
                    continue
                if one.entry.at < now - KEPT_FOR:
                    late += 1
                else:
                    found.setdefault(owner, []).append(one)
            if len(news) < ROWS_AT_ONCE:
                break
            last = news[-1].entry.id
        if late:
            observe.seldom(log.warning, "telling.given_up", count=late)
        return found

    async def _pass_on(self, state: State, waiting: set[int], now: Micros) -> None:
        """Forget what lies so far behind that nothing can come to light there any more."""
        passed = max((newest for at, newest in self._newest if at <= now - COMMITTED_AFTER), default=state.passed)
        passed = max(state.passed, min([passed, *(one - 1 for one in waiting)]))
        if passed > state.passed:
            left = State(passed, tuple(one for one in state.done if one > passed))
            await self._values.write(STATE, msgspec.json.encode(left))

    # ------------------------------------------------------------------------------------------------------------ when

    def _waits(self, user_id: int, now: Micros) -> bool:
        again = self._again.get(user_id)
        return (again is not None and again.at > now) or len(self._mailed.get(user_id, ())) >= MAX_AN_HOUR

    def _forget(self, now: Micros) -> None:
        while len(self._newest) > 1 and self._newest[1][0] <= now - COMMITTED_AFTER:
            self._newest.popleft()
        for user_id, times in list(self._mailed.items()):
            if lately := [at for at in times if now - HOUR < at <= now]:
                self._mailed[user_id] = lately
            else:
                del self._mailed[user_id]
        self._again = {one: again for one, again in self._again.items() if now - DAY < again.at <= now + HOUR}

    async def _tell(self, user_id: int, news: Sequence[News]) -> bool:
        """Whether there is nothing more to do: it was taken, or will never be."""
        reader = news[-1]
        speech = self._languages.named(reader.language)
        trial = await self._tests.mail(user_id, reader.email, letter([one.entry for one in news], reader, speech.say))
        if trial.status != "failed":
            self._mailed.setdefault(user_id, []).append(clock.now())
        if trial.status == "delivered" or trial.is_final or self._is_believed(user_id, trial):
            self._again.pop(user_id, None)
            self._again.pop(_SERVER, None)
            log.info("user.told", user=user_id, count=len(news), status=trial.status, reason=trial.reason)
            return True
        who = user_id if trial.reason in _OF_RECIPIENT or trial.status == "unknown" else _SERVER
        tries = self._again.get(who, Again()).tries + 1
        wait = min(AGAIN_FIRST << min(tries - 1, 20), AGAIN_SERVER if who == _SERVER else AGAIN_MOST)
        self._again[who] = Again(tries, clock.now() + wait)
        observe.seldom(log.warning, "telling.waits", user=user_id, status=trial.status, reason=trial.reason)
        return False

    def _is_believed(self, user_id: int, trial: Trial) -> bool:
        return trial.status == "unknown" and self._again.get(user_id, Again()).tries + 1 >= MAX_UNKNOWN


def _read(kept: bytes | None) -> State | None:
    """None too where what is kept means nothing."""
    with contextlib.suppress(msgspec.MsgspecError):
        return None if kept is None else msgspec.json.decode(kept, type=State)
    return None


def _is_mailable(email: str) -> bool:
    """Not such as admin@localhost, the first user where nothing else is set."""
    try:
        return read_address(email).domain.lower() != "localhost"
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------------------- the letter


def letter(entries: Sequence[Entry], reader: News, _: Retell) -> Letter:
    """In plain text, without a link: nobody is to get used to following one in such a mail."""
    named = [_told(one, reader, _) for one in entries[:MAX_NAMED]]
    rest = len(entries) - len(named)
    paragraphs = [
        _("Account: {email}").format(email=reader.email),
        *named,
        _("And {count} more changes, which are in the audit log.").format(count=rest) if rest > 0 else "",
        _("If this was you, there is nothing to do."),
        _(
            "If it was not you, sign in, set a new password, end the other sessions and revoke the API keys that you do not know."
            " Then tell the operator of this service."
        ),
    ]
    return Letter(_("How you sign in has changed"), "\n\n".join(filter(None, paragraphs)))


def _told(entry: Entry, reader: News, _: Retell) -> str:
    """What, when, from where and through what. Where others are is not the user's business."""
    is_by_other = entry.user_id not in (None, entry.owner_id)
    through = {"page": _("the pages"), "api": _("the API"), "command": _("the command line")}.get(entry.via, entry.via)
    lines = [
        _sentence(entry, _),
        _("When: {time}").format(time=zones.shown(entry.at, zones.zone_of(reader.time_zone))),
        _("From the address: {address}").format(address=entry.address) if entry.address and not is_by_other else "",
        _("Through: {what}").format(what=through),
        _("By: an administrator") if is_by_other else "",
    ]
    return "\n".join(filter(None, lines))


def _sentence(entry: Entry, _: Retell) -> str:
    is_administrator = entry.detail.get("role") == "administrator"
    name = cut_characters(clean_line(entry.name), MAX_KEY_NAME)
    return {
        Act.PASSWORD_SET: _("A new password was set."),
        Act.FACTOR_SET_UP: _("A second factor was set up."),
        Act.FACTOR_REMOVED: _("The second factor was removed."),
        Act.CODES_RENEWED: _("New recovery codes were made; the old ones no longer work."),
        Act.RECOVERY_CODE_USED: _("A recovery code was used."),
        Act.LINK_MADE: _("A link was made that signs in once without a password."),
        Act.ROLE_CHANGED: _("You are an administrator now.") if is_administrator else _("You are no longer an administrator."),
        Act.USER_BOUND: _("An account of the sign-in provider was tied to yours."),
        Act.USER_UNBOUND: _("The account of the sign-in provider is no longer tied to yours."),
        Act.KEY_ADDED: _("An API key was added: {name}").format(name=name),
    }[Act(entry.act)]
