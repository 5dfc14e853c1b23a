"""The ports: what the flow needs from a store and an engine, as small protocols, each beside the structs that it exchanges.

There is no logic here. A class is given only the ports that it uses, not the whole store. A store's methods are awaited: a write returns
after its commit, a read sees committed rows only, and both raise Busy if the store cannot answer now. Three of them call back within the
commit's answer, before anything that follows from it: `Intake.accept`, `PendingNotices.tell` and `Queue.settle`. Secrets are passed sealed
(`bytes`): a store never sees them in the clear.
"""
