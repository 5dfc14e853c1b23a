"""Watching deliveries, and sending them again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from receiver import Receiver
from test_support import hook, moment, until

PATH = "/api/deliveries"
KEYS = [
    *["id", "notification_id", "notification_handler_id", "status", "attempt_count", "next_attempt_datetime", "last_error"],
    *["datetime", "last_datetime"],
]
