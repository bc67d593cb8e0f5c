"""Many processes side by side: on this machine or on a Ray cluster."""
