// What a packet costs to send through a veth: by raw sockets as the carrier `ip` does it, and by what else there is.
//
//   transmit PACKETS ROUNDS SIZE...	in a network namespace of its own, which it makes
//
// One line for each way and size: way, bytes of payload, ns of CPU for each packet (median of the rounds). All happens on the
// CPU that sends, in the time of this process, until the other end has seen that the packet is for somebody else.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OWN "10.1.1.1"
#define FAR "10.1.1.2"
#define FAR_LINK "02:00:00:00:00:02"	// not that of the interface there

enum {
	PROTOCOL = 253,
	BATCH = 64,
	HEADERS = ETH_HLEN + 20,
	VTL_HEADER = 13,
	SUM = 4,
	CHUNK = 2048,
	CHUNKS = 1024,
	TRAIN = 44,			// datagrams of one GSO send
};

static struct sockaddr_in far = {.sin_family = AF_INET};
static uint8_t payload[1 << 16], headers[HEADERS];
static unsigned size;			// of the payload, with VTL's header and without the checksum behind it
static int fd;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void make_link(void)
{
	if (unshare(CLONE_NEWNET) < 0)
		die("unshare");
	if (system("ip link add one type veth peer name two && ip link set one up && ip link set two up"
		   " && ip addr add " OWN "/24 dev one && ip neigh add " FAR " lladdr " FAR_LINK " dev one"))
		die("ip");
	inet_pton(AF_INET, FAR, &far.sin_addr);
}

// ---- sockets that know routes and neighbours

static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH][3];
static uint8_t control[BATCH][64] __attribute__((aligned(8)));

static void fill(unsigned n, int with_address, int with_source)
{
	for (unsigned i = 0; i < n; i++) {
		struct msghdr *m = &messages[i].msg_hdr;

		memset(m, 0, sizeof(*m));
		parts[i][0] = (struct iovec){payload, VTL_HEADER};
		parts[i][1] = (struct iovec){payload + VTL_HEADER, size - VTL_HEADER};
		parts[i][2] = (struct iovec){payload, SUM};
		m->msg_iov = parts[i];
		m->msg_iovlen = 3;
		if (with_address) {
			m->msg_name = &far;
			m->msg_namelen = sizeof(far);
		}
		if (with_source) {
			struct cmsghdr *c = (void *)control[i];
			struct in_pktinfo info = {0};

			m->msg_control = c;
			m->msg_controllen = CMSG_SPACE(sizeof(info));
			c->cmsg_level = IPPROTO_IP;
			c->cmsg_type = IP_PKTINFO;
			c->cmsg_len = CMSG_LEN(sizeof(info));
			inet_pton(AF_INET, OWN, &info.ipi_spec_dst);
			memcpy(CMSG_DATA(c), &info, sizeof(info));
		}
	}
}

static void send_all(unsigned n)
{
	for (unsigned done = 0; done < n;) {
		int k = sendmmsg(fd, messages + done, n - done, 0);

		if (k < 0)
			die("sendmmsg");
		done += k;
	}
}

static void open_by(int kind, int protocol)
{
	int probe = IP_PMTUDISC_PROBE, room = 32 << 20;

	fd = socket(AF_INET, kind, protocol);
	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &probe, sizeof(probe));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
}

static void as_the_carrier(unsigned n)
{
	fill(n, 1, 1);
	send_all(n);
}

static void connected(unsigned n)
{
	fill(n, 0, 0);
	send_all(n);
}

static void one_by_one(unsigned n)
{
	fill(n, 1, 1);
	for (unsigned i = 0; i < n; i++)
		if (sendmsg(fd, &messages[i].msg_hdr, 0) < 0)
			die("sendmsg");
}

// n datagrams in one send, which the kernel cuts, or the link beyond
static void in_trains(unsigned n)
{
	while (n) {
		unsigned k = n < TRAIN ? n : TRAIN;

		if (sendto(fd, payload, k * size, 0, (void *)&far, sizeof(far)) < 0)
			die("sendto");
		n -= k;
	}
}

static void open_raw(void)
{
	open_by(SOCK_RAW, PROTOCOL);
}

static void open_connected(void)
{
	open_raw();
	if (connect(fd, (void *)&far, sizeof(far)) < 0)
		die("connect");
}

static void open_udp(void)
{
	far.sin_port = htons(9);
	open_by(SOCK_DGRAM, 0);
}

static void open_trains(void)
{
	int each = size;

	open_udp();
	if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &each, sizeof(each)) < 0)
		die("UDP_SEGMENT");
}

// ---- ready headers

static void make_headers(void)
{
	uint8_t *ip = headers + ETH_HLEN;
	uint16_t total = htons(20 + size + SUM);
	uint32_t sum = 0;

	memset(headers, 0, sizeof(headers));
	memcpy(headers, "\2\0\0\0\0\2\2\0\0\0\0\1\x08", 13);
	ip[0] = 0x45;
	memcpy(ip + 2, &total, 2);
	ip[6] = 0x40;
	ip[8] = 64;
	ip[9] = PROTOCOL;
	inet_pton(AF_INET, OWN, ip + 12);
	inet_pton(AF_INET, FAR, ip + 16);
	for (int i = 0; i < 20; i += 2)
		sum += ip[i] << 8 | ip[i + 1];
	sum = (sum >> 16) + (sum & 0xffff);
	ip[10] = ~sum >> 8;
	ip[11] = ~sum;
}

static void open_with_headers(void)
{
	open_by(SOCK_RAW, IPPROTO_RAW);
}

// Behind IPv4's header; the kernel still finds route and neighbour.
static void with_headers(unsigned n)
{
	make_headers();
	fill(n, 1, 0);
	for (unsigned i = 0; i < n; i++) {
		parts[i][0] = (struct iovec){headers + ETH_HLEN, 20};
		parts[i][1] = (struct iovec){payload, size};
	}
	send_all(n);
}

static void open_packet(void)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex("one")};
	int on = 1;

	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) < 0)
		die("packet socket");
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on));
}

static void as_frames(unsigned n)
{
	make_headers();
	fill(n, 0, 0);
	for (unsigned i = 0; i < n; i++) {
		parts[i][1] = (struct iovec){payload, size};
		parts[i][0] = (struct iovec){headers, HEADERS};
	}
	send_all(n);
}

static uint8_t *chunks;
static uint32_t *tx_producer, *done_producer, *done_consumer;
static struct xdp_desc *tx;
static uint32_t tx_at;

static uint8_t *map_ring(off_t which, size_t bytes)
{
	void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, which);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void open_xsk(void)
{
	struct xdp_umem_reg umem = {.len = CHUNKS * CHUNK, .chunk_size = CHUNK};
	struct sockaddr_xdp a = {.sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP};
	struct xdp_mmap_offsets at;
	socklen_t n = sizeof(at);
	int entries = CHUNKS;
	uint8_t *ring;

	fd = socket(AF_XDP, SOCK_RAW, 0);
	chunks = mmap(0, CHUNKS * CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	umem.addr = (uint64_t)chunks;
	if (fd < 0 || setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) < 0 ||
	    setsockopt(fd, SOL_XDP, XDP_UMEM_FILL_RING, &entries, 4) < 0 ||
	    setsockopt(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, 4) < 0 ||
	    setsockopt(fd, SOL_XDP, XDP_TX_RING, &entries, 4) < 0 || getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &n) < 0)
		die("AF_XDP");
	ring = map_ring(XDP_PGOFF_TX_RING, at.tx.desc + CHUNKS * sizeof(*tx));
	tx_producer = (void *)(ring + at.tx.producer);
	tx = (void *)(ring + at.tx.desc);
	ring = map_ring(XDP_UMEM_PGOFF_COMPLETION_RING, at.cr.desc + CHUNKS * 8);
	done_producer = (void *)(ring + at.cr.producer);
	done_consumer = (void *)(ring + at.cr.consumer);
	a.sxdp_ifindex = if_nametoindex("one");
	for (int tries = 0; bind(fd, (void *)&a, sizeof(a)) < 0; tries++)
		if (errno != EBUSY || tries == 1000 || usleep(1000))	// the one before is on its way out
			die("bind");
	tx_at = 0;
}

// Into chunks, headers in front; then the kernel is asked to send until it has sent all.
static void by_ring(unsigned n)
{
	uint32_t wanted = __atomic_load_n(done_producer, __ATOMIC_RELAXED) + n;

	make_headers();
	for (unsigned i = 0; i < n; i++, tx_at++) {
		uint64_t where = (uint64_t)(tx_at % CHUNKS) * CHUNK;

		memcpy(chunks + where, headers, HEADERS);
		memcpy(chunks + where + HEADERS, payload, size);
		memcpy(chunks + where + HEADERS + size, payload, SUM);
		tx[tx_at % CHUNKS] = (struct xdp_desc){.addr = where, .len = HEADERS + size + SUM};
	}
	__atomic_store_n(tx_producer, tx_at, __ATOMIC_RELEASE);
	while (__atomic_load_n(done_producer, __ATOMIC_ACQUIRE) != wanted) {
		if (sendto(fd, 0, 0, MSG_DONTWAIT, 0, 0) < 0 && errno != EAGAIN && errno != EBUSY)
			die("AF_XDP sendto");
	}
	__atomic_store_n(done_consumer, wanted, __ATOMIC_RELEASE);
}

// ---- all of them

static const struct way {
	const char *name;
	void (*open)(void);
	void (*send)(unsigned n);
} ways[] = {
	{"raw-sendmmsg-as-the-carrier", open_raw, as_the_carrier},
	{"raw-sendmsg-each", open_raw, one_by_one},
	{"raw-sendmmsg-connected", open_connected, connected},
	{"raw-sendmmsg-with-headers", open_with_headers, with_headers},
	{"udp-sendmmsg", open_udp, as_the_carrier},
	{"udp-segment", open_trains, in_trains},
	{"packet-sendmmsg", open_packet, as_frames},
	{"af_xdp-copy", open_xsk, by_ring},
};

static int order(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static void measure(const struct way *w, unsigned packets, unsigned rounds)
{
	double *took = calloc(rounds, sizeof(*took));

	w->open();
	for (unsigned r = 0; r < rounds; r++) {
		double t = cpu();

		for (unsigned left = packets; left; left -= left < BATCH ? left : BATCH)
			w->send(left < BATCH ? left : BATCH);
		took[r] = (cpu() - t) / packets;
	}
	qsort(took, rounds, sizeof(*took), order);
	printf("%s %u %.0f\n", w->name, size, took[rounds / 2]);
	fflush(stdout);
}

// In a process of its own, with which the rings go.
static void measure_apart(const struct way *w, unsigned packets, unsigned rounds)
{
	int status;

	fflush(stdout);
	if (fork() == 0) {
		measure(w, packets, rounds);
		exit(0);
	}
	wait(&status);
	if (status)
		exit(1);
}

int main(int argc, char **argv)
{
	if (argc < 4 || atoi(argv[2]) < 1)
		return 2;
	make_link();
	for (int i = 3; i < argc; i++) {
		size = atoi(argv[i]);
		for (unsigned w = 0; w < sizeof(ways) / sizeof(*ways); w++)
			measure_apart(&ways[w], atoi(argv[1]), atoi(argv[2]));
	}
	return 0;
}
