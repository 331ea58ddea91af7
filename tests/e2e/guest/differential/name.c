// Cases of getsockname() and getpeername(): every phase, every length of the buffer.
#include "frame.h"

// For each length: the result, the length that came back, how many bytes were written.
static void lengths(const char *key, int fd, bool peers) {
    static const int rooms[] = {-1, 0, 1, 2, 4, 8, 15, 16, 17, 27, 28, 29, 128};
    char text[1024] = "";
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        unsigned char bytes[160];
        memset(bytes, 0xee, sizeof bytes);
        socklen_t length = rooms[i];
        int done = (peers ? getpeername : getsockname)(fd, (void *)bytes, &length);
        int written = sizeof bytes;
        while (written > 0 && bytes[written - 1] == 0xee) written--;
        size_t used = strlen(text);
        if (done) snprintf(text + used, sizeof text - used, "%s%d:%s", i ? "," : "", rooms[i], error_name(errno));
        else snprintf(text + used, sizeof text - used, "%s%d:%d/%d", i ? "," : "", rooms[i], written, length);
    }
    say(key, "%s", text);
}

static void both(const char *phase, int fd) {
    char key[64];
    snprintf(key, sizeof key, "%s-local", phase);
    name_of(key, fd, false);
    snprintf(key, sizeof key, "%s-peer", phase);
    name_of(key, fd, true);
}

static void all_lengths(void) {
    int fd = tcp();
    lengths("fresh-local", fd, false);
    lengths("fresh-peer", fd, true);
    dial(fd, SCRIPT);
    // The last byte of a connected name may be any; not so the length.
    lengths("connected-peer", fd, true);
    socklen_t length = 16;
    result("null-name", getpeername(fd, NULL, &length));
    result("null-length", getpeername(fd, &(struct sockaddr){0}, NULL));
    result("bad-name", getsockname(fd, (void *)8, &length));
    result("bad-length", getsockname(fd, &(struct sockaddr){0}, (void *)8));
    length = 0;
    result("null-name-no-room", getsockname(fd, NULL, &length));
    say("length", "%d", length);
    result("closed", getsockname(4000, &(struct sockaddr){0}, &length));
    int ends[2];
    if (pipe(ends)) fail("pipe");
    result("pipe", getpeername(ends[0], &(struct sockaddr){0}, &length));
}

static void phases(void) {
    int fd = tcp();
    both("fresh", fd);
    dial(fd, CLOSED);
    both("refused", fd);
    dial(fd, SCRIPT);
    both("connected", fd);
    tell(fd, "fin\nwait\n");
    waited("ended", fd, POLLRDHUP);
    both("ended", fd);
    shutdown(fd, SHUT_WR);
    pause_ms(A_MOMENT_MS);
    both("both-ended", fd);
    shutdown(fd, SHUT_RD);
    both("shut", fd);
}

static void own_end_first(void) {
    int fd = scripted("ms 1000\n");
    result("write-end", shutdown(fd, SHUT_WR));
    both("half", fd);
    fd = scripted("wait\n");
    result("read-end", shutdown(fd, SHUT_RD));
    both("deaf", fd);
    fd = scripted("wait\n");
    result("both-ends", shutdown(fd, SHUT_RDWR));
    pause_ms(A_MOMENT_MS);
    both("shut", fd);
}

static void reset(void) {
    int fd = scripted("reset\n");
    waited("poll", fd, POLLIN);
    both("reset", fd);
    received("recv", fd, 1, 0);
    both("seen", fd);
}

static void same_name(void) {
    int fd = connected(GREETING);
    struct address first = {.length = sizeof first.bytes}, second = {.length = sizeof second.bytes};
    getsockname(fd, &first.name, &first.length);
    int copy = dup(fd);
    close(fd);
    getsockname(copy, &second.name, &second.length);
    say("same", "%d", first.length == second.length && !memcmp(first.bytes, second.bytes, first.length));
}

const struct test NAME_CASES[] = {
    {"name.lengths", EACH, all_lengths},
    {"name.phases", EACH, phases},
    {"name.own-end", EACH, own_end_first},
    {"name.reset", EACH, reset},
    {"name.duplicate", EACH, same_name},
    {0},
};
