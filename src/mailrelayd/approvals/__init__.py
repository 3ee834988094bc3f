"""From a reply to a decision: what a mail is, what is new in it, what that says."""
