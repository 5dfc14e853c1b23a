"""The two outgoing wires and the addresses they may reach."""
