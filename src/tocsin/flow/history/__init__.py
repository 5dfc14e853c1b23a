"""History: looking at what was sent, cancelling and sending again."""
