"""Who looks after mail does not sit in front of a log: a digest by mail, and a sign of life for those who watch."""
