"""What the service costs over its own HTTP client, and how it compares with Apprise's library; all in one run, on one machine."""
