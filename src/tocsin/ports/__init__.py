"""The ports: what the flow needs from a store and an engine, as protocols, and the structs that they exchange.

There is no logic here. Secrets are passed sealed (`bytes`): a store never sees them in the clear.
"""
