// SPDX-License-Identifier: MIT OR Apache-2.0
/* The least that a program can do: what the receivers are measured by.
 *
 *   bare devmem ADDR PORT   recvmsg and SO_DEVMEM_DONTNEED, at the kernel's limits, nothing else
 *   bare lowat ADDR PORT    the same, and SO_RCVLOWAT: woken for 2 MiB, or after 8 ms
 *   bare trunc ADDR PORT    recv with MSG_TRUNC: the kernel discards, no token is issued
 *   bare copy ADDR PORT     recv into 256 KiB of memory
 *
 * Listens, takes one connection, reads to its end, and prints what it counted as JSON. The queue is
 * bound by somebody else: any TCP socket can receive from it. IPv4 only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define SCM_DEVMEM_LINEAR 78
#define SCM_DEVMEM_DMABUF 79
#define SO_DEVMEM_DONTNEED 80
#define MSG_SOCK_DEVMEM 0x2000000

#define FRAGS 1024 /* MAX_DONTNEED_FRAGS */
#define RANGES 128 /* MAX_DONTNEED_TOKENS */
#define IOV (4 << 20)
#define COPY (256 << 10)

#define LOWAT (2 << 20)
#define BUFFER (8 << 20) /* fixed: SO_RCVLOWAT makes the window no larger than itself otherwise */
#define PATIENCE 8000 /* microseconds */

struct frag {
	uint64_t offset;
	uint32_t size, token, dmabuf, flags;
};

struct range {
	uint32_t start, count;
};

static struct {
	uint64_t bytes, frags, linear, recv, dontneed, ranges;
} count;

static void die(const char *what)
{
	fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Before the connection: the window's scale depends on it. */
static void set_buffer(int fd)
{
	int buffer = BUFFER;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)))
		die("SO_RCVBUFFORCE");
}

/* Woken for LOWAT bytes or after PATIENCE; or else by the first byte. */
static void gather(int fd, int on)
{
	struct timeval patience = { .tv_usec = on ? PATIENCE : 0 };
	int lowat = on ? LOWAT : 1;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		die("gathering");
}

static int connection(const char *addr, const char *port, int gathers)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, peer;

	if (fd < 0 || inet_pton(AF_INET, addr, &to.sin_addr) != 1)
		die("address");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (gathers)
		set_buffer(fd);
	if (bind(fd, (struct sockaddr *)&to, sizeof(to)) || listen(fd, 1))
		die("listen");
	peer = accept(fd, NULL, NULL);
	if (peer < 0)
		die("accept");
	if (gathers)
		gather(peer, 1);
	close(fd);
	return peer;
}

static void give_back(int fd, struct range *ranges, int n, uint32_t frags)
{
	if (!n)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_DEVMEM_DONTNEED, ranges, n * sizeof(*ranges)) != (int)frags)
		die("SO_DEVMEM_DONTNEED");
	count.dontneed++;
	count.ranges += n;
}

static void devmem(int fd, char *memory)
{
	static char control[CMSG_SPACE(sizeof(struct frag)) * FRAGS];
	struct range ranges[RANGES];
	int silent = 0;

	for (;;) {
		struct iovec iov = { memory, IOV };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
				      .msg_control = control, .msg_controllen = sizeof(control) };
		ssize_t got = recvmsg(fd, &msg, MSG_SOCK_DEVMEM);
		uint32_t frags = 0;
		int n = 0;

		count.recv++;
		if (got < 0 && errno == EAGAIN && !silent) {
			gather(fd, 0); /* nothing within PATIENCE: sleep until something comes */
			silent = 1;
			continue;
		}
		if (got < 0)
			die("recvmsg");
		if (!got)
			return;
		if (silent) {
			gather(fd, 1);
			silent = 0;
		}
		count.bytes += got;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
			struct frag *frag = (struct frag *)CMSG_DATA(c);

			if (c->cmsg_type != SCM_DEVMEM_DMABUF) {
				count.linear += frag->size;
				continue;
			}
			count.frags++;
			if (n && ranges[n - 1].start + ranges[n - 1].count == frag->token) {
				ranges[n - 1].count++;
			} else {
				if (n == RANGES) {
					give_back(fd, ranges, n, frags);
					n = frags = 0;
				}
				ranges[n++] = (struct range){ frag->token, 1 };
			}
			frags++;
		}
		give_back(fd, ranges, n, frags);
	}
}

static void plain(int fd, char *memory, size_t len, int flags)
{
	ssize_t got;

	do {
		got = recv(fd, memory, len, flags);
		count.recv++;
		count.bytes += got > 0 ? got : 0;
	} while (got > 0);
	if (got < 0)
		die("recv");
}

int main(int argc, char **argv)
{
	char *memory = malloc(IOV);
	int fd;

	if (argc != 4 || !memory) {
		fprintf(stderr, "bare devmem|lowat|trunc|copy ADDR PORT\n");
		return 2;
	}
	fd = connection(argv[2], argv[3], !strcmp(argv[1], "lowat"));
	if (!strcmp(argv[1], "devmem") || !strcmp(argv[1], "lowat"))
		devmem(fd, memory);
	else if (!strcmp(argv[1], "trunc"))
		plain(fd, memory, IOV, MSG_TRUNC);
	else
		plain(fd, memory, COPY, 0);
	printf("{\"bytes\":%lu,\"frags\":%lu,\"linear\":%lu,\"recv\":%lu,\"dontneed\":%lu,\"ranges\":%lu}\n",
	       count.bytes, count.frags, count.linear, count.recv, count.dontneed, count.ranges);
	return 0;
}
