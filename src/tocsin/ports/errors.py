"""What goes wrong with a store as a whole."""


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the operator."""
