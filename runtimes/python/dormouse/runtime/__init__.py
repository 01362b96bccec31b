"""The runtime itself: nothing of it is for handlers."""
