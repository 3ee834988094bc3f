"""mailbox -> message -> reading -> decision -> remove."""
