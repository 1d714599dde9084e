"""The flow protocol between two engines (docs/flow.md): what they say, and which state a flow is in.

No descriptor, no clock, no thread, nothing of the engine: time, segments and messages are arguments.
"""
