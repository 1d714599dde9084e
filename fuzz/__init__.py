"""Coverage-guided fuzzing of what reads bytes that others wrote. ``./dev fuzz --help``; docs/testing.md."""
