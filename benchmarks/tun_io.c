// What a packet costs to get from a TUN device and to give to it: read and write, or io_uring.
//
//   tun_io PACKETS ROUNDS SIZE...      in a network namespace of its own, which it makes
//
// One line for each way and size: way, bytes, ns of CPU for each packet (the least of the rounds).
// Packets are datagrams of this process's; in the table are their reading, and the writing of ones that no socket takes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	BATCH = 64,
	SLOT = 66560,
	HEADER = 10 + 28,		// struct virtio_net_hdr, IPv4, UDP
	MULTISHOT_READ = 49,		// IORING_OP_READ_MULTISHOT, Linux 6.7
	GROUP = 1,
};

static uint8_t *slots;
static int tun, out;
static struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = 0x901};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double cpu(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e9 + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e3;
}

// ---- the ring: as little of liburing as this needs

static int ring;
static unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static struct io_uring_buf_ring *pool;

static void open_ring(void)
{
	struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 4 * BATCH};
	struct io_uring_buf_reg reg = {.ring_entries = BATCH, .bgid = GROUP};
	uint8_t *sq;

	ring = syscall(SYS_io_uring_setup, BATCH, &p);
	if (ring < 0)
		die("io_uring_setup");
	sq = mmap(0, p.sq_off.array + p.sq_entries * 4 + p.cq_off.cqes + p.cq_entries * sizeof(*cqes), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	sqes = mmap(0, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || sqes == MAP_FAILED)
		die("mmap");
	sq_tail = (void *)(sq + p.sq_off.tail);
	sq_mask = (void *)(sq + p.sq_off.ring_mask);
	sq_array = (void *)(sq + p.sq_off.array);
	cq_head = (void *)(sq + p.cq_off.head);
	cq_tail = (void *)(sq + p.cq_off.tail);
	cq_mask = (void *)(sq + p.cq_off.ring_mask);
	cqes = (void *)(sq + p.cq_off.cqes);
	pool = mmap(0, BATCH * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	reg.ring_addr = (uint64_t)pool;
	if (syscall(SYS_io_uring_register, ring, 22 /* IORING_REGISTER_PBUF_RING */, &reg, 1) < 0)
		die("buffer ring");
}

static struct io_uring_sqe *next_sqe(int op, void *addr, unsigned len)
{
	unsigned i = *sq_tail & *sq_mask;
	struct io_uring_sqe *s = &sqes[i];

	memset(s, 0, sizeof(*s));
	s->opcode = op;
	s->fd = tun;
	s->addr = (uint64_t)addr;
	s->len = len;
	sq_array[i] = i;
	__atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_RELEASE);
	return s;
}

static void enter(unsigned submit, unsigned wait)
{
	if (syscall(SYS_io_uring_enter, ring, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0, 0, 0) < 0)
		die("io_uring_enter");
}

static void give_back(unsigned id)
{
	struct io_uring_buf *b = &pool->bufs[pool->tail & (BATCH - 1)];

	b->addr = (uint64_t)(slots + (size_t)id * SLOT);
	b->len = SLOT;
	b->bid = id;
	__atomic_store_n(&pool->tail, pool->tail + 1, __ATOMIC_RELEASE);
}

// Takes what is complete; how many succeeded. Buffers of the pool go back to it.
static unsigned complete(int *more)
{
	unsigned done = 0;

	while (*cq_head != __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
		struct io_uring_cqe *c = &cqes[*cq_head & *cq_mask];

		if (c->res < 0 && c->res != -ENOBUFS && c->res != -ECANCELED) {
			errno = -c->res;
			die("io_uring operation");
		}
		done += c->res > 0;
		if (c->flags & IORING_CQE_F_BUFFER)
			give_back(c->flags >> IORING_CQE_BUFFER_SHIFT);
		if (more)
			*more = !!(c->flags & IORING_CQE_F_MORE);
		__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
	}
	return done;
}

// ---- the ways

static void read_plain(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (read(tun, slots + (size_t)(i % BATCH) * SLOT, SLOT) <= 0)
			die("read");
}

static void read_ring(unsigned n)
{
	while (n) {
		unsigned k = n < BATCH ? n : BATCH;

		for (unsigned i = 0; i < k; i++)
			next_sqe(IORING_OP_READ, slots + (size_t)i * SLOT, SLOT);
		enter(k, k);
		n -= complete(0);
	}
}

static void read_multishot(unsigned n)
{
	int more = 0;
	unsigned done = 0;

	while (done < n) {
		if (!more) {
			struct io_uring_sqe *s = next_sqe(MULTISHOT_READ, 0, 0);

			s->flags = IOSQE_BUFFER_SELECT;
			s->buf_group = GROUP;
			more = 1;
			enter(1, 1);
		} else {
			enter(0, 1);
		}
		done += complete(&more);
	}
	if (more) {		// it would take the next round's packets
		struct io_uring_sqe *s = next_sqe(IORING_OP_ASYNC_CANCEL, 0, 0);

		s->fd = -1;
		s->cancel_flags = 4 | 1; // ANY, ALL
		enter(1, 1);
		usleep(1000);
		complete(0);
	}
}

static unsigned size_now;

static void write_plain(unsigned n)
{
	struct iovec v[2] = {{slots, HEADER}, {slots + HEADER, size_now}};

	while (n--)
		if (writev(tun, v, 2) < 0)
			die("writev");
}

static void write_ring(unsigned n)
{
	struct iovec v[2] = {{slots, HEADER}, {slots + HEADER, size_now}};

	while (n) {
		unsigned k = n < BATCH ? n : BATCH, done;

		for (unsigned i = 0; i < k; i++)
			next_sqe(IORING_OP_WRITEV, v, 2);
		enter(k, k);
		done = complete(0);
		if (done != k)
			die("ring write");
		n -= done;
	}
}

static void fill(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (sendto(out, slots, size_now, 0, (void *)&far, sizeof(far)) < 0)
			die("sendto");
}

static void measure(const char *name, void (*way)(unsigned), int reads, unsigned n, unsigned rounds)
{
	double least = 1e18;

	for (unsigned r = 0; r < rounds; r++) {
		double t;

		if (reads)
			fill(n);
		t = cpu();
		way(n);
		t = (cpu() - t) / n;
		least = t < least ? t : least;
	}
	printf("%s %u %.0f\n", name, size_now, least);
	fflush(stdout);
}

// A datagram that nobody wants: without a route back and without a listener, it ends in UDP's input.
static void prepare_packet(void)
{
	uint8_t *ip = slots + 10;
	uint16_t total = htons(28 + size_now);
	uint32_t sum = 0;

	memset(slots, 0, HEADER);
	slots[0] = 2;		// DATA_VALID
	ip[0] = 0x45;
	memcpy(ip + 2, &total, 2);
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, "\xc6\x33\x64\x01", 4);
	memcpy(ip + 16, "\xe0\x00\x00\x77", 4);	// a group that nobody has joined
	for (int i = 0; i < 20; i += 2)
		sum += ip[i] << 8 | ip[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	ip[10] = sum >> 8;
	ip[11] = sum;
}

static void set_up(void)
{
	struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = "hk0"};
	int buffer = 1 << 30;

	if (unshare(CLONE_NEWNET))
		die("unshare");
	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	if (tun < 0 || ioctl(tun, TUNSETIFF, &r) || ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		die("tun");
	if (system("ip addr add 198.51.100.2/24 dev hk0 && ip link set hk0 mtu 65535 txqueuelen 8000 up "
		   "&& tc qdisc add dev hk0 root noqueue"))
		die("ip");
	out = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(out, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	inet_pton(AF_INET, "198.51.100.1", &far.sin_addr);
	open_ring();
	for (unsigned i = 0; i < BATCH; i++)
		give_back(i);
}

int main(int argc, char **argv)
{
	unsigned n = argc > 2 ? atoi(argv[1]) : 0, rounds = argc > 2 ? atoi(argv[2]) : 0;

	if (!n || !rounds)
		return 2;
	slots = mmap(0, (size_t)BATCH * SLOT, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
	set_up();
	for (int i = 3; i < argc; i++) {
		size_now = atoi(argv[i]);
		measure("read", read_plain, 1, n, rounds);
		measure("read-ring", read_ring, 1, n, rounds);
		measure("read-multishot", read_multishot, 1, n, rounds);
		prepare_packet();
		measure("write", write_plain, 0, n, rounds);
		measure("write-ring", write_ring, 0, n, rounds);
	}
	return 0;
}
