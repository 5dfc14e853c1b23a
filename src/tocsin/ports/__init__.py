"""The ports: what the flow asks of a store and of an engine, as small protocols, each beside the structs that cross it.

Nothing here does anything. Whoever needs one port is given that one, not the whole store. A store's methods are awaited: a write
returns after its commit, a read sees what is committed, and both raise Busy when the store cannot answer now. Two writes of the hot path
are told of their commit besides, within its answer: `Intake.accept` and `Queue.settle`. Secrets come and go sealed (`bytes`): a store
never sees them in the clear.
"""
