"""The verifier process: one target model, continuous batching over many sessions, one stream per coordinator."""
