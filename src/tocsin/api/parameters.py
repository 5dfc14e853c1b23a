"""Every parameter of the API, grouped as the endpoints take them."""

from tocsin.api import kinds
from tocsin.api.endpoint import Parameter
from tocsin.channels.contract import Field, fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow.handlers.states import STATES
from tocsin.model import FORMATS, MAX_MESSAGE_BYTES, Severity, Status

MAX_TITLE = 256
MAX_BATCH_ITEMS = 1000
MAX_SEARCH = 1024
OPTIONAL = "Optional: once set, an empty value clears it."
PAGE_SIZES = (10, 25, 50, 100, 250, 500, 1000)

PAGING = (
    Parameter("page", kinds.integer(1, 10**9), "The page of results that you want.", default=1),
    Parameter("results_per_page", kinds.one_of(PAGE_SIZES), "How many results a page has.", default=25),
)

_ORDERS = ["notification_handler_id", "datetime", "last_datetime", "name"]
_HANDLER_FILTER = (
    Parameter("search", kinds.text(MAX_SEARCH), "Text to look for; case does not matter.", default="", may_be_empty=True),
    Parameter("search_by", kinds.choice(["name"]), "Which field to search.", default="name"),
    Parameter("is_enabled", kinds.BOOLEAN, "Only enabled, or only disabled ones."),
    Parameter("type", kinds.choice(list(CHANNELS)), "Only those of this type."),
    Parameter(
        "datetime_field",
        kinds.choice(["datetime", "last_datetime"]),
        "Which time `datetime_start` and `datetime_end` apply to.",
        default="datetime",
    ),
    Parameter("datetime_start", kinds.TIME, "Only those from this time on."),
    Parameter("datetime_end", kinds.TIME, "Only those up to this time."),
    Parameter("state", kinds.choice(STATES), "Only those in this state."),
)
_ORDER_TYPE = Parameter("order_type", kinds.choice(["ASC", "DESC"]), "Ascending or descending.", default="ASC")

HANDLER_LIST = (
    *PAGING,
    *_HANDLER_FILTER,
    Parameter("order_by", kinds.choice(_ORDERS), "What the results are sorted by.", default="notification_handler_id"),
    _ORDER_TYPE,
)
HANDLER_STATES = (
    *PAGING,
    *_HANDLER_FILTER,
    Parameter("order_by", kinds.choice(_ORDERS), "What the results are sorted by. Default: failing ones first."),
    _ORDER_TYPE,
)

_STATUSES = kinds.choice([status.word for status in Status])

OPENAPI = (
    Parameter(
        "bodies",
        kinds.choice(["all", "json"]),
        "Which types of bodies are described: `json` alone for generators that cannot choose between several.",
        default="all",
    ),
)

DELIVERY_FILTER = (
    Parameter("notification_id", kinds.ID, "Only the deliveries of this notification."),
    Parameter("notification_handler_id", kinds.ID, "Only the deliveries to this handler."),
    Parameter("status", _STATUSES, "Only the deliveries with this status.", example="failed"),
    Parameter("datetime_start", kinds.TIME, "Only those accepted from this time on."),
    Parameter("datetime_end", kinds.TIME, "Only those accepted up to this time."),
    Parameter("search", kinds.text(MAX_SEARCH), "Text to look for in title, message and last error.", default="", may_be_empty=True),
)

DELIVERY_LIST = (*PAGING, *DELIVERY_FILTER)


def _described(kind: str, field: Field) -> str:
    return f"For type = {kind}: {field.title}. {field.help}{f' {OPTIONAL}' if field.is_optional else ''}"


def _settings() -> tuple[Parameter, ...]:
    return tuple(
        Parameter(name, kinds.RAW, _described(channel.type, field), example=field.example)
        for channel in CHANNELS.values()
        for name, field in fields_of(channel.settings).items()
    )


_TYPES = kinds.Kind("text", kinds.RAW.read, {"type": "string", "enum": list(CHANNELS)})


def _handler_fields(*, is_new: bool) -> tuple[Parameter, ...]:
    """`required` is only for the documentation: flow checks the rules that depend on the type, including this one."""
    return (
        Parameter("name", kinds.NAME, "Its name: 1 to 256 characters.", required=is_new, example="Example"),
        Parameter("type", _TYPES, f"One of {', '.join(CHANNELS)}.", required=is_new, example="email"),
        *_settings(),
        Parameter("is_enabled", kinds.BOOLEAN, "Whether it is enabled. New handlers are enabled by default.", example=True),
    )


NEW_HANDLER = _handler_fields(is_new=True)
CHANGED_HANDLER = _handler_fields(is_new=False)

NOTIFICATION_FIELDS = (
    Parameter(
        "message",
        kinds.long_text(MAX_MESSAGE_BYTES),
        f"The message, in Markdown: up to {MAX_MESSAGE_BYTES:,} bytes of UTF-8. Raw HTML is shown as text.",
        required=True,
        example="Disk of **db-1** is 91 % full",
    ),
    Parameter(
        "format",
        kinds.choice(FORMATS),
        "The format of the message: markdown, or text, which is shown exactly as it was sent. Default: markdown.",
        empty_is_absent=True,
        example="text",
    ),
    Parameter(
        "title",
        kinds.text(MAX_TITLE, one_line=True),
        f"Plain text up to {MAX_TITLE} characters; line breaks become spaces.",
        example="Disk",
    ),
    Parameter(
        "severity",
        kinds.choice([*Severity]),
        f"Severity: {', '.join(Severity)}. Default: info.",
        empty_is_absent=True,
        example="warning",
    ),
    Parameter("url", kinds.URL, "Where to read more: an http or https URL.", empty_is_absent=True, example="https://example.com/db-1"),
    Parameter(
        "fields",
        kinds.FIELDS,
        f"Up to {kinds.MAX_FIELDS} names (to {kinds.MAX_FIELD_NAME} characters) with values (to {kinds.MAX_FIELD_VALUE:,}); numbers and "
        "booleans become text. In forms `fields[host]=db-1`, or one JSON text.",
        empty_is_absent=True,
        example={"host": "db-1"},
    ),
    Parameter(
        "handlers",
        kinds.HANDLERS,
        "Ids of the handlers it goes to. Default: all enabled ones. In forms repeated, `handlers[]` or comma-separated.",
        repeats=True,
    ),
    Parameter("send_at", kinds.TIME, "When to send it, at most a year ahead; a time in the past means now.", empty_is_absent=True),
    Parameter("expires_at", kinds.TIME, "Deliveries that have not arrived by then expire. Must be after `send_at`.", empty_is_absent=True),
)

BATCH = (
    Parameter(
        "notifications",
        kinds.objects(MAX_BATCH_ITEMS),
        f"1 to {MAX_BATCH_ITEMS} notifications; all are accepted, or none.",
        required=True,
        items=NOTIFICATION_FIELDS,
    ),
)
