"""One table of names, light spans with an in-memory ring, Prometheus metrics, JSON logs; OTLP when configured."""
