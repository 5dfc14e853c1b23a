"""tocsin: a notification service that delivers what it accepts."""

__version__ = "0.2.0"
