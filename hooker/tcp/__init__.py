"""A TCP endpoint in user space that plays the remote end towards this host's own TCP: no socket, no clock.

``segment`` reads and makes segments, ``twin`` is the endpoint, ``sansio`` both for Python (docs/twin.md).
"""
