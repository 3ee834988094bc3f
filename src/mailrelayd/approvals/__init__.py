"""Approvals: a request goes out, a person answers by mail, a decision comes back."""
