"""The corridor: accept, plan, deliver, pace, settle."""
