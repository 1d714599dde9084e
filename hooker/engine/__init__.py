"""The worker's parts: hk0, the twin, the flow protocol, VTL's channels, put together. Cython without the GIL.

``hooker/_fastpath.pyx`` is the loop that uses them. Nothing here imports the control plane or the command.
"""
