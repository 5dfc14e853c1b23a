"""Keys that expire, from the command line and on the pages."""

import json
import re
from datetime import UTC, datetime, timedelta

from e2e.service import Client, Service, until
from web.conftest import EMAIL, Surfer, sql


def test_the_command_line_makes_keys_that_expire(served: Service) -> None:
    made = served.run("tocsin", "keys", "add", "cron", "--user", EMAIL, "--expires", "2999-01-31")
    assert made.returncode == 0, made.stderr
    client = Client(served.port, made.stdout.strip())
    assert client.get("/api/notification-handlers").status == 200
    [key] = [one for one in json.loads(served.run("tocsin", "keys", "list", "--json").stdout) if one["name"] == "cron"]
    assert key["expires_datetime"] == "2999-01-31 23:59:59"
    assert "valid" in served.run("tocsin", "keys", "list").stdout
    sql(served, "UPDATE keys SET expires_at = 1 WHERE name = 'cron'")
    until(lambda: client.get("/api/notification-handlers").status == 401, 2.0, "the key still works")
    unknown = Client(served.port, "tk_unknownunknownunknown").get("/api/notification-handlers")
    assert client.get("/api/notification-handlers").content == unknown.content
    assert "expired" in served.run("tocsin", "keys", "list").stdout
    for date, code, said in (("2020-01-01", 1, "in the future"), ("soon", 2, "--expires takes"), ("2027-02-30", 2, "no such day")):
        wrong = served.run("tocsin", "keys", "add", "x", "--user", EMAIL, "--expires", date)
        assert wrong.returncode == code and said in wrong.stderr, wrong.stderr


def test_the_pages_make_keys_that_expire_at_the_end_of_a_day_of_the_reader(surfer: Surfer, served: Service) -> None:
    surfer.post("/account/time-zone", csrf=surfer.token(), time_zone="Asia/Seoul")
    day = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%d")
    page = surfer.post("/keys", csrf=surfer.token(), name="cron", scopes=["handlers:read"], expires=day)
    key = re.findall(r"tk_\w{20,}", page.text)[0]
    assert f"{day} 23:59:59 UTC+09:00" in page.text
    assert Client(served.port, key).get("/api/notification-handlers").status == 200
    for wrong, said in (("2020-01-01", "in the future"), ("soon", "not a day")):
        answer = surfer.post("/keys", csrf=surfer.token(), name="x", scopes=["handlers:read"], expires=wrong)
        assert answer.status == 422 and said in answer.text
    sql(served, "UPDATE keys SET expires_at = 1 WHERE name = 'cron'")
    assert "expired" in surfer.get("/keys").text
