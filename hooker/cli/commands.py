"""The ``hooker`` command. Bad input is one line on standard error and exit status 2."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import hooker
from hooker import checks
from hooker.cli.session import Options, make_engine, running
from hooker.cli.stopped import Stopped
from hooker.control import cgroup
from hooker.control.interfaces import names
from hooker.control.policy import Policy
from hooker.control.rules import EXAMPLE as RULE_EXAMPLE
from hooker.control.rules import MOST_RULES
from hooker.errors import ConfigurationError, HookerError, describe_os_error, remedy_for, require_root
from hooker.transports import DEFAULT_PORT

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
MAX_LINGER = 3600.0  # s

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.ParamType):
    """A finite number from ``low`` to ``high``; whole if both are."""

    name = "number"

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            if isinstance(self.low, int) and isinstance(self.high, int):
                return checks.integer("number", value, self.low, self.high)
            return checks.real("number", value, self.low, self.high)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


def several(*names: str, metavar: str, **settings: Any) -> Decorator:
    """An option that takes a list with commas and may be given again: ``--port 80 --port 443``."""

    def join(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
        return ",".join(values) if values else None

    option: Decorator = click.option(*names, metavar=metavar, multiple=True, callback=join, **settings)
    return option


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that ``run`` and ``up`` share."""
    options: list[Decorator] = [
        several("--to", metavar="PREFIXES", help="Only these hosts, as in 10.0.0.0/8,fd00::/8."),
        several("--port", metavar="PORTS", help="Only these TCP ports, as in 80,443,8000-8010."),
        click.option(
            "--intercept",
            type=click.Choice(["segments", "messages"]),
            metavar="[segments|messages]",
            default="segments",
            show_default=True,
            help="Take what the applications' TCPs send, or what applications send.",
        ),
        click.option(
            "--hold",
            is_flag=True,
            help="With segments: let new connections wait for the peer's engine; messages always do.",
        ),
        several(
            "--transport",
            metavar="NAMES",
            default=["vtl"],
            help="What to move onto, first choice first, as in vtl,tcp; vtl by default.",
        ),
        click.option(
            "--key-file",
            metavar="PATH",
            help="Encrypt, with the peers that have the same key; leave all others to TCP.",
        ),
        click.option(
            "--congestion", metavar="NAME", default="auto", show_default=True, help="Congestion control."
        ),
        click.option(
            "--reliability",
            metavar="NAME",
            default="selective-repeat",
            show_default=True,
            help="What becomes of lost packets, as in go-back-n:window=64 or partial:deadline=200ms.",
        ),
        click.option(
            "--rule",
            "rules",
            metavar="RULE",
            multiple=True,
            help=f"How to move connections of some services or hosts, as in '{RULE_EXAMPLE}'.",
        ),
        click.option(
            "--fec/--no-fec", default=True, help="Forward error correction where the path loses packets."
        ),
        click.option(
            "--listen-port",
            metavar="PORT",
            type=Number(0, 65535),
            help=f"UDP port of the transport; 0 takes any free one. {DEFAULT_PORT} by default.",
        ),
        click.option(
            "--redirect",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Let non-blocking sockets' messages take the redirect socket; auto: if nobody can tell.",
        ),
        click.option(
            "--trail",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="With segments: show firewalls on the way where flows stand; auto: where there is NAT.",
        ),
        click.option(
            "--xdp",
            metavar="IFACE[:MODE][,...]",
            help="Where a program meets handshakes and garbage before the kernel does.",
        ),
        click.option(
            "--busy-poll",
            metavar="MICROSECONDS",
            type=Number(0, 10000),
            default=100,
            show_default=True,
            help="Wait awake for so long while answers come fast; 0 always sleeps.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say on standard error what happens to flows."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hooker.__version__, prog_name="hooker", message="%(prog)s %(version)s")
def cli() -> None:
    """Moves the data of unmodified TCP applications onto other transport protocols."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
def doctor(as_json: bool) -> int:
    """Check what this machine has, and say what to do about what it lacks."""
    from hooker.cli.doctor import examine

    return examine(as_json=as_json)


@cli.command(context_settings={"allow_interspersed_args": False})
@engine_options
@click.option(
    "--linger",
    metavar="SECONDS",
    type=Number(0.0, MAX_LINGER),
    default=10.0,
    show_default=True,
    help="How long the command's last bytes may take to arrive after it has ended.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], linger: float, **settings: Any) -> int:
    """Run COMMAND with its TCP connections hooked.

    Exit status, signals and standard streams are the command's own.
    """
    from hooker.cli.launch import Launcher

    options = _options(**settings)
    require_root("hooker run")
    return Launcher(options, command, linger=linger).run()


@cli.command()
@engine_options
@click.option("--cgroup", "group", metavar="PATH", help="Whose processes to hook; all by default.")
@click.option(
    "--ready-fd",
    metavar="FD",
    type=Number(0, 2**31 - 1),
    help="Write 'ready' there once connections are hooked.",
)
def up(group: str | None, ready_fd: int | None, **settings: Any) -> int:
    """Hook the connections of a cgroup's processes until interrupted."""
    options = _options(**settings, default_port=DEFAULT_PORT)
    require_root("hooker up")
    path = cgroup.root() if group is None else cgroup.check(group)
    if ready_fd is not None:
        _check_descriptor(ready_fd)
    make_engine(options, path, 0).probe()  # while signals still end us: there is nothing to undo
    stop = Stopped()
    with running(options, path) as engine:
        _say_ready(engine.snapshot()["engine"], ready_fd)
        stop.wait()
    return 0


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
def transports(as_json: bool) -> int:
    """List what connections can be moved onto, and why not."""
    from hooker.cli.transports import show

    show(as_json=as_json)
    return 0


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
def status(as_json: bool) -> int:
    """Show the live engines with their peers and flows."""
    from hooker.control import status_socket

    found, silent = status_socket.answers()
    if not found and not silent:
        require_root("hooker status")  # engines are root's, and answer nobody else
    if as_json:
        print(json.dumps({"engines": found, "silent": silent}))
    else:
        from rich.console import Console

        from hooker.cli.status import show

        show(found, Console(), silent)
    return 0


@cli.command()
@click.option(
    "--listen", metavar="[ADDRESS:]PORT", help="Serve them by HTTP until interrupted; 127.0.0.1 by default."
)
def metrics(listen: str | None) -> int:
    """Print what the live engines count, for Prometheus."""
    try:
        import hooker.cli.metrics as command
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise ConfigurationError(
            "the Python package prometheus-client is not installed",
            remedy="pip install prometheus-client, or hooker[metrics]",
        ) from None
    if listen is None:
        command.show()
    else:
        command.serve(listen, Stopped())
    return 0


@cli.command("set")
@click.option("--transport", metavar="NAMES", help="What new connections are moved onto, first choice first.")
@click.option("--reliability", metavar="NAME", help="VTL's function for them.")
@click.option("--rule", metavar="NUMBER", type=Number(0, MOST_RULES), help="Of its rules, the one to change.")
@click.option(
    "--pid", metavar="PID", type=Number(1, 2**31 - 1), help="Of which engine; there may be only one else."
)
def change(transport: str | None, reliability: str | None, rule: int | None, pid: int | None) -> int:
    """Change settings of a running engine, for connections that begin from now on."""
    from hooker.control import status_socket

    require_root("hooker set")
    settings: dict[str, str | int] = {
        name: value
        for name, value in (("transport", transport), ("reliability", reliability))
        if value is not None
    }
    if not settings:
        raise ConfigurationError(
            "nothing is to be set", remedy="hooker set --transport NAMES, or --reliability NAME"
        )
    if rule:
        settings["rule"] = rule
    engine = status_socket.change(_only_engine() if pid is None else pid, settings)["engine"]
    way = engine["rules"][rule - 1] if rule else engine
    print(f"engine {engine['pid']}: {way['transport']}, {way['reliability']}, from now on")
    for name, why in engine["skipped"].items():
        print(f"skipped {name}: {why}")
    return 0


def _only_engine() -> int:
    """Its pid. Raises ConfigurationError unless there is one."""
    from hooker.control import status_socket

    found, silent = status_socket.answers()
    pids = [int(snapshot["engine"]["pid"]) for snapshot in found] + list(silent)
    if not pids:
        raise ConfigurationError("no engine is running", remedy="hooker up, or hooker run")
    if len(pids) > 1:
        raise ConfigurationError(
            f"{len(pids)} engines are running", remedy=f"--pid {' or '.join(map(str, pids))}"
        )
    return pids[0]


@cli.command()
def key() -> int:
    """Make a key for --key-file: hooker key > FILE."""
    from hooker.control import keyfile

    if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
        try:
            os.fchmod(sys.stdout.fileno(), 0o600)  # before there is something to read
        except OSError as error:
            raise ConfigurationError(
                f"the file of standard output cannot be closed to other users: {error.strerror}",
                remedy="name a new file, or one of your own: hooker key > FILE",
            ) from None
    print(keyfile.make())
    return 0


def _options(
    *,
    to: str | None,
    port: str | None,
    intercept: str,
    hold: bool,
    transport: str,
    congestion: str,
    reliability: str,
    rules: Sequence[str],
    fec: bool,
    key_file: str | None,
    listen_port: int | None,
    redirect: str,
    trail: str,
    xdp: str | None,
    busy_poll: int,
    verbose: bool,
    default_port: int | None = None,
) -> Options:
    """``default_port`` None: the well-known one if it is free, else any."""
    return Options(
        policy=Policy.parse(port=port, to=to, rules=rules),
        intercept=intercept,
        hold=hold,
        transport=transport,
        congestion=congestion,
        reliability=reliability,
        fec=fec,
        key_file=key_file,
        listen_port=default_port if listen_port is None else listen_port,
        redirect=redirect,
        trail=trail,
        xdp=() if xdp is None else names(xdp),
        busy_poll=busy_poll / 1e6,
        verbose=verbose,
    )


def _is_writable(descriptor: int) -> bool:
    """Raises OSError when it is not open."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _check_descriptor(descriptor: int) -> None:
    try:
        writable = _is_writable(descriptor)
    except OSError:
        raise ConfigurationError(f"file descriptor {descriptor} is not open") from None
    if not writable:
        raise ConfigurationError(f"file descriptor {descriptor} is not open for writing")


def _say_ready(engine: dict[str, Any], ready_fd: int | None) -> None:
    text = "hooker: ready, {transport} on port {listen_port}, cgroup {cgroup}"
    try:
        print(text.format(**engine), flush=True)
    except OSError:
        _lose_output(0)  # nobody reads it; connections are hooked all the same
    if ready_fd is not None:
        try:
            os.write(ready_fd, b"ready\n")
        except BrokenPipeError:
            pass  # who asked does not listen any more
        os.close(ready_fd)


def main(arguments: list[str] | None = None) -> None:
    """Exits with the command's status; interrupted by Ctrl-C, it ends by that signal, as programs do."""
    default = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    try:
        if default:  # from here on there may be something to undo
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _main(arguments)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if default or status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if status == INTERRUPTED:
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    try:
        return int(cli.main(arguments, prog_name="hooker", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_BAD_INPUT


def _main(arguments: list[str] | None) -> int:
    try:
        result = _run(arguments)
        sys.stdout.flush()
        return result
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except HookerError as error:
        bad_input = error.fault in ("configuration", "local")
        return _fail(str(error), EXIT_BAD_INPUT if bad_input else EXIT_FAILURE)
    except BrokenPipeError:  # the reader of our output has gone
        return _lose_output(128 + signal.SIGPIPE)
    except OSError as error:
        why = describe_os_error(error)
        if error.errno == errno.EBADF and not _is_writable(sys.stdout.fileno()):
            why = "standard output is closed"
        if remedy := remedy_for(error.errno or 0):
            why += f" ({remedy})"
        return _lose_output(_fail(why, EXIT_FAILURE))


def _lose_output(status: int) -> int:
    """What is still buffered has nowhere to go; the interpreter must not try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _fail(text: str, status: int) -> int:
    print(f"hooker: {' '.join(text.split())}", file=sys.stderr)
    return status
