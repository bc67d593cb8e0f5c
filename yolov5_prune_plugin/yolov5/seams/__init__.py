"""What we know of upstream's folders and scripts: which name carries which event, and how it is wrapped."""
