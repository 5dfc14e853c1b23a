"""What goes wrong with a store. One that cannot answer now raises `tocsin.model.Busy`; what its driver raises never leaves it."""

from msgspec import Struct

from tocsin.model import Busy


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the operator."""


class Damaged(Busy):
    """The store is damaged where something was to be read or written; `sentence` says so to the operator."""

    def __init__(self, sentence: str) -> None:
        super().__init__("the store is damaged", 60)
        self.sentence = sentence


class WriteFailed(Exception):
    """The database refused this write, whenever it is tried; the message is the database's own, without SQL and values."""


class OwnerGone(WriteFailed):
    """What was to be written belongs to a user who was deleted meanwhile."""


class Finding(Struct, frozen=True):
    """One sentence to an operator. `is_fault` False: worth knowing, but it may be meant."""

    text: str
    is_fault: bool = True

    @property
    def level(self) -> str:
        """As `tocsin check` writes it."""
        return "wrong" if self.is_fault else "note"
