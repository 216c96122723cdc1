/*
 * The C side of the bench of the vfio-user server: a client, and a bare server to compare with. The server answers a read
 * without a device, and maps and unmaps the memory of each DMA_MAP.
 *
 *   vfio-user SOCKET   serves SOCKET, and performs commands of standard input on any socket:
 *   read SOCKET N      nanoseconds of a read of 4 bytes
 *   pairs SOCKET N     nanoseconds of a DMA_MAP with a descriptor and its DMA_UNMAP
 *   live SOCKET N      nanoseconds of a DMA_MAP; the maps stay
 *   many PREFIX D N    nanoseconds of a read, N from each of D devices at the same time
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MEMORY (1ull << 30)
enum { VERSION = 1, DMA_MAP = 2, DMA_UNMAP = 3, REGION_READ = 9 };

struct header { uint16_t id, command; uint32_t size, flags, error; } __attribute__((packed));
struct map { uint32_t argsz, flags; uint64_t offset, address, size; } __attribute__((packed));
struct unmap { uint32_t argsz, flags; uint64_t address, size; } __attribute__((packed));
struct access { uint64_t offset; uint32_t region, count; } __attribute__((packed));

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void receive(int fd, void *buffer, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t count = recv(fd, (char *)buffer + got, size - got, 0);
        if (count <= 0) die("recv");
        got += count;
    }
}

static void transmit(int fd, const void *head, size_t head_size, const void *body, size_t body_size, int attached) {
    struct iovec parts[2] = {{(void *)head, head_size}, {(void *)body, body_size}};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (attached >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        *cmsg = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(cmsg), &attached, sizeof attached);
    }
    if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)(head_size + body_size)) die("sendmsg");
}

/* Serves one client after the other. */
static void serve(int listener) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        void *mapped = MAP_FAILED;
        for (;;) {
            struct { struct header head; char body[4096]; } in;
            char control[CMSG_SPACE(8 * sizeof(int))];
            struct iovec part = {&in, sizeof in};
            struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
            ssize_t count = recvmsg(fd, &message, 0);
            if (count < (ssize_t)sizeof in.head) break;
            struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
            size_t body = 0;
            if (in.head.command == VERSION) body = 4;
            else if (in.head.command == REGION_READ) body = 20;
            else if (in.head.command == DMA_UNMAP) {
                body = 24;
                munmap(mapped, PAGE);
            } else if (in.head.command == DMA_MAP && cmsg) {
                struct map *map = (void *)in.body;
                int memory;
                memcpy(&memory, CMSG_DATA(cmsg), sizeof memory);
                mapped = mmap(NULL, map->size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, map->offset);
                close(memory);
            }
            in.head.size = sizeof in.head + body;
            in.head.flags = 1;
            if (send(fd, &in, in.head.size, MSG_NOSIGNAL) < 0) break;
        }
        close(fd);
    }
}

static int dial(const char *path) {
    struct sockaddr_un address = {AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connect(fd, (void *)&address, sizeof address)) die(path);
    return fd;
}

static void request(int fd, int command, const void *body, size_t size, int attached) {
    struct header head = {1, command, sizeof head + size, 0, 0};
    char reply[4096];
    transmit(fd, &head, sizeof head, body, size, attached);
    receive(fd, &head, sizeof head);
    if (head.flags & 0x20) { fprintf(stderr, "error %u of command %d\n", head.error, command); exit(1); }
    receive(fd, reply, head.size - sizeof head);
}

static char kept_path[256];
static int kept = -1;

/* Closes the kept connection: a device serves one client at a time. */
static void hang_up(void) {
    if (kept >= 0) close(kept);
    kept = -1;
    kept_path[0] = 0;
}

/* Returns a connection that has negotiated. The last one is kept. */
static int connection(const char *path) {
    if (strcmp(kept_path, path)) {
        hang_up();
        kept = dial(path);
        snprintf(kept_path, sizeof kept_path, "%s", path);
        request(kept, VERSION, "\0\0\0\0", 4, -1);
    }
    return kept;
}

static void reads(int fd, long count) {
    struct access access = {0, 7, 4};
    for (long i = 0; i < count; i++) request(fd, REGION_READ, &access, sizeof access, -1);
}

static double many(const char *prefix, int devices, long count) {
    double start = now();
    for (int i = 0; i < devices; i++)
        if (fork() == 0) {
            char path[300];
            snprintf(path, sizeof path, "%s.%d", prefix, i);
            int fd = dial(path);
            request(fd, VERSION, "\0\0\0\0", 4, -1);
            reads(fd, count);
            _exit(0);
        }
    for (int i = 0; i < devices; i++) wait(NULL);
    return (now() - start) / ((double)devices * count);
}

int main(int arguments, char **argument) {
    signal(SIGPIPE, SIG_IGN);
    if (arguments < 2) return 2;
    struct sockaddr_un address = {AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argument[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4)) die(argument[1]);
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(listener);
    }
    int memory = memfd_create("guest", MFD_ALLOW_SEALING);
    if (memory < 0 || ftruncate(memory, MEMORY) || fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK)) die("memfd");
    char line[1024], what[16], path[256];
    uint64_t live = 0;
    while (fgets(line, sizeof line, stdin)) {
        long a = 0, b = 0;
        double start, ns = 0;
        if (sscanf(line, "%15s %255s %ld %ld", what, path, &a, &b) < 3) return 2;
        if (!strcmp(what, "many")) {
            hang_up();
            ns = many(path, a, b);
        } else {
            int fd = connection(path);
            start = now();
            if (!strcmp(what, "read")) reads(fd, a);
            for (long i = 0; !strcmp(what, "pairs") && i < a; i++) {
                struct map map = {sizeof map, 3, (i & 1023) * PAGE, (1ull << 40) + (i & 1023) * PAGE, PAGE};
                struct unmap unmap = {sizeof unmap, 0, map.address, PAGE};
                request(fd, DMA_MAP, &map, sizeof map, memory);
                request(fd, DMA_UNMAP, &unmap, sizeof unmap, -1);
            }
            for (long i = 0; !strcmp(what, "live") && i < a; i++, live++) {
                struct map map = {sizeof map, 3, (live & 0xffff) * PAGE, live * 2 * PAGE, PAGE};
                request(fd, DMA_MAP, &map, sizeof map, memory);
            }
            ns = (now() - start) / a;
        }
        printf("%.1f\n", ns);
        fflush(stdout);
    }
    kill(server, SIGKILL);
    return 0;
}
