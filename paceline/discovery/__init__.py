"""Where the members of a pool are."""
