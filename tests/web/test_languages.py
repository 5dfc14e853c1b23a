"""Both languages are complete, and say what they are asked to say."""

import re
from datetime import UTC

import psycopg
import pytest
from babel.messages.pofile import read_po

from e2e.service import Service
from tocsin import clock
from tocsin.clock import SECOND
from tocsin.flow.handlers.states import HandlerState, state_of
from tocsin.flow.words import Event
from tocsin.model import Delivery, Handler, Reason, Status
from tocsin.ports.standings import Standing
from tocsin.store import faults
from tocsin.web.details import OURS, retold
from tocsin.web.language import FOLDER, LANGUAGES, choose, span, translations
from tocsin.web.render import advice, ago, described, detail_of, in_full, in_short, next_step, story, trouble, why
from web import messages
from web.conftest import Surfer

OTHERS = [language for language in LANGUAGES if language != "en"]


@pytest.mark.parametrize("language", OTHERS)
def test_no_text_is_missing_and_none_is_left_over(language: str) -> None:
    assert messages.missing(language) == []
    with (FOLDER / f"{language}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    known = set(messages.everything())
    assert [one.id for one in catalogue if one.id and (one.id if isinstance(one.id, str) else one.id[0]) not in known] == []


@pytest.mark.parametrize("language", OTHERS)
def test_what_is_filled_in_is_the_same(language: str) -> None:
    with (FOLDER / f"{language}.po").open("rb") as file:
        for one in read_po(file, locale=language):
            given = one.id if isinstance(one.id, str) else one.id[0]
            said = one.string if isinstance(one.string, str) else one.string[0]
            places = r"%\(\w+\)s|\{\w+\}|%%"
            assert sorted(set(re.findall(places, given))) == sorted(set(re.findall(places, said))), given


@pytest.mark.parametrize(
    ("wanted", "accepted", "chosen"),
    [
        (None, "", "en"),
        (None, "ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        (None, "en-GB,ko;q=0.5", "en"),
        (None, "de, fr;q=0.9", "en"),
        (None, "de, ko;q=0.1", "ko"),
        (None, "ko;q=0, en", "en"),
        (None, "ko;q=x,,;;,q=", "en"),
        ("ko", "en", "ko"),
        ("xx", "ko", "ko"),
    ],
)
def test_the_language_is_the_readers(wanted: str | None, accepted: str, chosen: str) -> None:
    assert choose(wanted, accepted) == chosen


def test_stories_and_lengths_are_told_in_it() -> None:
    _ = translations("ko").gettext
    event = Event(
        0,
        "Attempt {number}: {what}{code}. Next attempt in {span}.",
        {"number": "1", "what": "The provider had an error of its own", "code": " (500)"},
        {"span": 5 * SECOND},
    )
    assert story(event, _) == "시도 1: 제공자 쪽에 오류가 있었습니다 (500). 다음 시도는 5초 후."
    assert story(Event(0, "Skipped: {why}", {"why": "The handler is paused."}), _) == "건너뜀: 핸들러가 일시 중지되어 있습니다."
    assert [span(seconds, _) for seconds in (0.25, 5, 71, 300, 3600, 4500, 300_000)] == [
        *("250ms", "5초", "1분 11초", "5분", "1시간", "1시간 15분", "3일")
    ]
    assert described(
        "For type = email: E-mail address. Where the e-mails go. Addresses of your own network, such as root@nas, are fine.", _
    ) == ("사용 가능: type = email: 이메일 주소. 이메일을 받을 곳입니다. root@nas 같은 내부 네트워크 주소도 됩니다.")


def test_what_a_delivery_met_is_told_in_sentences() -> None:
    def told(status: Status, reason: Reason | None, error: str | None, language: str = "en") -> str:
        row = Delivery(1, 1, 1, 1, status, 0, 0, 0, last_reason=reason, last_error=error)
        return why(row, translations(language).gettext)

    assert told(Status.DELIVERED, Reason.OK, None) == "" == told(Status.PENDING, None, None)
    assert told(Status.PENDING, Reason.NOT_FOUND, "not_found: 404 no such hook") == "The target was not found. 404 no such hook"
    assert told(Status.PENDING, Reason.NOT_FOUND, "not_found: 404 no such hook", "ko") == "대상을 찾을 수 없습니다. “404 no such hook”"
    assert told(Status.EXPIRED, Reason.EXPIRED, "expired: server_error: 500 internal") == (
        "It was not delivered before it expired. The provider had an error of its own. 500 internal"
    )
    assert told(Status.FAILED, Reason.CONNECT, "connect") == "No connection could be made."
    refused = "connect: No connection was made: Connection refused."
    assert told(Status.PENDING, Reason.CONNECT, refused) == "No connection could be made. Connection refused."
    assert told(Status.EXPIRED, Reason.EXPIRED, f"expired: {refused}") == (
        "It was not delivered before it expired. No connection could be made. Connection refused."
    )
    assert told(Status.PENDING, Reason.DNS, "dns: The host name does not resolve.") == "The host name could not be resolved."
    assert (
        told(Status.SKIPPED, Reason.HANDLER_PAUSED, "timeout: took too long")
        == "The handler is paused. The provider did not answer in time. took too long"
    )
    lost = "It may have arrived: no answer came back."
    for reason, detail, expected in (
        (Reason.CUT, f"{lost} The connection ended before the whole answer came.", f"The connection ended before the answer. {lost}"),
        (Reason.TIMEOUT, f"{lost} The request went out, but no whole answer came in time.", f"The provider did not answer in time. {lost}"),
        (
            Reason.UNKNOWN,
            f"{lost} The answer is not valid HTTP.",
            "It may have arrived: the answer was lost. The answer is not valid HTTP.",
        ),
        (Reason.BUDGET, "The limit is 2 a day.", "The daily budget is used up. The limit is 2 a day."),
        (
            Reason.MAIL_NOT_CONFIGURED,
            "No mail server is configured, so e-mails wait until there is one.",
            "E-mail is not set up. No mail server is configured, so e-mails wait until there is one.",
        ),
        (
            Reason.MAIL_NOT_CONFIGURED,
            "TOCSIN_EMAIL_FROM is not an address such as `tocsin <alarm@example.com>`, so no e-mail is sent",
            "E-mail is not set up. TOCSIN_EMAIL_FROM is not an address such as `tocsin <alarm@example.com>`, so no e-mail is sent",
        ),
    ):
        assert told(Status.PENDING, reason, f"{reason.value}: {detail}") == expected


def failing(reason: Reason, error: str) -> HandlerState:
    return state_of(Handler(1, 1, "webhook", "hook", {}, True, 0), Standing(failing_since=1, reason=reason, error=error), None)


def test_a_handler_whose_last_message_expired_says_what_its_last_attempt_met() -> None:
    state = failing(Reason.EXPIRED, "expired: server_error: 500 answer <b>500</b>")
    assert (state.reason, state.detail, state.has_expired) == (Reason.SERVER_ERROR, "500 answer <b>500</b>", True)
    english, korean = (translations(name).gettext for name in ("en", "ko"))
    assert trouble(state, english) == "The provider had an error of its own."
    assert in_short(state, english) == "500 answer <b>500</b>"
    assert advice(state, english) == "Look at the answer and at the log of the receiving side."
    expired = "It was not delivered before it expired. The provider had an error of its own. 500 answer <b>500</b>"
    assert in_full(state, english) == expired
    assert in_full(state, korean) == "만료되기 전에 전송되지 않았습니다. 제공자 쪽에 오류가 있었습니다. “500 answer <b>500</b>”"
    assert not failing(Reason.SERVER_ERROR, "server_error: 500").has_expired


@pytest.mark.parametrize(
    ("reason", "detail", "beside", "whole"),
    [
        (Reason.SERVER_ERROR, "500 busy", "", "The provider had an error of its own. 500 busy"),
        (Reason.DNS, "The host name does not resolve.", "", "The host name could not be resolved."),
        (
            Reason.CONNECT,
            "No connection was made: Connection refused.",
            "Connection refused.",
            "No connection could be made. Connection refused.",
        ),
        (
            Reason.GONE,
            "The target is gone. It answered 410.",
            "It answered 410.",
            "The target is gone. It answered 410.",
        ),
    ],
)
def test_a_handlers_reason_and_its_detail_do_not_say_the_same(reason: Reason, detail: str, beside: str, whole: str) -> None:
    state, english = failing(reason, f"{reason.value}: {detail}"), translations("en").gettext
    assert detail_of(state, english) == beside
    assert in_full(state, english) == whole


def test_why_a_handler_was_switched_off_is_said_once() -> None:
    state, english = HandlerState("switched_off", 1, Reason.GONE, "The target is gone. It answered 410."), translations("en").gettext
    assert (in_short(state, english), detail_of(state, english)) == ("The target is gone.", "It answered 410.")
    assert in_full(state, english) == "The target is gone. It answered 410."
    state = HandlerState("switched_off", 1, None, "It answered 410.")
    assert (in_short(state, english), detail_of(state, english)) == ("It answered 410.", "")


@pytest.mark.parametrize(
    ("seconds", "expires_in", "replays", "english", "korean"),
    [
        (60, 600, 0, "next try in 1 min", "다음 시도 1분 후"),
        (60, None, 0, "next try in 1 min", "다음 시도 1분 후"),
        (60, 60, 0, "expires in 1 min", "1분 후 만료"),
        (60, 30, 0, "expires in 30 s", "30초 후 만료"),  # its handler rests for longer than that
        (-5, -5, 0, "expires just now", "방금 만료"),
        (60, 30, 1, "next try in 1 min", "다음 시도 1분 후"),  # sent again by hand
    ],
)
def test_an_expiry_is_no_attempt(
    monkeypatch: pytest.MonkeyPatch, seconds: int, expires_in: int | None, replays: int, english: str, korean: str
) -> None:
    now = 1_800_000_000_000_000
    monkeypatch.setattr(clock, "now", lambda: now)
    row = Delivery(1, 1, 1, 1, Status.PENDING, now + seconds * SECOND, now - 1, now - 1, attempt_count=1, replays=replays)
    expires_at = None if expires_in is None else now + expires_in * SECOND
    for name, words in (("en", english), ("ko", korean)):
        assert next_step(row, UTC, translations(name).gettext, expires_at).striptags() == words


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("", ""),
        (
            "The PostgreSQL server cannot be reached (connection failed: No route to host. Is it running?).",
            "PostgreSQL 서버에 연결할 수 없습니다(“connection failed: No route to host. Is it running?”).",
        ),
        (
            "The target is gone. Slack says that this workspace was disabled.",
            "대상이 사라졌습니다. Slack에 따르면 이 워크스페이스는 비활성화되었습니다.",
        ),
        (
            "5 deliveries in a row failed over 3 d. The last failure: The target was not found. 404 no such hook. Try another",
            "3일 동안 전송 5건이 연달아 실패했습니다. 마지막 실패: 대상을 찾을 수 없습니다. “404 no such hook. Try another”",
        ),
        (
            "The URL's address is not public. The operator can open its network with TOCSIN_ALLOW_NETWORKS.",
            "URL이 가리키는 주소는 공개된 주소가 아닙니다. 운영자가 TOCSIN_ALLOW_NETWORKS에 해당 네트워크를 추가하면 접근할 수 있습니다.",
        ),
        (
            "E-mail is not set up. No mail server is configured, so e-mails wait until there is one.",
            "이메일이 설정되지 않았습니다. 메일 서버가 없어, 설정될 때까지 이메일은 대기합니다.",
        ),
        (
            "5 deliveries in a row failed over 1 h 30 min. The last failure: The target was not found.",
            "1시간 30분 동안 전송 5건이 연달아 실패했습니다. 마지막 실패: 대상을 찾을 수 없습니다.",
        ),
        ("No connection was made: Connection refused.", "연결하지 못했습니다: “Connection refused”."),
        (
            "The provider refused the request. 422 no text. Read the answer: it says what was refused.",
            "제공자가 요청을 거부했습니다. “422 no text.” 응답을 확인하세요. 무엇이 거부되었는지 나와 있습니다.",
        ),
        (
            "The webhook's channel is a forum: add ?thread_id=… of one of its posts to the URL.",
            "웹훅의 채널이 포럼입니다. 게시물의 ?thread_id=…를 URL에 덧붙이세요.",
        ),
        (
            "Nothing goes out: the operator's proxy does not answer.",
            "아무것도 보내지 못하고 있습니다: 운영자의 프록시가 응답하지 않습니다.",
        ),
        (
            "The operator's proxy answered 200, but the rest of its answer cannot be read.",
            "운영자의 프록시가 200(으)로 응답했지만 나머지 응답을 읽을 수 없습니다.",
        ),
        (
            "It may have arrived: no answer came back. The operator's proxy makes tunnels, but no proper answer comes back.",
            "응답을 받지 못했지만 도착했을 수도 있습니다. 운영자의 프록시가 터널을 만들지만 응답이 돌아오지 않습니다.",
        ),
        (
            "Nothing goes out: the operator's proxy lets no secure connection through.",
            "아무것도 보내지 못하고 있습니다: 운영자의 프록시가 보안 연결을 통과시키지 않습니다.",
        ),
        ("503 {busy} 잠시 후", "“503 {busy} 잠시 후”"),
    ],
)
def test_details_are_told_in_korean_and_a_providers_words_are_quoted(kept: str, told: str) -> None:
    assert retold(kept, translations("ko").gettext) == told
    assert retold(kept, translations("en").gettext) == kept


def test_every_detail_that_is_translated_is_still_said() -> None:
    said = set(messages.said_in_source())
    beginnings = {text.removesuffix("{own}") for text in OURS if text.endswith("{own}")}
    assert [one for one in beginnings if not any(text.startswith(one) for text in said)] == []
    assert [text for text in OURS if not text.endswith("{own}") and re.sub(r"\{\w+\}", "{}", text) not in said] == []


def test_what_keeps_a_store_from_working_is_told_in_korean() -> None:
    gone = psycopg.OperationalError("connection refused")
    korean = translations("ko").gettext
    sentences = {*faults._SENTENCES.values(), faults.NO_ROOM, faults.damaged("a page"), faults.sentence(gone)}
    assert [one for one in sentences if retold(one, korean) == one or one in retold(one, korean)] == []


def test_the_reference_names_every_request_in_both(base: str, served: Service) -> None:
    paths = served.first().get("/api/openapi.json").json["paths"]
    for page, word in (("/docs", "required"), ("/ko/docs", "필수")):
        text = Surfer(base).get(page).text
        assert word in text and all(path in text for path in paths)
    korean = Surfer(base).get("/ko/docs").text
    terms = (
        *("알림 핸들러", "매개변수", "상세", "설명", "선택", "필수", "허용 값:", "기본값:"),
        *("사용 가능: type = email", "웹훅 URL", "Telegram 채팅 ID"),
    )
    for term in terms:
        assert term in korean, term
    assert 'lang="ko"' in korean


@pytest.mark.parametrize(
    ("microseconds", "english", "korean"),
    [
        (-900_000, "now", "지금"),
        (0, "just now", "방금"),
        (900_000, "just now", "방금"),
        (-1_000_000, "in 1 s", "1초 후"),
        (2_000_000, "2 s ago", "2초 전"),
    ],
)
def test_what_comes_within_a_second_has_not_just_been(
    monkeypatch: pytest.MonkeyPatch, microseconds: int, english: str, korean: str
) -> None:
    monkeypatch.setattr(clock, "now", lambda: 1_800_000_000_000_000)
    for name, words in (("en", english), ("ko", korean)):
        assert f">{words}<" in ago(1_800_000_000_000_000 - microseconds, UTC, translations(name).gettext)
