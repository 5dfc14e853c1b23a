"""What the service itself mails to users where several processes share a store: sent by a process that sends mail, whichever one tells."""

from support.cluster import cluster
from tocsin.flow.handlers.trial import Letter

LETTER = Letter("How you sign in has changed", "A *new* password was set.")


def test_a_letter_goes_out_from_who_sends_mail_whichever_process_tells() -> None:
    with cluster(21) as made:
        nodes = [made.node() for _ in range(3)]
        made.world.run(5.0)
        for number, node in enumerate(nodes):
            node.process.do(node.process.spawn, node.mail(f"user{number}@example.com", LETTER))
        made.world.run(5.0)
        assert [one if isinstance(one, str) else one.status for one in made.trials] == ["delivered"] * 3
        assert len({one.node for one in made.tested}) == 1, "one process sends all mail"
        assert [(one.title, one.text, one.is_text, one.kind) for one in made.letters] == [(LETTER.title, LETTER.text, True, "account")] * 3
        assert not made.server.asks
        made.check()
