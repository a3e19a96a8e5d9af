"""Every decision about drafts as pure state machines: events in, actions out, the time passed in."""
