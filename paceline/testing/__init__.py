"""Fakes of our ports and whole stacks in one process, for our tests and for users' own; nothing else imports them."""
