"""The worker's parts: flows, twins, what goes from one to the other. Cython without the GIL.

``hooker/_fastpath.pyx`` is the loop that uses them. Nothing here imports the control plane or the command.
"""
