"""A second kernel: runs a command in a small virtual machine over this host's own file system.

The machine is QEMU without hardware help (about 18 times slower than the host), the kernel is Debian's, and
the initramfs is made on the spot: busybox, the modules that a 9p root needs, and an init. The guest sees the
host's root read-only below an overlay in its memory, so the command finds the same tree and the same
environment, and nothing it writes outlives it. Everything of the runner is in one temporary directory.

    python tests/vm/vm.py [--timeout SECONDS] [--memory MIB] [--append KERNEL_OPTIONS] COMMAND …

The command's output is the runner's output, its exit status the runner's; 125: the machine did not finish.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import lzma
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOOT = Path("/boot")
BUSYBOX = Path("/bin/busybox")
XZ_MAGIC = b"\xfd7zXZ\0"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
NOT_FINISHED = 125
PR_SET_PDEATHSIG = 1  # linux/prctl.h

MOUNT_9P = "/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288"
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
{MOUNT_9P},ro,cache=loose root /lower
mount -t tmpfs -o size=75% tmpfs /over; mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work overlay /new
mount --move /dev /new/dev; mount --move /proc /new/proc; umount /sys
mount -t sysfs sys /new/sys
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t bpf bpf /new/sys/fs/bpf
mount -t tmpfs tmpfs /new/run
mkdir -p /new/dev/shm /new/dev/pts /new/run/netns /new/run/job
mount -t devpts -o ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
{MOUNT_9P},cache=none job /new/run/job
exec switch_root /new /bin/sh /run/job/guest.sh
"""
GUEST = """\
export PATH={path} HOME=/root LANG=C.UTF-8 HOOKER_VM=1
ip link set lo up
hostname guest
cd {directory}
for port in /dev/vport*; do exec 3>$port; done
( {command} ) </dev/null >&3 2>&3
echo $? >/run/job/status
exec 3>&-
sync
busybox poweroff -f
"""
KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check"
    " nowatchdog random.trust_cpu=on audit=0 apparmor=0"
)


class Unable(Exception):
    """The machine cannot be made here."""


def kernel_release() -> str:
    """The newest of Debian's kernels that are installed. Raises Unable when there is none."""
    found = sorted(BOOT.glob("vmlinuz-6.*"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise Unable("no kernel in /boot: apt-get install linux-image-amd64")
    return found[-1].name.removeprefix("vmlinuz-")


def unpack_kernel(release: str, target: Path) -> None:
    """The ELF file inside a bzImage: QEMU boots it directly, and the guest need not unpack it."""
    image = (BOOT / f"vmlinuz-{release}").read_bytes()
    start = image.find(XZ_MAGIC)
    if start < 0:
        raise Unable(f"the kernel {release} is not compressed with xz")
    target.write_bytes(lzma.LZMADecompressor().decompress(image[start:]))


def module_files(release: str) -> list[Path]:
    """What modprobe would load for MODULES, in its order."""
    files: dict[str, None] = {}
    for name in MODULES:
        done = subprocess.run(
            ["modprobe", "-S", release, "--show-depends", name], capture_output=True, text=True, check=True
        )
        files.update(
            (line.split()[1], None) for line in done.stdout.splitlines() if line.startswith("insmod")
        )
    return [Path(name) for name in files]


def write_initramfs(release: str, target: Path) -> None:
    """A cpio archive in the format `newc` (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    with target.open("wb") as file:

        def add(name: str, mode: int, data: bytes = b"") -> None:
            encoded = name.encode() + b"\0"
            fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
            file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

        for name in ("bin", "modules", "proc", "sys", "dev", "new", "lower", "over"):
            add(name, 0o040755)
        add("bin/busybox", 0o100755, BUSYBOX.read_bytes())
        add("init", 0o100755, INIT.encode())
        for number, path in enumerate(module_files(release)):
            add(f"modules/{number:02}-{path.name}", 0o100644, path.read_bytes())
        add("TRAILER!!!", 0)


def qemu_command(directory: Path, memory: int, append: str) -> list[str]:
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"]
    command += ["-smp", str(min(2, os.cpu_count() or 1)), "-m", str(memory)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(directory / "vmlinux"), "-initrd", str(directory / "initramfs")]
    command += ["-append", f"{KERNEL_OPTIONS} {append}", "-serial", f"file:{directory / 'console'}"]
    command += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]
    command += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
    command += ["-fsdev", f"local,id=job,path={directory / 'job'},security_model=none"]
    command += ["-device", "virtio-9p-pci,fsdev=job,mount_tag=job", "-device", "virtio-serial-pci"]
    command += ["-chardev", "file,id=out,path=/dev/fd/1,append=on"]  # stdio would need an open standard input
    return [*command, "-device", "virtserialport,chardev=out,name=out"]


def run(command: Sequence[str], *, timeout: float, memory: int = 2048, append: str = "") -> int:
    """Run *command* in the guest, its output going to ours; its exit status, or NOT_FINISHED.

    Raises Unable when QEMU, busybox or a kernel is missing.
    """
    if not BUSYBOX.exists():
        raise Unable("no /bin/busybox: apt-get install busybox-static")
    release = kernel_release()
    with _only_one(), tempfile.TemporaryDirectory(prefix="hooker-vm-") as name:
        directory = Path(name)
        _prepare(directory, release, command)
        try:
            _boot(qemu_command(directory, memory, append), timeout)
        except FileNotFoundError:
            raise Unable("no qemu-system-x86_64: apt-get install qemu-system-x86") from None
        status = directory / "job" / "status"
        if status.exists():
            return int(status.read_text())
        console = (directory / "console").read_text(errors="replace").splitlines()
        print("vm: the command did not finish", *console[-30:], sep="\n", file=sys.stderr)
        return NOT_FINISHED


def _prepare(directory: Path, release: str, command: Sequence[str]) -> None:
    unpack_kernel(release, directory / "vmlinux")
    write_initramfs(release, directory / "initramfs")
    job = directory / "job"
    job.mkdir()
    path = f"{ROOT / '.venv' / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    text = GUEST.format(path=path, directory=shlex.quote(str(ROOT)), command=shlex.join(command))
    (job / "guest.sh").write_text(text)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Two machines at a time would only slow each other down; the lock vanishes with its holder."""
    descriptor = os.open(BOOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _boot(command: list[str], timeout: float) -> None:
    qemu = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,
        preexec_fn=_die_with_parent,
    )
    assert qemu.stdout
    timer = threading.Timer(timeout, qemu.kill)
    timer.start()
    try:
        while part := os.read(qemu.stdout.fileno(), 65536):
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
    finally:
        timer.cancel()
        qemu.kill()
        qemu.wait()
        qemu.stdout.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_on_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command under Debian's kernel in a virtual machine.")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds, of the host (1200)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB (2048)")
    parser.add_argument("--append", default="", help="further options of the kernel, as in ipv6.disable=1")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGHUP, _exit_on_signal)
    try:
        return run(command, timeout=options.timeout, memory=options.memory, append=options.append)
    except Unable as error:
        print(f"vm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
