/* relay plain IF...               stop interfaces from leaving checksums and segmentation to hardware that is not there
   relay join DELAY_MS RATE_MBIT IF...   a switch: what comes in at one interface goes out at another, DELAY_MS later,
                                         and no faster than RATE_MBIT (0: as fast as it can)

   Where the kernel has no netem. The station behind the i-th interface, from 0 on, has the address 02:00:00:00:00:i;
   frames for any other address, such as those that ask for one, go to everybody. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define PORTS 250
#define WAITING 65536   /* frames a port holds back, */
#define BACKLOG 0.5     /* and seconds of its rate; what is more is dropped, as a router would */
#define SOCKET_BYTES (32 << 20)

struct frame { double due; int length; unsigned char *bytes; };
struct port { int socket; struct frame *queue; unsigned head, tail; double free_at; };

static struct port port[PORTS];
static struct pollfd polled[PORTS];
static int ports;
static double delay, bytes_per_second;

static void fail(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int plain(int count, char **names) {
    static const unsigned off[] = {ETHTOOL_SRXCSUM, ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO};
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    for (int i = 0; i < count; i++)
        for (unsigned k = 0; k < sizeof off / sizeof *off; k++) {
            struct ethtool_value value = {off[k], 0};
            struct ifreq request = {.ifr_data = (void *)&value};
            strncpy(request.ifr_name, names[i], IFNAMSIZ - 1);
            if (ioctl(control, SIOCETHTOOL, &request) < 0 && off[k] == ETHTOOL_STXCSUM) fail(names[i]);
        }
    return 0;
}

static void listen_at(int i, const char *name) {
    int size = SOCKET_BYTES;
    struct sockaddr_ll address = {AF_PACKET, htons(ETH_P_ALL), (int)if_nametoindex(name), 0, 0, 0, {0}};
    struct port *p = &port[i];
    p->socket = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
    if (!address.sll_ifindex || bind(p->socket, (void *)&address, sizeof address)) fail(name);
    setsockopt(p->socket, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(p->socket, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (!(p->queue = calloc(WAITING, sizeof *p->queue))) fail("queue");
    polled[i] = (struct pollfd){p->socket, POLLIN, 0};
}

static void enqueue(struct port *p, const unsigned char *bytes, int length, double t) {
    double start = p->free_at > t ? p->free_at : t;
    if (p->tail - p->head == WAITING || start - t > BACKLOG) return;
    p->free_at = start + (bytes_per_second > 0 ? length / bytes_per_second : 0);
    struct frame *f = &p->queue[p->tail++ % WAITING];
    *f = (struct frame){p->free_at + delay, length, malloc(length)};
    if (!f->bytes) fail("frame");
    memcpy(f->bytes, bytes, length);
}

/* Send what is due; when the next frame will be, within a second. */
static double forward(void) {
    double t = now(), next = t + 1;
    for (struct port *p = port; p < port + ports; p++) {
        for (; p->head != p->tail && p->queue[p->head % WAITING].due <= t; p->head++) {
            struct frame *f = &p->queue[p->head % WAITING];
            if (send(p->socket, f->bytes, f->length, 0) < 0) { /* a full socket loses it, as a full router does */ }
            free(f->bytes);
        }
        if (p->head != p->tail && p->queue[p->head % WAITING].due < next) next = p->queue[p->head % WAITING].due;
    }
    return next;
}

static void accept_from(int i) {
    static unsigned char bytes[1 << 17];
    static const unsigned char ours[5] = {2, 0, 0, 0, 0};
    for (int k = 0; k < 256; k++) {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        int length = recvfrom(port[i].socket, bytes, sizeof bytes, 0, (void *)&from, &size);
        if (length < ETH_HLEN) return;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        int known = !memcmp(bytes, ours, sizeof ours) && bytes[5] < ports;
        for (int j = 0; j < ports; j++)
            if (j != i && (!known || bytes[5] == j)) enqueue(&port[j], bytes, length, now());
    }
}

static _Noreturn void join(int count, char **names) {
    ports = count;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the script */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}); /* before what computes here, where that is permitted */
    for (int i = 0; i < ports; i++) listen_at(i, names[i]);
    for (;;) {
        double wait = forward() - now();
        if (wait < 0) wait = 0;
        struct timespec t = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
        if (ppoll(polled, ports, &t, NULL) <= 0) continue;
        for (int i = 0; i < ports; i++)
            if (polled[i].revents & POLLIN) accept_from(i);
    }
}

int main(int count, char **words) {
    if (count > 2 && !strcmp(words[1], "plain")) return plain(count - 2, words + 2);
    if (count > 4 && count - 4 <= PORTS && !strcmp(words[1], "join")) {
        delay = atof(words[2]) * 1e-3;
        bytes_per_second = atof(words[3]) * 1e6 / 8;
        join(count - 4, words + 4);
    }
    fprintf(stderr, "usage: relay plain IF... | relay join DELAY_MS RATE_MBIT IF...\n");
    return 2;
}
