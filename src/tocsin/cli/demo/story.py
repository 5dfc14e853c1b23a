"""What the demo registers and sends."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tocsin.channels.registry import CHANNELS

TYPES = tuple(CHANNELS)
TITLES = {name: channel.title for name, channel in CHANNELS.items()}
REVOKED = "slack, revoked"
X_CONSUMER_SECRET = "demo-consumer-secret"  # noqa: S105 - the receiver on this machine knows no other
X_TOKEN_SECRET = "demo-token-secret"  # noqa: S105


def registrations(receiver_url: str) -> dict[str, dict[str, str]]:
    """The form fields of each handler, as the reference document names them."""
    workflow = "powerautomate/automations/direct/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke"
    forms = {
        "email": {"name": "Work e-mail", "email": "hey@example.com"},
        "webhook": {"name": "On-call tool", "webhook": f"{receiver_url}/hooks/alarm"},
        "slack": {"name": "#alerts", "slack": f"{receiver_url}/services/T0DEMO/B0DEMO/" + "d" * 24},
        "discord": {"name": "Ops room", "discord": f"{receiver_url}/api/webhooks/123456789012345678/" + "d" * 68},
        "telegram": {"name": "당직 봇", "telegram": "123456789:" + "d" * 35, "telegram_chat_id": "424242"},
        "microsoft_teams": {"name": "Platform team", "microsoft_teams": f"{receiver_url}/{workflow}?api-version=1&sp=demo&sv=1.0&sig=demo"},
        "x": {
            "name": "Status account",
            "x_consumer_key": "demo-consumer-key",
            "x_consumer_secret": X_CONSUMER_SECRET,
            "x_access_token": "1234567890-" + "d" * 40,
            "x_access_token_secret": X_TOKEN_SECRET,
        },
        "google_chat": {"name": "Incident space", "google_chat": f"{receiver_url}/v1/spaces/AAAADEMO/messages?key=demo&token=demo"},
        "ntfy": {"name": "Phone", "ntfy": f"{receiver_url}/alerts"},
    }
    registered = {type_: {"type": type_, **form} for type_, form in forms.items()}
    registered[REVOKED] = {"type": "slack", "name": "#old-channel", "slack": f"{receiver_url}/services/T0DEMO/B0GONE/" + "d" * 24}
    return registered


class Fault(Struct, frozen=True):
    """What the next request of a type meets: a 500, or with `wait_seconds` the provider's throttle."""

    type: str
    wait_seconds: int | None = None


class Scene(Struct, frozen=True):
    """One notification: its content as the API takes it, the handlers it goes to, and the faults it meets on the way."""

    content: Mapping[str, Any]
    to: tuple[str, ...]
    faults: tuple[Fault, ...] = ()


OPENING = Scene(
    {
        "title": "Deployment 4.2 is live",
        "message": "All **12 hosts** run the new version.\n\n- migrations: done in _41 s_\n- error rate: `0.02 %`\n- rollback: not needed",
        "severity": "success",
        "url": "https://ci.example.com/deployments/412",
        "fields": {"service": "checkout", "version": "4.2.0", "by": "지민"},
    },
    TYPES,
)

SCENES = (
    Scene(
        {
            "title": "디스크 사용량 91 %",
            "message": "`db-1`의 **/var** 가 곧 가득 찹니다. 예상 시점: _3시간 후_\n\n1. 오래된 로그 삭제\n2. 볼륨 확장",
            "severity": "warning",
            "fields": {"호스트": "db-1", "남은 용량": "18 GB"},
        },
        ("email", "slack", "telegram", "microsoft_teams"),
    ),
    Scene(
        {
            "title": "Database db-1 does not answer",
            "message": "No answer on port 5432 since **3 checks**.\n\n```\nconnection refused\n```\nRunbook: [failover](https://wiki.example.com/failover)",
            "severity": "critical",
            "url": "https://status.example.com/incidents/77",
            "fields": {"host": "db-1", "region": "eu-central"},
        },
        ("webhook", "slack", "discord", "telegram", "google_chat", "ntfy"),
        (Fault("discord"),),
    ),
    Scene(
        {"title": "Certificate expires in 7 days", "message": "Renew `shop.example.com` before it is too late.", "severity": "warning"},
        ("email", "webhook", "microsoft_teams"),
        (Fault("webhook", wait_seconds=3),),
    ),
    Scene(
        {
            "title": "Database db-1 is back",
            "message": "~~Down~~ up again after **4 min 12 s**. No data was lost.",
            "severity": "success",
            "url": "https://status.example.com/incidents/77",
        },
        ("slack", "discord", "telegram", "x", "google_chat", "ntfy"),
        (Fault("telegram", wait_seconds=3),),
    ),
    Scene(
        {
            "title": "New sign-in",
            "message": "Somebody signed in from **Busan** with a new device.",
            "fields": {"browser": "Firefox", "system": "Linux"},
        },
        ("email", "telegram"),
    ),
    Scene(
        {
            "title": "Nightly report",
            "message": "| shop | orders | returns |\n|---|---:|---:|\n"
            "| Seoul | 1204 | 12 |\n| Berlin | 988 | 31 |\n\n> Best Tuesday so far.",
            "url": "https://reports.example.com/today",
        },
        ("email", "webhook", "slack", "discord", "microsoft_teams"),
    ),
    Scene(
        {"title": "백업 완료", "message": "전체 백업이 **2분 8초** 만에 끝났습니다.", "severity": "success"},
        ("email", "discord", "telegram"),
    ),
)

# Played only once: after it the service has switched the handler off by itself.
FAREWELL = Scene(
    {"title": "Queue is growing", "message": "More than **5,000** jobs wait in `mail-out`.", "severity": "warning"}, ("slack", REVOKED)
)
