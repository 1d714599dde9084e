"""Entry point of the ``hooker`` command: what must be right before the rest is loaded.

Nothing but these few lines runs while Ctrl-C would end in a traceback, or while the number of a closed
standard stream could go to a pipe or socket of ours. Before them runs the interpreter's own start, 20 ms,
which can be spared that only from outside: who starts it may block SIGINT meanwhile.
"""

import os
import signal
import sys

BLOCKED = (
    "HOOKER_INTERRUPT_BLOCKED"  # set by who started us with SIGINT blocked (./dev), so that it waits for us
)


def main() -> None:
    """Run the command; exits with its status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to undo yet
        if os.environ.pop(BLOCKED, ""):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    hold_streams()
    from hooker.cli.commands import main as run

    run()


def hold_streams() -> None:
    """Occupy the numbers of closed standard streams until exec(): using them fails, as if they were closed.

    Standard error goes nowhere: what nobody can read is no failure.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, this one
    if sys.stdout is None:  # the interpreter found it closed
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


if __name__ == "__main__":
    main()
