"""The composition root: the only place that names a concrete store and engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Engine

from tocsin import clock, datadir, limits, observe, process
from tocsin.alone import Alone
from tocsin.changes import Changes
from tocsin.clock import SECOND
from tocsin.engine.places import Bounds, http_bounds, mail_bounds
from tocsin.flow import pools
from tocsin.flow.delivery.clock_watch import ClockWatch
from tocsin.flow.delivery.deliver import Delivering
from tocsin.flow.delivery.health import Health
from tocsin.flow.delivery.identity import Identities
from tocsin.flow.delivery.keep import Keeping
from tocsin.flow.delivery.notices import Notices
from tocsin.flow.delivery.tally import Tally
from tocsin.flow.directory import Directory
from tocsin.flow.handlers.consenting import Consenting
from tocsin.flow.handlers.preview import Previews
from tocsin.flow.handlers.register import Handlers
from tocsin.flow.handlers.sealed import Sealed
from tocsin.flow.handlers.trial import Trials
from tocsin.flow.history.audit import AuditTrail
from tocsin.flow.history.deliveries import Deliveries
from tocsin.flow.housekeeping import Housekeeping
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.intake.repeats import Repeats
from tocsin.flow.mail_account import KeptToken
from tocsin.flow.people.access import Access
from tocsin.flow.people.accounts import Accounts
from tocsin.flow.people.administration import Administration
from tocsin.flow.people.confirming import ByCode, ByPassword, Confirming
from tocsin.flow.people.devices import Devices
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.own_keys import OwnKeys
from tocsin.flow.people.passwords import Passwords
from tocsin.flow.people.second_factor import SecondFactors
from tocsin.flow.people.single_sign_on import SingleSignOn
from tocsin.flow.people.telling import Telling
from tocsin.flow.people.tries import Tries
from tocsin.flow.quotas import Quotas
from tocsin.flow.service import Service, pulse
from tocsin.flow.speech import Languages, Speech
from tocsin.metrics import Metrics
from tocsin.model import Busy
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire
from tocsin.net.oauth import Tokens, oauth_of
from tocsin.net.wires import Wires
from tocsin.ports import engine as engine_port
from tocsin.ports.errors import StoreError
from tocsin.ports.ids import Ids
from tocsin.ports.vitals import Vitals
from tocsin.settings import Settings
from tocsin.store.sql import SqlStore
from tocsin.vault import Vault
from tocsin.web.details import retold
from tocsin.web.language import translations

if TYPE_CHECKING:
    from tocsin.among import Among
    from tocsin.net.openid import Provider

NOTE_IDS_SECONDS = 60.0
START_AGAIN_SECONDS = 1.0
# For attempts in flight when the service is stopped: with `serving.CLIENTS_GRACE_SECONDS` before and the writes that follow, less than the
# 10 seconds that containers get before they are killed.
GRACE_SECONDS = 5.0
log = structlog.get_logger(__name__)


@asynccontextmanager
async def running(
    settings: Settings,
    engine: Engine,
    vault: Vault,
    listens_on: Callable[[], list[tuple[str, int]]],
    measured: limits.Limits | None = None,
    address: str = "",
) -> AsyncGenerator[Service, None]:
    """Starts everything between the request and the wire, and stops it in order at the end. `measured`: what the process may use;
    `address`: where it can be reached."""
    bounds = measured or limits.measure()

    changes = Changes(datadir.Keys(settings, vault))
    store = SqlStore(engine, changes.noticed)
    metrics = Metrics()
    directory = Directory(store.handlers, vault, settings)
    changes.forget += (directory.forget_all,)
    http_wire = HttpWire(settings, lambda: [*listens_on(), *setup.listeners()])
    mail_wire = _mail_wire(settings, vault, store, http_wire)
    wires = Wires(http_wire, mail_wire)
    places = {"http": http_bounds(bounds.outgoing_descriptors, bounds.memory_bytes), "mail": mail_bounds(mail_wire.connections)}
    setup = _among_others(settings, vault, store, places, address) if settings.database_url else Alone(settings, store, places)
    pacer, sends = setup.pacer, setup.engine
    waits = setup.waits(directory)
    access = Access(store.keys, setup.may_be_old)
    changes.forget += (access.forget_all,)
    repeats = Repeats(store.intake)
    quotas = Quotas(store.usage, vault, settings, is_shared=bool(settings.database_url), api_processes=setup.api_processes)
    changes.forget += (quotas.forget_all,)

    def user_changed(user_id: int) -> None:
        directory.forget_user(user_id)
        quotas.forget_user(user_id)

    accepting = Accepting(store.intake, directory, sends, repeats, metrics, setup.may_be_old, quotas)
    languages = Languages(_speech)
    notices = Notices(store.notices, store.handlers, directory, accepting, languages)
    consenting = Consenting(
        store.consents, store.handlers, directory, accepting, notices, store.queue, sends, vault, settings, languages, setup.api_processes
    )
    sealed = Sealed(store.handlers, directory, vault)
    changes.new_keys += (sealed.look_again,)
    health = Health(store.handlers, store.queue, directory, sends, notices, vault, settings)
    tally = Tally(store.standings)
    keeping = Keeping(store.queue, health, setup.ledger, metrics, tally)
    delivering = Delivering(store.queue, directory, pacer, wires, keeping, Identities(datadir.eras(engine)), consenting.ask_soon, quotas)

    def complaints() -> list[str]:
        return [*health.mail.complaints(), *sealed.complaints(), *http_wire.complaints()]

    def unready() -> list[str]:
        troubles = (
            changes.keys.trouble,
            http_wire.trouble,
            store.vitals.trouble,
            keeping.trouble,
            setup.trouble,
        )
        return [*dict.fromkeys(trouble for trouble in troubles if trouble), *limits.complaints(bounds)]

    _watch(metrics, store.vitals, sends)
    setup.watch(metrics)

    async def begin() -> None:
        await quotas.load()
        await consenting.apply_settings(store.values)
        await notices.resume()
        await setup.begin(delivering, directory, keeping)

    beginning = await _begun(begin, keeping.began_to_hold)
    failures = Failures(store.audit)
    accounts, passwords, second_factors = _sign_ins(settings, vault, store, failures, setup.api_processes)
    housekeeping = Housekeeping(store.tidying, store.values, (access.note_use, failures.sum_up), settings, leads=setup.leads)
    _watch_house(metrics, housekeeping)
    trials = setup.trials(Trials(directory, pacer, wires, settings, consenting, quotas, health.mail))
    house = asyncio.gather(
        housekeeping.run(),
        ClockWatch(store.misdated, sends, settings, leads=setup.leads).run(),
        Telling(store.audit, store.values, trials, languages, settings, leads=setup.leads).run(),
        tally.keep_now_and_then(),
        quotas.keep_now_and_then(),
        health.mail.keep_now_and_then(store.values),
        sealed.look_now_and_then(),
        _note_ids_now_and_then(settings, store.ids),
        changes.answer(store.values),
        setup.follow(user_changed, directory, access, changes.noticed),
    )
    try:
        yield Service(
            settings=settings,
            access=access,
            handlers=Handlers(
                store.handlers, store.standings, store.queue, directory, sends, vault, waits, consenting, quotas, store.audit
            ),
            accepting=accepting,
            deliveries=Deliveries(store.history, sends, repeats, directory, waits, quotas),
            quotas=quotas,
            trials=trials,
            consenting=consenting,
            previews=Previews(directory, settings),
            metrics=metrics,
            unready=unready,
            complaints=complaints,
            accounts=accounts,
            passwords=passwords,
            second_factors=second_factors,
            single_sign_on=SingleSignOn(settings, _provider(settings, http_wire), store.identities, vault, user_changed),
            confirming=Confirming(store.sessions, [ByPassword(passwords), ByCode(second_factors)]),
            keys=OwnKeys(store.keys, quotas, changes.noticed),
            administration=Administration(store.users, changes.noticed, user_changed),
            failures=failures,
            audit=AuditTrail(store.audit),
            pulse=partial(pulse, store.history, store.vitals),
            api_processes=setup.api_processes,
            workers=setup.overview,
        )
    finally:
        house.cancel()
        beginning.cancel()
        await sends.stop(GRACE_SECONDS)
        await pools.close()
        await notices.close()
        await consenting.close()
        notes = (access.note_use(), failures.sum_up(is_end=True), tally.keep(), quotas.keep(), _note_ids(settings, store.ids))
        await _all_ended(*notes, house, beginning, wires.close())
        await setup.close()
        await store.close()
        setup.forget()
        observe.flush_logs()


def _mail_wire(settings: Settings, vault: Vault, store: SqlStore, http: HttpWire) -> MailWire:
    login = oauth_of(settings)
    return MailWire(settings, tokens=None if login is None else Tokens(login, http.send, KeptToken(store.values, vault, settings)))


def _sign_ins(
    settings: Settings, vault: Vault, store: SqlStore, failures: Failures, api_processes: Callable[[], int]
) -> tuple[Accounts, Passwords, SecondFactors]:
    """They count the tries of a user together."""
    tries = Tries(api_processes)
    passwords = Passwords(store.users, tries, failures)
    accounts = Accounts(store.users, store.sessions, store.second_factors, Devices(vault), tries, settings, failures)
    return accounts, passwords, SecondFactors(store.second_factors, accounts, tries, vault, settings, failures)


async def _all_ended(*last: Awaitable[object]) -> None:
    for ended in await asyncio.gather(*last, return_exceptions=True):
        if isinstance(ended, Exception) and not isinstance(ended, Busy | OSError):
            log.error("stop.failed", exc_info=ended)  # and continue: decisions must still be stored


def _speech(language: str) -> Speech:
    """What the service itself writes, in a language of the pages."""
    translate = translations(language).gettext
    return Speech(translate, partial(retold, _=translate))


def _among_others(settings: Settings, vault: Vault, store: SqlStore, places: Mapping[str, Bounds], address: str) -> "Among":
    from tocsin.among import Among  # with the driver of PostgreSQL, which most installations do without

    return Among(settings, vault, store, places, address)


def _provider(settings: Settings, wire: HttpWire) -> "Provider | None":
    """The OpenID provider, where there is one: only then its libraries are loaded."""
    if settings.oidc_issuer is None:
        return None
    from tocsin.net.openid import Provider, client_of

    return Provider(client_of(settings), wire.send)


async def _begun(begin: Callable[[], Awaitable[None]], is_stuck: asyncio.Event) -> asyncio.Task[None]:
    """Begin; returns once that is done, or as soon as it has to wait for the store, which can then be reported."""

    async def until_begun() -> None:
        while True:
            try:
                await begin()
            except Busy as busy:
                is_stuck.set()
                observe.seldom(log.error, "start.waits", why=str(busy))
                await asyncio.sleep(START_AGAIN_SECONDS)
            else:
                return

    task, stuck = asyncio.create_task(until_begun()), asyncio.create_task(is_stuck.wait())
    await asyncio.wait((task, stuck), return_when=asyncio.FIRST_COMPLETED)
    stuck.cancel()
    if task.done():
        task.result()
    else:
        task.add_done_callback(_say_begun)
    return task


def _say_begun(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    if isinstance(error := task.exception(), StoreError):
        process.end(str(error))
    elif error:
        log.error("start.failed", exc_info=error)
    else:
        log.info("start.complete")


async def _note_ids_now_and_then(settings: Settings, ids: Ids) -> None:
    """So that a copy of the store that was restored by hand is noticed."""
    while True:
        with contextlib.suppress(Busy, OSError, StoreError):
            await _note_ids(settings, ids)
        await asyncio.sleep(NOTE_IDS_SECONDS)


async def _note_ids(settings: Settings, ids: Ids) -> None:
    datadir.note_ids(settings, await ids.mark())


def _watch(metrics: Metrics, vitals: Vitals, engine: engine_port.Engine) -> None:
    def age() -> float:
        oldest = engine.oldest_due()
        return 0.0 if oldest is None else max(0.0, (clock.now() - oldest) / SECOND)

    metrics.watch("tocsin_backlog_age_seconds", "How long the oldest delivery that is due has been waiting.", age)
    metrics.watch("tocsin_deliveries_running", "Attempts in flight.", lambda: engine.running)
    metrics.watch("tocsin_deliveries_in_memory", "Due deliveries in memory.", lambda: engine.in_memory)
    metrics.watch("tocsin_store_writes_waiting", "Writes that wait for their commit.", lambda: vitals.writes_waiting)
    metrics.watch_store("tocsin_deliveries_pending", "Deliveries that are not settled.", vitals.backlog)
    metrics.watch_store("tocsin_store_bytes", "Size of the store with its log.", vitals.size)
    metrics.watch_store("tocsin_store_unused_bytes", "Free space in the store, for reuse or for `tocsin compact`.", vitals.unused)


def _watch_house(metrics: Metrics, house: Housekeeping) -> None:
    sentence = "By how much the oldest settled notification has outlived the retention."
    metrics.watch("tocsin_retention_behind_seconds", sentence, lambda: house.behind_seconds)
    metrics.watch("tocsin_housekeeping_deferred", "1 if nothing old is deleted because the clock jumped.", lambda: house.is_deferred)
