"""`make screenshots`: the delivery log as the README shows it, from a real service and in a real browser."""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from e2e.service import Client, Service
from receiver import Receiver
from web.conftest import EMAIL, PASSWORD, sign_in

NIGHT = (
    ("Backup of db-1 finished", "412 GB in 38 min, **0 errors**", "success"),
    ("Certificate of example.com", "It expires in **7 days**.", "warning"),
    ("Deploy 2025.11.4", "All 12 hosts run the new version.", "info"),
    ("Disk of db-1", "**91 %** full: 41 GiB of 586 GiB are free.", "critical"),
)


def _fill(client: Client, receiver: Receiver) -> None:
    receiver.answer("/services/T0/B0/alerts", 200, body=b"ok")
    for _ in NIGHT[1:]:
        receiver.answer("/hook", 200)
        receiver.answer("/api/webhooks/1/ops", 200)
    receiver.answer("/hook", 500, body=b'{"error": "upstream timed out"}')
    receiver.answer("/hook", 200)
    receiver.answer("/api/webhooks/1/ops", 404, body=b'{"message": "Unknown Webhook", "code": 10015}')
    handlers = [
        client.add_handler("slack", "#alerts", slack=receiver.url("/services/T0/B0/alerts")),
        client.add_handler("webhook", "On-call pager", webhook=receiver.url("/hook")),
        client.add_handler("discord", "운영팀", discord=receiver.url("/api/webhooks/1/ops")),
    ]
    for title, text, severity in NIGHT:
        client.settled(client.send(text, title=title, severity=severity, handlers=handlers), 30)


def main(picture: Path) -> None:
    path = shutil.which("chromium")
    if path is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver, sync_playwright() as playwright:
        settings = {"TOCSIN_RETRY_SCHEDULE": "1s,1s", "TOCSIN_BOOTSTRAP_EMAIL": EMAIL, "TOCSIN_BOOTSTRAP_PASSWORD": PASSWORD}
        service = Service(Path(folder), **settings).start()
        try:
            _fill(service.first(), receiver)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(base_url=f"http://127.0.0.1:{service.port}", viewport={"width": 1100, "height": 640}, locale="en-US")
            sign_in(page)
            page.goto("/log")
            page.click(".rows .row:has-text('Disk of db-1'):has-text('On-call pager') .name")
            page.wait_for_selector("#drawer article")
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=picture)
        finally:
            service.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
