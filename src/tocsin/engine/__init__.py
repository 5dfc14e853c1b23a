"""The engine of one process, for the port `tocsin.ports.engine`."""
