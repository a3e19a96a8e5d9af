"""The front of the system: owns every session's life between the client, the store, a verifier and a drafter."""
