"""The store in SQL, for the ports of `tocsin.ports`."""
