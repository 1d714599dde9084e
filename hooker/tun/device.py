"""The device ``hk0``: packets with offload headers, whole segments of TSO, from and to this host's TCP.

The descriptors are its life: when the last is closed, or its process killed, the kernel removes the
device, and with it its routes and address. Nothing has to be undone.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

from hooker.engine.tun import QUEUE_LENGTH
from hooker.errors import ConfigurationError, KernelError

TUN = "/dev/net/tun"
NAME = "hk0"
MTU = 65535  # bytes: no segment is cut for this link
MOST_QUEUES = 256  # of the kernel, drivers/net/tun.c
LEAST_QUEUE = 1000  # packets: with less, a device is refused
# rp_filter 2 lets packets in only with an address. One of loopback's: a host drops what comes from its own
# addresses, and 192.0.0.8 (RFC 7600), for one, is where routers without an address send their ICMP from.
NO_ADDRESS = "127.0.72.75"

TUNSETIFF, TUNSETOWNER, TUNSETOFFLOAD = 0x400454CA, 0x400454CC, 0x400454D0  # linux/if_tun.h
TUNSETFILTEREBPF = 0x800454E1  # since 4.16
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x1, 0x100, 0x1000, 0x4000, 0x8000
OFFLOADS = 0x1 | 0x2 | 0x4  # TUN_F_CSUM, TSO4, TSO6
ROOT_QDISC = 0xFFFFFFFF  # TC_H_ROOT
ADDRESSES_BY_HAND = 1  # IN6_ADDR_GEN_MODE_NONE
SCOPE_HOST, SCOPE_LINK = 254, 253

MODPROBE = "modprobe tun; in a container, the device file too: --device /dev/net/tun"


class Device:
    """A TUN device in the network namespace of the calling thread; up, and ready for offloads.

    Args:
        name: of the interface; with %d in it, the first that is free.
        queues: one descriptor each. Segments of one flow come through one of them.
        mtu: of the link.
        queue_length: packets that wait to be read, for each queue; at most. The attribute says how many.

    Raises:
        KernelError: this kernel has no TUN devices, or there is an interface of that name.
        ConfigurationError: no permission.
    """

    def __init__(
        self, name: str = NAME, *, queues: int = 1, mtu: int = MTU, queue_length: int = QUEUE_LENGTH
    ) -> None:
        if not 1 <= queues <= MOST_QUEUES:
            raise ConfigurationError(f"a TUN device has 1 to {MOST_QUEUES} queues, not {queues}")
        self.name = name
        self.descriptors: list[int] = []
        try:
            self._open(queues)
            self.index = self._configure(mtu, queue_length)
        except BaseException:
            self.close()
            raise

    def _open(self, queues: int) -> None:
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
        for number in range(queues):
            descriptor = _open_file()
            self.descriptors.append(descriptor)
            # The first makes the device: as a queue of somebody else's it would get a part of the packets.
            self.name = _attach(descriptor, self.name, flags | (IFF_TUN_EXCL if number == 0 else 0))
            if number == 0:  # until then any local user may attach a queue; see _configure
                fcntl.ioctl(descriptor, TUNSETOWNER, os.geteuid())
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)

    def _configure(self, mtu: int, queue_length: int) -> int:
        from pyroute2 import IPRoute

        by_hand = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", ADDRESSES_BY_HAND)]}
        families = {"attrs": [("AF_INET6", by_hand)]} if Path("/proc/sys/net/ipv6").exists() else None
        with IPRoute() as netlink:
            index: int = netlink.link_lookup(ifname=self.name)[0]
            self._refuse_strangers(netlink, index)
            more: dict[str, Any] = {"IFLA_AF_SPEC": families} if families else {}
            netlink.link("set", index=index, mtu=mtu, **more)
            self.queue_length = _lengthen(netlink, index, queue_length)
            # fq_codel, many systems' default, would drop
            netlink.tc("add", "noqueue", index, parent=ROOT_QDISC)
            self._allow_any_source()
            self.add_address(netlink, index)
            netlink.link("set", index=index, state="up")
        return index

    def add_address(self, netlink: Any, index: int) -> None:
        """Without one, rp_filter lets nothing in, and the kernel keeps no IPv4 route to the device."""
        netlink.addr("add", index=index, address=NO_ADDRESS, prefixlen=32, scope=SCOPE_HOST)

    def admit(self, program: int) -> None:
        """From now on a packet is read only if that socket filter (a descriptor) lets it in.

        Raises KernelError when the kernel does not take the program.
        """
        try:
            fcntl.ioctl(self.descriptors[0], TUNSETFILTEREBPF, struct.pack("i", program))
        except OSError as error:
            raise KernelError.from_os_error(f"filter what comes to {self.name}", error) from None

    def _refuse_strangers(self, netlink: Any, index: int) -> None:
        """A queue that somebody attached before the device had an owner gets a part of the packets."""
        queues = len(self.descriptors)
        if queues == 1:
            return  # without IFF_MULTI_QUEUE there is no second
        info = netlink.get_links(index)[0].get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
        found = info.get_attr("IFLA_TUN_NUM_QUEUES") + info.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES")
        if found != queues:
            raise KernelError(
                f"{self.name} has {found} queues instead of {queues}",
                remedy="a local user attaches queues to other programs' devices: ps -ef, then try again",
            )

    def _allow_any_source(self) -> None:
        """Remote addresses come from here, and no route to them leads here: loose, whatever `all` says."""
        Path(f"/proc/sys/net/ipv4/conf/{self.name}/rp_filter").write_text("2")

    def close(self) -> None:
        """Remove the device. May be called twice."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lengthen(netlink: Any, index: int, length: int) -> int:
    """The queue, to that length or less than half of it, and so on: Linux 6.1 takes 32,767, and no more."""
    while True:
        try:
            netlink.link("set", index=index, txqlen=length)
        except Exception as error:  # netlink's errors are no OSErrors
            if getattr(error, "code", None) not in (errno.ERANGE, errno.ENOMEM) or length <= LEAST_QUEUE:
                raise
            length = (length - 1) // 2
        else:
            return length


def check_device() -> None:
    """Raises KernelError where there are no TUN devices, ConfigurationError without permission."""
    os.close(_open_file())


def _open_file() -> int:
    try:
        return os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise ConfigurationError(f"no permission for {TUN}", remedy="run it as root") from None
    except OSError as error:
        raise KernelError.from_os_error(f"open {TUN}", error, remedy=MODPROBE) from None


def _attach(descriptor: int, name: str, flags: int) -> str:
    """The name that the interface has got."""
    request = array.array("B", struct.pack("16sH22x", name.encode(), flags))
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, request)
    except OSError as error:
        remedy = "needs CAP_NET_ADMIN: run it as root" if error.errno == errno.EPERM else ""
        if error.errno == errno.EBUSY:
            remedy = "another engine of this network namespace has it: end that one (hooker status)"
        raise KernelError.from_os_error(f"make the TUN device {name}", error, remedy=remedy) from None
    return request.tobytes()[:16].rstrip(b"\0").decode()
