"""Notifications as they are sent in practice, for the goldens and for the benchmark."""

from tocsin.model import Message, Severity

AT = 1_795_514_400_000_000  # 2026-11-24 10:00:00 UTC
_LOG = '2026-11-24 09:58:{0:02} db-1 postgres[{1}]: ERROR:  could not extend file "base/16384/{1}": No space left on device\n'
_KOREAN = "결제 서버의 응답 시간이 평소보다 **세 배** 길어졌습니다. 원인을 찾는 동안 일부 요청은 실패할 수 있습니다. "

_INFO, _SUCCESS, _WARNING, _CRITICAL = Severity.INFO, Severity.SUCCESS, Severity.WARNING, Severity.CRITICAL


def _message(text: str, title: str = "", severity: Severity = _INFO, url: str = "", **fields: str) -> Message:
    return Message(text, title, severity, url, tuple((name.replace("_", " "), value) for name, value in fields.items()), AT)


CORPUS: dict[str, Message] = {
    "disk-full": _message(
        "**db-1** has `2 %` left on `/var/lib/postgresql`.\n\nIt fills at about 1 GB an hour.",
        "Disk is full",
        _CRITICAL,
        "https://grafana.example.com/d/disk?var-host=db-1&from=now-6h",
        host="db-1",
        mount="/var/lib/postgresql",
        free="2 %",
    ),
    "deploy": _message(
        "`shop` **v2.41.0** is live after 4 min 12 s.\n\n- 14 commits by @mina and @joe\n- migrations: *none*\n- [what changed](https://git.example.com/shop/compare/v2.40.3...v2.41.0)",
        "Deployed shop v2.41.0",
        _SUCCESS,
        environment="production",
        region="ap-northeast-2",
    ),
    "ci-failed": _message(
        "Build [#4711](https://ci.example.com/b/4711) of `main` failed in **unit tests**:\n\n"
        "```python\ndef test_total():\n>   assert total([1, 2]) == 4\nE   assert 3 == 4\n```\n\n1 failed, 2,631 passed in 187 s.",
        "main is red",
        _WARNING,
        "https://ci.example.com/b/4711",
    ),
    "prometheus": _message(
        "**HighErrorRate** fires since 09:41:\nmore than 5 % of requests to `checkout` fail.",
        "[FIRING:2] HighErrorRate checkout",
        _CRITICAL,
        "https://prometheus.example.com/graph?g0.expr=rate(http_errors_total%5B5m%5D)&g0.tab=0",
        alertname="HighErrorRate",
        job="checkout",
        instance="10.0.3.17:9090",
        team="payments",
        runbook="https://wiki.example.com/runbooks/high_error_rate",
    ),
    "backup-report": _message(
        "Nightly backups are done.\n\n| host | size | took | state |\n|:--|--:|--:|:-:|\n| db-1 | 41.2 GB | 18 min | ok |\n"
        "| db-2 | 40.9 GB | 17 min | ok |\n| files | 1.3 TB | 3 h 2 min | **late** |\n\nNext run at 02:00.",
        "Backups",
        _SUCCESS,
    ),
    "handover": _message(
        "## On call: week 48\n\n1. **Database**\n   - watch the replica of `db-2`\n     - lag was 40 s on Monday\n   - vacuum is off\n2. **Mail**\n"
        "   - [x] new certificate\n   - [ ] SPF record\n     1. ask Jun\n     2. then change it\n\n> If in doubt, call.\n> It is never too early.\n\n---\n\nThanks!",
        "Handover",
        url="https://wiki.example.com/on-call",
    ),
    "feedback-korean": _message(
        "**김민지** 고객이 새 의견을 남겼습니다.\n\n> 결제가 두 번 되었어요. 확인해 주세요!\n\n- 주문: `A-20261124-0007`\n- 금액: 39,000원\n- [주문 보기](https://shop.example.com/orders/A-20261124-0007)",
        "새 고객 의견",
        _WARNING,
        고객="김민지",
        등급="VIP",
    ),
    "korean-endings": _message(
        "**서버**가 *느립니다*. `api`는 괜찮지만 [대시보드](https://grafana.example.com/)에서 **빨간색**으로 보입니다. "
        "자세한 것은 https://status.example.com에서 볼 수 있고, ~~점검~~은 취소되었습니다.",
        "서버가 느립니다",
        _WARNING,
    ),
    "arabic": _message(
        "الخادم **db-1** لا يستجيب منذ الساعة 09:41.\n\n- المنطقة: `ap-northeast-2`\n- [لوحة المراقبة](https://grafana.example.com/d/db)",
        "الخادم لا يستجيب",
        _CRITICAL,
    ),
    "hebrew-mixed": _message("השרת `api` חזר לפעול אחרי 12 דקות (restart by *mina*).", "חזר לפעול", _SUCCESS),
    "emoji": _message("Well done 👍🏽 team 👩‍👩‍👧‍👦 from 🇰🇷 to 🇧🇷: 1️⃣ place! ❤️‍🔥 **🎉 party 🎉** at 17:00", "🎉 We won", _SUCCESS),
    "stack-trace": _message(
        "```\nTraceback (most recent call last):\n  File \"/srv/app/main.py\", line 42, in <module>\n    run(argv[1:])\n  File \"/srv/app/run.py\", line 7, in run\n"
        "    raise ValueError(f\"bad <id>: {value!r}\")\nValueError: bad <id>: 'a&b'\n```",
        "ValueError in main.py",
        _CRITICAL,
        "https://sentry.example.com/issues/99",
        release="2.41.0",
    ),
    "sql": _message("Slow query (12.4 s):\n\n```sql\nSELECT id FROM orders WHERE total > 100 AND note <> '' AND a & 1 = 1;\n```", "Slow query", _WARNING),
    "json": _message('Webhook body:\n\n```json\n{"id": 7, "ok": false, "tags": ["a", "b"], "html": "<b>&amp;</b>"}\n```', "Unexpected answer"),
    "windows-paths": _message("Cannot write to C:\\Users\\svc_backup\\AppData\\Local\\*.tmp nor to \\\\nas\\share\\_old\\", "Backup of WIN-7", _WARNING),
    "links": _message(
        "See https://en.wikipedia.org/wiki/Bell_(instrument), <https://example.com/a_b*c?d=e&f=g#h>, [the docs (v2)](https://example.com/docs/(v2)) "
        "or [https://example.com](https://example.org). Write to ops@example.com or <ops@example.com>.",
        "Links",
    ),
    "local-link": _message("The NAS is at [its page](http://nas:5000/) and http://nas:8080/x, the router at http://192.168.0.1/.", "NAS", url="http://nas:8080/status"),
    "images": _message("Load of the last hour:\n\n![load of db-1](https://example.com/load.png)\n\n[![badge](https://example.com/b.svg)](https://example.com/ci)", "Load"),
    "raw-html": _message('<b>Not bold</b> &amp; <script>alert("x")</script>\n\n<div class="note">\nA *note*\n</div>', "<i>HTML</i> & more"),
    "mentions": _message("@channel @everyone @here @all <!here> <@U0123> <@&456> <#789> please look", "@everyone look", _WARNING, who="@all"),
    "headings": _message("# One\n## Two\n### Three\n#### Four\n##### Five\n###### Six\n\nWords under them.", "Headings"),
    "quotes": _message("> Jun wrote:\n>\n> > It is *the cache*.\n>\n> - clear it\n> - then\n>\n> ```sh\n> systemctl restart app\n> ```\n\nDone.", "Re: slow"),
    "wide-table": _message(
        "| 서비스 | 상태 | 설명 |\n|---|---|---|\n| 결제 | 정상 | - |\n| 検索 | 遅い | インデックスを再構築しています |\n| mail | down | relay `mx-2` does not answer since 08:15, see [ticket](https://example.com/t/1) |",
        "상태",
        _WARNING,
    ),
    "long-log": _message("The log of the last minutes:\n\n```\n" + "".join(_LOG.format(n % 60, 16000 + n) for n in range(330)) + "```\n\nThat was all.", "Log", _CRITICAL),
    "long-korean": _message(_KOREAN * 130, "응답 시간"),
    "many-fields": Message(
        "All limits at once.", "Quota report", _INFO, "", tuple((f"metric {n:02}", f"{n * 37 % 100} % of " + "the quota " * (n % 7 + 1)) for n in range(25)), AT
    ),
    "only-spaces": _message(" \u200b \u200b ", "Nothing to say"),
    "only-a-link": _message("https://example.com/very/long/path?with=query&and=more"),
    "only-an-image": _message("![](https://example.com/x.png)"),
    "controls": _message("bell \x07, escape \x1b[31mred\x1b[0m, tab\tand null-like \x0bthings\r\nnext line", "Con\x08trol", _WARNING, odd="a\x1bb"),
    "struck": _message("~~Maintenance on Friday~~ moved to **Saturday, 02:00** UTC", "Maintenance"),
    "starts-at-seven": _message("7. seventh\n8. eighth\n\nand\n\n1) first\n2) second", "Numbers"),
    "hard-breaks": _message("Roses are red,  \nviolets are blue,\\\nsoft break\nhere.", "Poem"),
    "maths": _message("Costs rose by $5_000 * 1.1 = $5_500; see note[^1] and f(x) = x^2_i.\n\n[^1]: rounded", "Budget", _WARNING),
    "diff": _message("```diff\n- timeout: 5\n+ timeout: 30\n  retries: 3\n```\n\nby *mina*, reviewed by **jun**", "app.yaml changed"),
    "cron": _message("Cron <root@web-1> test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )\n\n/etc/cron.daily/logrotate:\nerror: error renaming temp state file /var/lib/logrotate/status.tmp", "Cron web-1"),
    "newsletter": _message(
        "# This week\n\nHello **everybody**,\n\nwe shipped *three* things:\n\n1. [Dark mode](https://example.com/dark)\n2. Export as `CSV`\n3. ~~Fax~~ (next week)\n\n## Numbers\n\n"
        "| | now | before |\n|---|---:|---:|\n| users | 1,204 | 1,180 |\n| errors | 3 | 17 |\n\n> “I love it.” (Jo)\n\nSee you,\nthe team",
        "Weekly",
        _SUCCESS,
        "https://example.com/weekly/48",
    ),
    "late-in-nepal": _message("The backup of **db-1** failed:\n\n- no space left", "Backup", _CRITICAL, "https://example.com/backups/7", host="db-1"),
    "timeline": _message("- 09:41 alert\n- 09:43 *mina* answers\n- 09:55 cause found: `max_connections`\n- 10:02 **fixed**\n\nDowntime: 21 min", "Incident 12 is over", _SUCCESS, lasted="21 min"),
}  # fmt: skip

MARKED_ADDRESSES = [
    "https://kibana.example.com/#/?_a=(columns:!(_source),query:'*error*')",
    "https://jenkins.example.com/job/a_b_c/job/*main*/_x_y/",
    "https://s3.example.com/bucket/it's~~old~~/__init__.py",
    "https://ko.wikipedia.org/wiki/대한민국_*지도*_(역사)",
    "ftp://files.example.com/backup_*old*/_db_1.tar",
]
"""Addresses full of what Markdown takes for marks."""
