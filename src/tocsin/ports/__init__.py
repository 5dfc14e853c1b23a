"""The ports: what the flow asks of a store and of an engine, as protocols, and the structs that cross them.

Nothing here does anything. Secrets come and go sealed (`bytes`): a store never sees them in the clear.
"""
